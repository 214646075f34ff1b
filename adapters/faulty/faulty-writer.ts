import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, QemuFileOps } from '../../lib/contract/ops.ts';
import { totalLength } from '../../lib/util/total-length.ts';
import type { ByteFault } from './fault-plan.ts';
import { type FaultyDirection, injected } from './faulty-direction.ts';

/** The writes of one backend, with the faults of their direction. */
export class FaultyWriter {
  /** Resolves when the write in the background has succeeded or failed; undefined while there is none. */
  background: Promise<void> | undefined;
  /** The error of a write in the background. */
  backgroundError: QemuFileError | undefined;
  readonly #ops: QemuFileOps;
  readonly #direction: FaultyDirection;
  readonly #reset: (error: QemuFileError) => void;
  /** True while a batch is written in parts. */
  #isPartWritten = false;
  #isClosed = false;

  constructor(ops: QemuFileOps, direction: FaultyDirection, reset: (error: QemuFileError) => void) {
    this.#ops = ops;
    this.#direction = direction;
    this.#reset = reset;
  }

  writev(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    const direction = this.#direction;
    if (this.#isClosed) return this.#write(buffers, position);
    if (direction.failure !== undefined) throw direction.failure;
    direction.takeModes();
    if (direction.isEarly) return this.#writeEarly(buffers, position);
    if (direction.isIdle) return this.#write(buffers, position);
    const total = totalLength(buffers);
    const isWhole = total <= direction.maxCallBytes && total <= direction.bytesToFault;
    if (!isWhole || direction.lateTurns !== undefined) return this.#inParts(buffers, position);
    const count = (moved: number): number => {
      if (direction.failure !== undefined) throw direction.failure;
      direction.moved += Math.max(0, moved);
      return moved;
    };
    const result = this.#write(buffers, position);
    if (typeof result === 'number') return count(result);
    return result.then(count, (error: unknown) => {
      throw direction.failure ?? error;
    });
  }

  /**
   * End stalled writes.
   *
   * @returns The error to close with if a batch is written only in part.
   */
  close(): QemuFileError | undefined {
    this.#isClosed = true;
    const error = new QemuFileError('ECANCELED', 'closed before the last batch was written', {
      operation: 'writevBuffer',
    });
    this.#direction.cancel(error, this);
    return this.#isPartWritten && this.background === undefined ? error : undefined;
  }

  #write(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    return this.#ops.writevBuffer?.(buffers, position) ?? 0;
  }

  #writeEarly(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    if (this.backgroundError !== undefined) throw this.backgroundError;
    if (this.background === undefined) return this.#writeInBackground(buffers, position);
    return this.background.then(() => this.#writeEarly(buffers, position));
  }

  #writeInBackground(buffers: readonly Uint8Array[], position: number): number {
    // The caller may reuse its memory as soon as this call has returned.
    const copy = Buffer.concat(buffers);
    const onWritten = (count: number): void => {
      if (count !== copy.length) this.backgroundError = injected('EIO', 'writevBuffer', position);
    };
    const onError = (error: unknown): void => {
      this.backgroundError = toQemuFileError(error, { operation: 'writevBuffer', position });
    };
    this.background = this.#inParts([copy], position)
      .then(onWritten, onError)
      .then(() => {
        this.background = undefined;
      });
    return copy.length;
  }

  async #inParts(buffers: readonly Uint8Array[], position: number): Promise<number> {
    const direction = this.#direction;
    const total = totalLength(buffers);
    let rest = buffers;
    let done = 0;
    this.#isPartWritten = true;
    try {
      while (done < total) {
        direction.takeModes();
        const fault = direction.take();
        if (fault?.do === 'short') return done;
        if (fault?.do === 'corrupt') rest = corrupted(rest, fault.xor ?? 255);
        if (fault !== undefined) {
          await this.#apply(fault, position + done);
          if (direction.failure !== undefined) throw direction.failure;
          continue;
        }
        const size = Math.min(total - done, direction.bytesToFault, direction.maxCallBytes);
        const [part, after] = splitAt(rest, size);
        const count = await this.#write(part, position + done);
        if (direction.failure !== undefined) throw direction.failure;
        if (count < 0) return count;
        direction.moved += count;
        done += count;
        if (count !== size) return done;
        rest = after;
      }
      return await direction.delayed(total);
    } catch (error) {
      throw direction.failure ?? error;
    } finally {
      this.#isPartWritten = false;
    }
  }

  async #apply(fault: ByteFault, position: number): Promise<void> {
    const direction = this.#direction;
    if (fault.do === 'fail') throw direction.fail(fault.code ?? 'EIO', position);
    if (fault.do === 'reset') this.#reset(injected('ECONNRESET', 'writevBuffer', position));
    if (fault.do === 'stall') await direction.stall(this, fault.ms);
    if (fault.do !== 'end') return;
    const error = direction.fail('EPIPE', position);
    await this.#ops.shutDown?.(false, true);
    throw error;
  }
}

/** Split a list of buffers in two, the first with `size` bytes. Copies no bytes. */
function splitAt(buffers: readonly Uint8Array[], size: number): [Uint8Array[], Uint8Array[]] {
  const [part, after]: [Uint8Array[], Uint8Array[]] = [[], []];
  let left = size;
  for (const buffer of buffers) {
    const here = Math.min(left, buffer.length);
    if (here > 0) part.push(buffer.subarray(0, here));
    if (here < buffer.length) after.push(buffer.subarray(here));
    left -= here;
  }
  return [part, after];
}

/** Return the buffers with their first byte changed, in a copy of it. */
function corrupted(buffers: readonly Uint8Array[], xor: number): Uint8Array[] {
  const [[first = new Uint8Array(0)], rest] = splitAt(buffers, 1);
  return [Uint8Array.of((first[0] ?? 0) ^ xor), ...rest];
}
