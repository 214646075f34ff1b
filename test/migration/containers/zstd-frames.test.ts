import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ZstdFrames } from '../../../lib/migration/containers/zstd-frames.ts';
import { cutAt, hex } from '../../helpers/bytes.ts';

const MAGIC = '28b52ffd';

/** Frames by hand, after RFC 8878. */
const FRAMES: readonly [name: string, digits: string][] = [
  // Descriptor 0: a window descriptor, nothing else. One raw block of 2 bytes, the last.
  ['of one raw block', `${MAGIC} 00 58 110000 aabb`],
  // The block of 9 times 0xcc has one byte.
  ['of an RLE block and an empty raw block', `${MAGIC} 00 58 4a0000 cc 010000`],
  ['with a checksum', `${MAGIC} 04 58 090000 aa 01020304`],
  // Single segment: no window; content size in 1 byte.
  ['in a single segment', `${MAGIC} 20 02 110000 aabb`],
  ['with a content size in 2 bytes', `${MAGIC} 60 0000 090000 aa`],
  ['with a content size in 4 bytes', `${MAGIC} a0 01000000 090000 aa`],
  ['with a content size in 8 bytes, and a window', `${MAGIC} c0 58 0100000000000000 090000 aa`],
  ['with a dictionary id in 1 byte', `${MAGIC} 01 58 07 090000 aa`],
  ['with a dictionary id in 2 bytes', `${MAGIC} 02 58 0700 090000 aa`],
  ['with a dictionary id in 4 bytes', `${MAGIC} 03 58 07000000 090000 aa`],
  // A block of 256 bytes: its size has digits in the second byte of its header.
  ['with a larger block', `${MAGIC} 00 58 010800 ${'ee'.repeat(256)}`],
  ['to skip', '502a4d18 03000000 aabbcc'],
  ['to skip, empty', '5f2a4d18 00000000'],
];

describe('a zstd frame', () => {
  for (const [name, digits] of FRAMES) {
    test(`${name} is whole at its last byte, and not before`, () => {
      const frame = hex(digits);
      const frames = new ZstdFrames();
      assert.ok(frames.isWhole);
      for (const [at, byte] of [...frame, ...frame].entries()) {
        frames.push(Uint8Array.of(byte));
        assert.equal(frames.isWhole, (at + 1) % frame.length === 0, `${at + 1} bytes`);
      }
    });

    test(`${name} may be cut anywhere`, () => {
      const frame = hex(digits);
      for (let at = 1; at < frame.length; at++) {
        const frames = new ZstdFrames();
        for (const piece of cutAt(frame, [at])) {
          assert.equal(frames.isWhole, piece.byteOffset === frame.byteOffset);
          frames.push(piece);
        }
        assert.ok(frames.isWhole);
      }
    });
  }
});
