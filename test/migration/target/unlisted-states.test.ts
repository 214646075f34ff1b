import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { isUnlisted } from '../../../lib/migration/target/unlisted-states.ts';
import { defaultBinary, qemuVersion, requireQemu } from '../../qemu/harness/harness.ts';
import { findQemu10, requireQemu10 } from '../../qemu/harness/qemu10.ts';
import { GUESTS, unlistedStates } from '../../tables/unlisted-states.ts';

const QEMUS = [
  { binary: defaultBinary(), skip: requireQemu() },
  { binary: findQemu10() ?? '', skip: requireQemu10() },
];

describe('the table of states that -dump-vmstate leaves out', () => {
  for (const { binary, skip } of QEMUS) {
    const name =
      skip === false ? `QEMU ${/[\d.]+/.exec(qemuVersion(binary) ?? '')?.[0] ?? ''}` : binary;
    test(`has all that ${name} saves`, { skip }, async () => {
      for (const guest of GUESTS) {
        const names = await unlistedStates(binary, guest);
        assert.ok(names.includes('timer'), guest.join(' '));
        assert.deepEqual(
          names.filter((found) => !isUnlisted(found)),
          [],
          guest.join(' '),
        );
      }
    });
  }

  test('does not have a device that is listed', () => assert.equal(isUnlisted('e1000'), false));
});
