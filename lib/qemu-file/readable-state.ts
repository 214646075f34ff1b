import type { Duplex } from 'node:stream';

/*
 * The only use of readable-stream's private state. Written for readable-stream 4.8, whose `BufferList` is
 * a linked list with `shift()`; package.json therefore accepts patch releases only. Typed gets and `read()`
 * take from one look-ahead, and a stream offers no public way to take back chunks that were pushed and not
 * read: `read()` would emit 'data'. test/qemu-file/lifecycle.test.ts fails if the state changes its form.
 */

/** The part of readable-stream's state that is used here. */
interface ReadableState {
  length: number;
  decoder: object | null;
  buffer: { shift(): Uint8Array };
  needReadable: boolean;
  emittedReadable: boolean;
}

/**
 * Take back the chunks that a stream holds for `read()`, so that typed gets return those bytes first.
 *
 * @param stream - A stream of readable-stream 4.8.
 * @returns The chunks, in order; none after `setEncoding`, because the stream then holds text.
 */
export function takeBackDelivered(stream: Duplex): Uint8Array[] {
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
