// Streams with one changed byte: a change outside of contents must be noticed.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { readHostile } from '../helpers/streams/hostile.ts';
import { smallStreams } from '../helpers/streams/small-streams.ts';
import { workedExample } from '../helpers/streams/stream-bytes.ts';

/** Changes of a byte: each bit, and all of them. */
const FLIPS = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff] as const;

/** In long runs of contents not every place is tried. */
const STRIDE = 53;

/** With a number of runs of one's own, all bits of all bytes are tried; without, all bits of some. */
const isThorough = process.env.FUZZ_RUNS !== undefined;
const EVERY_BIT: ReadonlySet<string> = new Set(['precopy', 'old']);

/** Changes of a byte in which some bits are contents. */
function flipsOf(name: string, at: number, mask: number): readonly number[] {
  if (mask === 0xff) return at % STRIDE === 0 ? [0xff] : [];
  if (isThorough || mask !== 0 || EVERY_BIT.has(name)) return FLIPS;
  return [1 << (at % 8), 1 << ((at + 3) % 8), 0xff];
}

function changed(bytes: Uint8Array, at: number, flip: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] as number) ^ flip;
  return copy;
}

describe('a byte that is another', () => {
  // Which bits are contents stands with each stream.
  for (const { name, main, channels } of smallStreams()) {
    // It is that of zlib over again, and large.
    if (name === 'multifd none' && !isThorough) continue;
    test(`is a fault in all framing, and harmless in contents: ${name}`, async () => {
      const parts = [main, ...channels];
      for (const [which, { bytes, free }] of parts.entries()) {
        for (const at of bytes.keys()) {
          const mask = free[at] as number;
          for (const flip of flipsOf(name, at, mask)) {
            const [first, ...others] = parts.map((part, index) =>
              index === which ? changed(part.bytes, at, flip) : part.bytes,
            );
            const faults = await readHostile({ main: first as Buffer, channels: others });
            const isFramed = (flip & ~mask) !== 0;
            // A live section of another name may be a vendor's: it is skipped, with a warning.
            if (!isFramed || isInLiveName(bytes, at)) continue;
            const what = `byte ${at} of channel ${which}, changed by 0x${flip.toString(16)}`;
            assert.equal(faults.length, 1, what);
          }
        }
      }
    });
  }

  test('is a fault in the worked example, but where it is contents', async () => {
    const contents: [from: number, to: number, what: string][] = [
      [0x0d, 0x1a, 'name of the machine'],
      [0x74, 0x1074, 'page'],
      [0x107c, 0x107d, 'fill byte of a page, a warning'],
      [0x10a0, 0x10a1, 'fill byte of a page, a warning'],
      [0x10c0, 0x10ca, 'values of the device'],
      [0x10da, 0x10db, 'value of the device'],
      [0x10e6, 0x1238, 'text of the description'],
    ];
    // The place of a page in its block of two pages.
    const inBlock: ReadonlyMap<number, number> = new Map([
      [0x65 + 6, 0x10],
      [0x1074 + 6, 0x10],
    ]);
    const bytes = workedExample();
    // With a PART instead of its END it is a background snapshot, which is a warning.
    const end = 0x108a;
    assert.equal(bytes[end], 3);
    for (const at of bytes.keys()) {
      if (contents.some(([from, to]) => at >= from && at < to)) continue;
      for (const flip of FLIPS) {
        if (inBlock.get(at) === flip || (at === end && flip === 1)) continue;
        const faults = await readHostile({ main: changed(bytes, at, flip) });
        assert.equal(faults.length, 1, `byte ${at} changed by 0x${flip.toString(16)}`);
      }
    }
  });
});

/** Return whether a byte belongs to the name, or its length, of a live section other than `ram`. */
function isInLiveName(bytes: Buffer, at: number): boolean {
  const names = ['block', 'dirty-bitmap', 'spapr/htab', 's390-storage_attributes', 'vfio'];
  return names.some((name) => {
    const start = bytes.lastIndexOf(name, at + 1);
    return start >= 0 && at < start + name.length;
  });
}
