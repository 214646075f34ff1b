// Streams that end too early: at every byte, in every way of reading them.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { findVmDescription } from '../../lib/migration/devices/find-vm-description.ts';
import { MigrationStreamError } from '../../lib/migration/format/stream-error.ts';
import { type VerifyOptions, verifyStream } from '../../lib/migration/verify/verify.ts';
import { piecesOf } from '../helpers/bytes.ts';
import { chunksOf } from '../helpers/reading/read-stream.ts';
import { readHostile } from '../helpers/streams/hostile.ts';
import { type Part, type SmallStream, smallStreams } from '../helpers/streams/small-streams.ts';
import {
  be32,
  be64,
  blockList,
  command,
  configuration,
  end,
  eos,
  FLAG,
  header,
  page,
  piece,
  section,
  stream,
  workedExample,
  zeroPage,
} from '../helpers/streams/stream-bytes.ts';

/** In long runs of contents not every place is tried. */
const STRIDE = 89;

/** Where to cut: everywhere but inside of contents, and there now and then. */
function placesIn({ bytes, free }: Part): number[] {
  const isInside = (at: number): boolean => free[at] === 0xff && free[at - 1] === 0xff;
  return Array.from(bytes.keys()).filter((at) => !isInside(at) || at % STRIDE === 0);
}

/** Reports about truncated streams, by the place. */
function assertCut(faults: MigrationStreamError[], place: string): void {
  assert.equal(faults.length, 1, `cut at ${place}: ${faults.map(String).join(', ')}`);
}

/** A cut can leave device sections without a known end, and nothing of a whole channel. */
function assertKind({ fault, reason, message }: MigrationStreamError, place: string): void {
  if (fault === 'truncated') return;
  const isUntold =
    fault === 'unsupported' &&
    /^(the end of the section cannot be found|the device sections cannot be read)/.test(reason);
  const isGone = fault === 'corrupt' && /add the missing ones$/.test(reason);
  assert.ok(isUntold || isGone, `cut at ${place}: ${message}`);
}

function partsOf({ main, channels }: SmallStream): Part[] {
  return [main, ...channels];
}

function cutStream(small: SmallStream, which: number, at: number): [Uint8Array, Uint8Array[]] {
  const [main, ...channels] = partsOf(small).map(({ bytes }, index) =>
    index === which ? bytes.subarray(0, at) : bytes,
  );
  return [main as Uint8Array, channels];
}

describe('a small stream that is cut off', () => {
  for (const small of smallStreams()) {
    const label = ['main channel', 'first channel', 'second channel'];
    test(`at any byte is truncated, reported once: ${small.name}`, async () => {
      for (const [which, part] of partsOf(small).entries()) {
        for (const at of placesIn(part)) {
          const place = `${at} of the ${label[which]}`;
          const [main, channels] = cutStream(small, which, at);
          const faults = await readHostile({ main, channels });
          assertCut(faults, place);
          const [fault] = faults as [MigrationStreamError];
          assertKind(fault, place);
          if (which === 0 && channels.length === 0) assert.ok((fault.position ?? 0) <= at);
        }
      }
    });

    test(`at any byte is as truncated bytewise, and with all its faults: ${small.name}`, async () => {
      const { bytes } = small.main;
      for (const at of placesIn(small.main).filter((place) => place < 256 || place % 7 === 0)) {
        const [main, channels] = cutStream(small, 0, at);
        const verify = (options: VerifyOptions, chunks: readonly Uint8Array[]) =>
          verifyStream(chunksOf(chunks), {
            channels: channels.map((channel) => chunksOf([channel])),
            ...options,
          });
        const whole = await verify({}, at === 0 ? [] : [main]);
        const bytewise = await verify({}, piecesOf(main, 1));
        assert.deepEqual(bytewise.faults.map(String), whole.faults.map(String), `cut at ${at}`);
        const { faults } = await verify({ all: true }, at === 0 ? [] : [main]);
        assert.ok(faults.length > 0, `cut at ${at} of ${bytes.length}`);
      }
    });
  }

  const worked = workedExample();
  const known = findVmDescription(worked, 0) ?? undefined;

  test('is as truncated if its description was looked up beforehand', async () => {
    for (let at = 0; at < worked.length; at++) {
      // The page of 4 KiB.
      if (at > 0x80 && at < 0x1070 && at % STRIDE !== 0) continue;
      const chunks = at === 0 ? [] : [worked.subarray(0, at)];
      const { faults } = await verifyStream(chunksOf(chunks), { description: known });
      assertCut(faults, String(at));
      const [{ fault, position = -1 }] = faults as [MigrationStreamError];
      assert.equal(fault, 'truncated', `cut at ${at}`);
      assert.ok(position >= 0 && position <= at, `cut at ${at}: ${position}`);
    }
  });

  for (const [small, name] of smallStreams().map((each) => [each, each.name] as const)) {
    const description = findVmDescription(small.main.bytes, 0) ?? undefined;
    if (description === undefined) continue;
    test(`is as truncated if its description is known: ${name}`, async () => {
      for (const at of placesIn(small.main)) {
        const [main, channels] = cutStream(small, 0, at);
        const faults = await readHostile({ main, channels }, undefined, { description });
        // A stream without a configuration may end right after its end mark: then its RAM is complete, and
        // a description that was found elsewhere is not taken for its own.
        const isComplete = name === 'old' && at === description.offset;
        if (isComplete) assert.deepEqual(faults.map(faultOf), ['unsupported']);
        else assertCut(faults, String(at));
      }
    });
  }
});

function faultOf(error: unknown): string | undefined {
  return error instanceof MigrationStreamError ? error.fault : undefined;
}

describe('the end of the input is reported with its place', () => {
  const PC = configuration('pc-i440fx-7.2');
  const list = blockList(['a', 8192]);
  const start = section('start', 2, ['ram', 0, 4], list, eos);
  const records = stream(page('a', 0, Buffer.alloc(4096, 1)), zeroPage(null, 4096));
  const whole = stream(header, PC, start, piece('end', 2, records, eos), end);
  const at = header.length + PC.length + start.length;

  const cuts: [what: string, length: number, reason: RegExp][] = [
    ['the header', 5, /inside the header: 5 of 8/],
    ['the configuration', 11, /inside the configuration: 2 of 4/],
    ['the machine name', 20, /inside the machine name: 7 of 13/],
    ['the place of an item', at, /the stream ends without its end mark/],
    ['a section header', 29, /inside the header of a section: 2 of 4/],
    ['a section name', 33, /inside the name of a section: 2 of 4/],
    ['a RAM word', at + 8, /inside a RAM record: 3 of 8/],
    ["a block's name", at + 14, /inside a RAM block's name: 1 of 2/],
    ['a page', at + 100, /inside a page of "a": 85 of 4096/],
    ['the fill byte of zeros', at + 15 + 4096 + 8, /inside the byte of a zero page: 0 of 1/],
    ['the records', at + 15 + 4096 + 9, /^the stream ends between two RAM records$/],
    ['a footer', whole.length - 4, /inside a section footer: 2 of 5/],
  ];
  for (const [what, length, reason] of cuts) {
    test(`in ${what}`, async () => {
      const { faults } = await verifyStream(chunksOf([whole.subarray(0, length)]));
      assert.match(faults[0]?.reason ?? '', reason);
      assert.equal(faults[0]?.fault, 'truncated');
    });
  }

  test('in a page, which is not handed over', async () => {
    const seen: number[] = [];
    await verifyStream(chunksOf([whole.subarray(0, at + 100)]), {
      pages: { page: (_, offset) => void seen.push(offset) },
    });
    assert.deepEqual(seen, []);
  });

  test('in a package, with how much of it there is', async () => {
    const bytes = stream(header, PC, command(7, be32(500)), command(1), command(2, be32(3)));
    const { faults } = await verifyStream(chunksOf([bytes]));
    assert.match(faults[0]?.reason ?? '', /inside a postcopy package: 14 of 500 bytes/);
  });

  test('after the end mark of a stream whose machine has a description', async () => {
    const { faults } = await verifyStream(chunksOf([whole]));
    assert.match(faults[0]?.reason ?? '', /the VM description is missing/);
    assert.equal(faults[0]?.position, whole.length);
    assert.deepEqual(
      (await verifyStream(chunksOf([whole]), { withoutDescription: true })).faults,
      [],
    );
  });

  test('of a channel of postcopy pages, inside of a record', async () => {
    const main = stream(
      header,
      PC,
      command(1),
      command(3, be64(4096), be64(4096)),
      start,
      command(4),
      command(5),
      piece('end', 2, eos),
      end,
    );
    const side = stream(page('a', 0, Buffer.alloc(4096, 1)), zeroPage(null, 4096), be64(FLAG.eos));
    // It may be closed without an end mark.
    const wholes = [0, 4106, 4115, side.length];
    for (let length = 0; length <= side.length; length++) {
      if (length > 64 && length < 4090 && length % STRIDE !== 0) continue;
      const faults = await readHostile({ main, channels: [side.subarray(0, length)] });
      const kinds = faults.map(({ fault }) => fault);
      assert.deepEqual(kinds, wholes.includes(length) ? [] : ['truncated'], `cut at ${length}`);
    }
  });
});
