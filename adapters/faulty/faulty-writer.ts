import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, QemuFileOps } from '../../lib/contract/ops.ts';
import type { ByteFault } from './fault-plan.ts';
import { type FaultyDirection, injected } from './faulty-direction.ts';

/** The writes of one table, with the faults of their direction. */
export class FaultyWriter {
  /** Resolves once what was answered early is done, in whatever way. */
  behind: Promise<void> | undefined;
  /** What that failed with. */
  failedBehind: QemuFileError | undefined;
  readonly #ops: QemuFileOps;
  readonly #direction: FaultyDirection;
  readonly #reset: (error: QemuFileError) => void;
  /** A batch is written in parts, and not all of it is there. */
  #isInside = false;
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
    const total = lengthOf(buffers);
    const isWhole = total <= direction.pieceSize && total <= direction.free;
    if (!isWhole || direction.lateTurns !== undefined) return this.#inParts(buffers, position);
    const count = (moved: number): number => {
      if (direction.failure !== undefined) throw direction.failure;
      direction.moved += Math.max(0, moved);
      return moved;
    };
    const answer = this.#write(buffers, position);
    if (typeof answer === 'number') return count(answer);
    return answer.then(count, (error: unknown) => {
      throw direction.failure ?? error;
    });
  }

  /**
   * Wakes what stalls.
   *
   * @returns What to close with where that leaves half a batch.
   */
  close(): QemuFileError | undefined {
    this.#isClosed = true;
    const error = new QemuFileError('ECANCELED', 'closed in the middle of a batch', {
      operation: 'writevBuffer',
    });
    this.#direction.cancel(error, this);
    return this.#isInside && this.behind === undefined ? error : undefined;
  }

  #write(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    return this.#ops.writevBuffer?.(buffers, position) ?? 0;
  }

  #writeEarly(buffers: readonly Uint8Array[], position: number): MaybePromise<number> {
    if (this.failedBehind !== undefined) throw this.failedBehind;
    if (this.behind === undefined) return this.#putBehind(buffers, position);
    return this.behind.then(() => this.#writeEarly(buffers, position));
  }

  #putBehind(buffers: readonly Uint8Array[], position: number): number {
    // The caller may use its memory again as soon as it has the answer.
    const copy = Buffer.concat(buffers);
    const done = (count: number): void => {
      if (count !== copy.length) this.failedBehind = injected('EIO', 'writevBuffer', position);
    };
    const failed = (error: unknown): void => {
      this.failedBehind = toQemuFileError(error, { operation: 'writevBuffer', position });
    };
    this.behind = this.#inParts([copy], position)
      .then(done, failed)
      .then(() => {
        this.behind = undefined;
      });
    return copy.length;
  }

  async #inParts(buffers: readonly Uint8Array[], position: number): Promise<number> {
    const direction = this.#direction;
    const total = lengthOf(buffers);
    let rest = buffers;
    let done = 0;
    this.#isInside = true;
    try {
      while (done < total) {
        direction.takeModes();
        const fault = direction.take();
        if (fault?.do === 'short') return done;
        if (fault?.do === 'corrupt') rest = corrupted(rest, fault.xor ?? 255);
        if (fault !== undefined) {
          await this.#suffer(fault, position + done);
          if (direction.failure !== undefined) throw direction.failure;
          continue;
        }
        const size = Math.min(total - done, direction.free, direction.pieceSize);
        const [part, after] = splitAt(rest, size);
        const count = await this.#write(part, position + done);
        if (direction.failure !== undefined) throw direction.failure;
        if (count < 0) return count;
        direction.moved += count;
        done += count;
        if (count !== size) return done;
        rest = after;
      }
      return await direction.held(total);
    } catch (error) {
      throw direction.failure ?? error;
    } finally {
      this.#isInside = false;
    }
  }

  async #suffer(fault: ByteFault, position: number): Promise<void> {
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

function lengthOf(buffers: readonly Uint8Array[]): number {
  let total = 0;
  for (const buffer of buffers) total += buffer.length;
  return total;
}

/** Cuts a list of buffers in two, the first of so many bytes. */
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

/** The same buffers, but the first byte is changed, in a copy. */
function corrupted(buffers: readonly Uint8Array[], xor: number): Uint8Array[] {
  const [[first = new Uint8Array(0)], rest] = splitAt(buffers, 1);
  return [Uint8Array.of((first[0] ?? 0) ^ xor), ...rest];
}
