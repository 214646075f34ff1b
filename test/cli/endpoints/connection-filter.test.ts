// Which first bytes a listening command takes for a migration.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { classifyMigrationStart } from '../../../lib/cli/endpoints/connection-filter.ts';
import { recordings, unpack } from '../../fixtures/recording.ts';
import { hex } from '../../helpers/bytes.ts';

/** The verdicts on the first byte alone, the first two, and so on. */
function verdicts(bytes: Buffer): string[] {
  return Array.from(bytes, (_byte, at) => classifyMigrationStart(bytes.subarray(0, at + 1)));
}

/** Starts that are undecided for some bytes, and then accepted with any continuation. */
function assertWelcome(bytes: Buffer): void {
  const [...all] = verdicts(bytes.subarray(0, 32));
  const from = all.indexOf('accept');
  assert.ok(from >= 0, all.join());
  assert.deepEqual(all, [
    ...Array.from({ length: from }, () => 'more'),
    ...Array.from({ length: all.length - from }, () => 'accept'),
  ]);
}

describe('welcome are', () => {
  for (const { name, files } of recordings()) {
    for (const file of files) {
      if (file.kind !== 'main' && file.kind !== 'channel' && file.kind !== 'image') continue;
      if (file.streamAt !== undefined) continue;
      test(`the first bytes of the ${file.kind} of ${name}, as soon as they are distinctive`, () => {
        assertWelcome(unpack(file));
      });
    }
  }

  for (const [what, digits] of [
    ['gzip', '1f8b 0800 0000'],
    ['zstd', '28b52ffd 0458'],
    ['xz', 'fd377a58 5a00 0004'],
    ['a libvirt image', '4c696276 69727451 656d7564 53617665 0200'],
    ['postcopy that is resumed: RECV_BITMAP', '08 000a 0007 06 70632e72616d'],
  ] as const) {
    test(what, () => assertWelcome(hex(digits)));
  }
});

describe('not welcome are', () => {
  for (const [what, digits, from] of [
    ['a request of HTTP', '47455420 2f20', 0],
    ['a greeting of SSH', '5353482d 322e30', 0],
    ['zeros', '00000000 00000000', 0],
    ['what only begins as a stream does', '51455600 00000003', 3],
    ['a TLS handshake', '160301 0200 010001', 1],
    ['an ELF file', '7f454c46 0201', 3],
    ['a command that there is none of', '08 00ff 0000', 2],
    ['a RAM word in place of a command', '08 0100 0000', 1],
  ] as const) {
    test(what, () => {
      const bytes = hex(digits);
      assert.deepEqual(verdicts(bytes), [
        ...Array.from({ length: from }, () => 'more'),
        ...Array.from({ length: bytes.length - from }, () => 'reject'),
      ]);
    });
  }
});
