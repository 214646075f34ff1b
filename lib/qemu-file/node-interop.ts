import { Duplex, PassThrough, pipeline } from 'node:stream';
import type { ReadableStream, WritableStream } from 'node:stream/web';
import type { QemuFile } from './qemu-file.ts';

/*
 * A QemuFile is a stream of readable-stream, which Node's own helpers take and Node's own classes do
 * not know: `instanceof` is false, and readable-stream's `toWeb` throws. This is what works instead.
 */

/**
 * Gives a file as a pair of web streams.
 *
 * @param file - A file nobody else reads from or writes to.
 * @returns `readable` and `writable`; a half the file does not have is closed from the start.
 */
export function toWeb(file: QemuFile): { readable: ReadableStream; writable: WritableStream } {
  return Duplex.toWeb(file);
}

/**
 * Gives a Duplex of `node:stream` in front of a file, for code that tests with `instanceof`. Bytes pass
 * one more stream; use the file itself wherever you can.
 *
 * @param file - A file nobody else reads from or writes to.
 */
export function asNodeDuplex(file: QemuFile): Duplex {
  const incoming = new PassThrough();
  const outgoing = new PassThrough();
  const outer = Duplex.from({
    readable: file.readable ? incoming : undefined,
    writable: file.writable ? outgoing : undefined,
  } as { readable: PassThrough; writable: PassThrough });
  const onEnd = (error: Error | null | undefined): void => {
    if (error) outer.destroy(file.error ?? error);
  };
  if (file.readable) pipeline(file, incoming, onEnd);
  if (file.writable) pipeline(outgoing, file, onEnd);
  return outer;
}
