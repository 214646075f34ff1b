import { Duplex } from 'node:stream';
import type { ReadableStream, WritableStream } from 'node:stream/web';
import { noop } from '../util/noop.ts';
import { checkFile } from './check-file.ts';
import type { QemuFile } from './qemu-file.ts';

/*
 * A QemuFile is a stream of readable-stream. Node's own helpers accept it, but `instanceof` Node's classes is
 * false, and readable-stream's `toWeb` throws. The functions here serve those two cases.
 */

/**
 * Return a file as a pair of web streams.
 *
 * @param file - A file that has no other reader or writer.
 * @returns `readable` and `writable`; a half that the file does not have is closed from the start.
 */
export function toWeb(file: QemuFile): { readable: ReadableStream; writable: WritableStream } {
  checkFile('toWeb', 'file', file);
  return Duplex.toWeb(file);
}

/**
 * Return a Duplex of `node:stream` in front of a file, for code that tests with `instanceof`. Bytes pass
 * one more stream, so use the file itself wherever you can.
 *
 * The two close together: `destroy()` of either destroys the other, and an error of the file is an error of
 * the Duplex. Like the file, the Duplex does not end the process when its 'error' has no listener.
 *
 * @param file - A file that has no other reader or writer.
 */
export function asNodeDuplex(file: QemuFile): Duplex {
  checkFile('asNodeDuplex', 'file', file);
  return new NodeDuplex(file);
}

type Callback = (error?: Error | null) => void;

class NodeDuplex extends Duplex {
  readonly #file: QemuFile;

  constructor(file: QemuFile) {
    // Options that @types/node does not declare.
    const halves = { readable: file.readable, writable: file.writable };
    super({ ...halves, allowHalfOpen: true });
    this.#file = file;
    this.on('error', noop);
    if (file.readable) {
      file.on('data', this.#onData);
      file.pause();
      file.once('end', () => this.push(null));
    }
    const close = (): void => void this.destroy(file.error ?? undefined);
    file.once('error', close);
    file.once('close', close);
    if (file.destroyed) process.nextTick(close);
  }

  override _read(): void {
    this.#file.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: Callback): void {
    if (this.#file.write(chunk)) callback();
    else this.#file.once('drain', callback);
  }

  override _final(callback: Callback): void {
    this.#file.end(callback);
  }

  override _destroy(error: Error | null, callback: Callback): void {
    const file = this.#file;
    file.destroy(error ?? undefined);
    if (file.closed) callback(error);
    else file.once('close', () => callback(error ?? file.error));
  }

  readonly #onData = (chunk: Buffer): void => {
    if (!this.push(chunk)) this.#file.pause();
  };
}
