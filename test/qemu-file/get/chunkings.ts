// What the tests of the get half share: the ways of a backend, and every chunking of its bytes.
import { cutAt, piecesOf } from '../../helpers/bytes.ts';
import type { SourceOptions } from '../../helpers/transports/backends.ts';

/** Answers at once or later, into the buffer of the file or with a chunk of its own. */
export const WAYS: readonly SourceOptions[] = [
  { answering: 'sync', hands: false },
  { answering: 'sync', hands: true },
  { answering: 'async', hands: false },
  { answering: 'async', hands: true },
];

/** Return every way to cut bytes in two, bytes one by one, and whole. */
export function chunkings(bytes: Uint8Array): Uint8Array[][] {
  const all = [[bytes], piecesOf(bytes, 1)];
  for (let at = 1; at < bytes.length; at += 1) all.push(cutAt(bytes, [at]));
  return all;
}

/** Return a way in words, for the name of a test. */
export function describeWay(way: SourceOptions): string {
  return `${way.answering} answers, ${way.hands === true ? 'handed-over chunks' : 'filled buffers'}`;
}
