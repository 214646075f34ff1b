import { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, QemuFileOps } from '../../lib/contract/ops.ts';
import { type FaultyDirection, injected } from './faulty-direction.ts';

/** The reads of one table, with the faults of their direction. */
export class FaultyReader {
  readonly #ops: QemuFileOps;
  readonly #direction: FaultyDirection;
  readonly #reset: (error: QemuFileError) => void;
  /** What the next byte is XORed with. */
  #xor = 0;
  /** What was handed over and lies behind the next fault. */
  #kept: Uint8Array | undefined;
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
    if (direction.free <= 0) return this.#readBeyond(buffer, position);
    return this.#readOn(buffer, position);
  }

  /** Wakes what stalls; in order, gives back what was kept. */
  close(inOrder: boolean): void {
    this.#isClosed = true;
    this.#direction.cancel(closedError(), this);
    if (this.#kept === undefined || !inOrder) return;
    this.#ops.unread?.([this.#kept]);
    this.#kept = undefined;
  }

  /** Chunks, and behind them what was kept. */
  before(chunks: readonly Uint8Array[]): readonly Uint8Array[] {
    if (this.#kept === undefined) return chunks;
    const all = [...chunks, this.#kept];
    this.#kept = undefined;
    return all;
  }

  /** Lets all faults happen that come before the next byte, then reads it and others. */
  async #readBeyond(buffer: Uint8Array, position: number): Promise<number | Uint8Array> {
    const direction = this.#direction;
    for (let fault = direction.take(); fault !== undefined; fault = direction.take()) {
      if (fault.do === 'fail') throw direction.fail(fault.code ?? 'EIO', position);
      if (fault.do === 'reset') this.#reset(injected('ECONNRESET', 'getBuffer', position));
      if (fault.do === 'end') direction.hasEnded = true;
      if (fault.do === 'stall') await direction.stall(this, fault.ms);
      if (fault.do === 'corrupt') this.#xor ^= fault.xor ?? 255;
      // What is `short` was so when it stopped here.
      if (direction.failure !== undefined) throw direction.failure;
      if (direction.hasEnded) return 0;
      direction.takeModes();
    }
    return this.#readOn(buffer, position);
  }

  #readOn(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    const direction = this.#direction;
    if (direction.isIdle && this.#kept === undefined && this.#xor === 0) {
      return this.#read(buffer, position);
    }
    const most = Math.min(buffer.length, direction.free, direction.pieceSize);
    const answer = this.#read(buffer.subarray(0, most), position);
    const finish = (given: number | Uint8Array): MaybePromise<number | Uint8Array> => {
      if (direction.failure !== undefined) throw direction.failure;
      const finished = this.#finish(buffer, most, given);
      return direction.lateTurns === undefined ? finished : direction.held(finished);
    };
    if (typeof answer === 'number' || answer instanceof Uint8Array) return finish(answer);
    return answer.then(finish, (error: unknown) => {
      throw direction.failure ?? error;
    });
  }

  #read(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array> {
    const kept = this.#kept;
    this.#kept = undefined;
    return kept ?? this.#ops.getBuffer?.(buffer, position) ?? 0;
  }

  /** Counts what was read, keeps what lies behind the next fault, and changes what is to be changed. */
  #finish(buffer: Uint8Array, most: number, given: number | Uint8Array): number | Uint8Array {
    if (typeof given === 'number') {
      if (given <= 0) return given;
      this.#direction.moved += given;
      this.#corrupt(buffer);
      return given;
    }
    if (given.length > most) this.#kept = given.subarray(most);
    let chunk = given.subarray(0, most);
    this.#direction.moved += chunk.length;
    if (this.#xor !== 0 && chunk.length > 0) {
      // Whoever handed it over may look at it still, or at other parts of its memory.
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
  return new QemuFileError('ECANCELED', 'closed while it stalled', { operation: 'getBuffer' });
}
