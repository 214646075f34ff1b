import { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, QemuFileOps } from '../../lib/contract/ops.ts';
import { type FaultyDirection, injected } from './faulty-direction.ts';

/** The reads of one backend, with the faults of their direction. */
export class FaultyReader {
  readonly #ops: QemuFileOps;
  readonly #direction: FaultyDirection;
  readonly #reset: (error: QemuFileError) => void;
  /** The value that the next byte is XORed with. */
  #xor = 0;
  /** The part of the backend's chunk that lies after the next fault. */
  #rest: Uint8Array | undefined;
  #isClosed = false;

  constructor(ops: QemuFileOps, direction: FaultyDirection, reset: (error: QemuFileError) => void) {
    this.#ops = ops;
    this.#direction = direction;
    this.#reset = reset;
  }

  read(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    const direction = this.#direction;
    if (this.#isClosed) return this.#read(buffer, position);
    if (direction.failure !== undefined) throw direction.failure;
    if (direction.hasEnded) return 0;
    direction.takeModes();
    if (direction.bytesToFault <= 0) return this.#applyFaults(buffer, position);
    return this.#readOn(buffer, position);
  }

  /** End stalled reads; after a success, return the unread part of a chunk to the backend. */
  close(isSuccess: boolean): void {
    this.#isClosed = true;
    this.#direction.cancel(closedError(), this);
    if (this.#rest === undefined || !isSuccess) return;
    this.#ops.unread?.([this.#rest]);
    this.#rest = undefined;
  }

  /** Return unread chunks, followed by the unread part of the backend's last chunk. */
  withRest(chunks: readonly Uint8Array[]): readonly Uint8Array[] {
    if (this.#rest === undefined) return chunks;
    const all = [...chunks, this.#rest];
    this.#rest = undefined;
    return all;
  }

  /** Apply the faults at the current byte, then read. */
  async #applyFaults(buffer: Uint8Array, position: number): Promise<number | Uint8Array> {
    const direction = this.#direction;
    for (let fault = direction.take(); fault !== undefined; fault = direction.take()) {
      if (fault.do === 'fail') throw direction.fail(fault.code ?? 'EIO', position);
      if (fault.do === 'reset') this.#reset(injected('ECONNRESET', 'getBuffer', position));
      if (fault.do === 'end') direction.hasEnded = true;
      if (fault.do === 'stall') await direction.stall(this, fault.ms);
      if (fault.do === 'corrupt') this.#xor ^= fault.xor ?? 255;
      // A `short` fault has already had its effect: the previous read ended here.
      if (direction.failure !== undefined) throw direction.failure;
      if (direction.hasEnded) return 0;
      direction.takeModes();
    }
    return this.#readOn(buffer, position);
  }

  #readOn(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    const direction = this.#direction;
    if (direction.isIdle && this.#rest === undefined && this.#xor === 0) {
      return this.#read(buffer, position);
    }
    const maxBytes = Math.min(buffer.length, direction.bytesToFault, direction.maxCallBytes);
    const result = this.#read(buffer.subarray(0, maxBytes), position);
    const finish = (read: number | Uint8Array): MaybePromise<number | Uint8Array> => {
      if (direction.failure !== undefined) throw direction.failure;
      const finished = this.#finish(buffer, maxBytes, read);
      return direction.lateTurns === undefined ? finished : direction.delayed(finished);
    };
    if (typeof result === 'number' || result instanceof Uint8Array) return finish(result);
    return result.then(finish, (error: unknown) => {
      throw direction.failure ?? error;
    });
  }

  #read(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    const rest = this.#rest;
    this.#rest = undefined;
    return rest ?? this.#ops.getBuffer?.(buffer, position) ?? 0;
  }

  /** Count the bytes read, keep those after the next fault, and apply a `corrupt` fault. */
  #finish(buffer: Uint8Array, maxBytes: number, read: number | Uint8Array): number | Uint8Array {
    if (typeof read === 'number') {
      if (read <= 0) return read;
      this.#direction.moved += read;
      this.#corrupt(buffer);
      return read;
    }
    if (read.length > maxBytes) this.#rest = read.subarray(maxBytes);
    let chunk = read.subarray(0, maxBytes);
    this.#direction.moved += chunk.length;
    if (this.#xor !== 0 && chunk.length > 0) {
      // The backend may still use the chunk or other parts of its memory.
      chunk = Uint8Array.from(chunk);
      this.#corrupt(chunk);
    }
    return chunk;
  }

  #corrupt(bytes: Uint8Array): void {
    bytes[0] = (bytes[0] ?? 0) ^ this.#xor;
    this.#xor = 0;
  }
}

function closedError(): QemuFileError {
  return new QemuFileError('ECANCELED', 'closed during a stall', { operation: 'getBuffer' });
}
