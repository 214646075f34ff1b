import type { Duplex } from 'node:stream';
import { Duplex as ReadableStreamDuplex } from 'readable-stream';

/**
 * The class that `QemuFile` extends: readable-stream's `Duplex`, typed as Node's own, so that our
 * declarations need nothing but `@types/node`. Node's `pipeline`, `finished`, `compose` and `toWeb`
 * take it; `instanceof` Node's `Duplex` is false, as for every stream of readable-stream.
 */
export const StreamBase: typeof Duplex = ReadableStreamDuplex as unknown as typeof Duplex;

/** What readable-stream keeps per readable half, as far as `reclaim` needs it. */
interface ReadableState {
  length: number;
  decoder: object | null;
  buffer: { shift(): Uint8Array };
  needReadable: boolean;
  emittedReadable: boolean;
}

/**
 * Takes back what a stream holds for `read()`, so that typed gets see those bytes first. There is no
 * public way to do it without emitting `'data'`; test/streams.test.ts fails should readable-stream change.
 *
 * @param stream - A stream of readable-stream 4.
 * @returns The chunks, in order; none after `setEncoding`, for then it holds text.
 */
export function reclaim(stream: Duplex): Uint8Array[] {
  const state = (stream as unknown as { _readableState: ReadableState })._readableState;
  const chunks: Uint8Array[] = [];
  if (state.decoder !== null) return chunks;
  while (state.length > 0) {
    const chunk = state.buffer.shift();
    state.length -= chunk.length;
    chunks.push(chunk);
  }
  state.needReadable = true;
  state.emittedReadable = false;
  return chunks;
}
