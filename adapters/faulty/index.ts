import type { Duplex } from 'node:stream';
import { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, QemuFileOps, Whence } from '../../lib/contract/ops.ts';
import type { Fault, OpFault, OtherOp } from './fault-plan.ts';
import { FaultyDirection, injected } from './faulty-direction.ts';
import { FaultyReader } from './faulty-reader.ts';
import { FaultyWriter } from './faulty-writer.ts';

export {
  type ByteFault,
  type ByteOp,
  type Fault,
  type OpFault,
  type OtherOp,
  type RandomFaultOptions,
  randomFaults,
} from './fault-plan.ts';

/** A table whose operations go wrong by a plan. */
export interface FaultyOps extends QemuFileOps {
  /** The faults that have happened, in their order. */
  readonly happened: readonly Fault[];
  /** Whether something waits in a `stall`. */
  readonly isStalled: boolean;
  /** Lets what waits in a `stall` go on. */
  release(): void;
}

/**
 * Makes a table over another one that goes wrong by a plan, for tests of what stands above it: it is slow,
 * cut short, broken, ended or changed at exact bytes, and fails where it is told to. Where nothing is
 * planned all goes through as it is, and answers come as they came.
 *
 * What fails has an error of its own: the fault's code, and "injected by faultyOps" for a reason. A failed
 * direction stays failed (but for `EAGAIN`, after which the next call goes on). `close()` always closes
 * what lies below; if it is to fail, with an error, so that nothing is published.
 *
 * Tables that `getReturnPath()` gives are under the same plan, and share its counts of bytes.
 *
 * @param ops - The table below; not to be used otherwise from then on.
 * @param faults - What is to happen. Faults at the same byte happen in the order given.
 *
 * @example
 * ```js
 * // The disk fills up after 1 MiB, and the last bytes before that take their time.
 * const ops = faultyOps(fdOps(fd), [
 *   { on: 'writevBuffer', at: 1_000_000, do: 'stall', ms: 50 },
 *   { on: 'writevBuffer', at: 2 ** 20, do: 'fail', code: 'ENOSPC' },
 * ]);
 * await assert.rejects(save(new QemuFile(ops)), { code: 'ENOSPC', position: 2 ** 20 });
 * ```
 */
export function faultyOps(ops: QemuFileOps, faults: Fault | readonly Fault[] = []): FaultyOps {
  return new Plan([faults].flat()).controlled(ops);
}

/** A plan in use, by one table or by several over the same transport. */
class Plan {
  readonly #faults: readonly Fault[];
  readonly #happened: Fault[] = [];
  readonly #reading: FaultyDirection;
  readonly #writing: FaultyDirection;
  /** Closes each table below with an error. */
  readonly #breakers: ((error: QemuFileError) => void)[] = [];

  constructor(faults: readonly Fault[]) {
    this.#faults = faults;
    this.#reading = new FaultyDirection('getBuffer', faults, this.#happened);
    this.#writing = new FaultyDirection('writevBuffer', faults, this.#happened);
  }

  controlled(ops: QemuFileOps): FaultyOps {
    const directions = [this.#reading, this.#writing];
    const controls = {
      happened: this.#happened,
      isStalled: false,
      release: () => {
        for (const direction of directions) direction.release();
      },
    };
    Object.defineProperty(controls, 'isStalled', {
      get: () => directions.some((direction) => direction.isStalled),
    });
    return Object.assign(controls, this.#table(ops));
  }

  /** Fails an operation, if that is planned. */
  #check(on: OtherOp): void {
    const fault = this.#faults.find((each): each is OpFault => each.on === on);
    if (fault === undefined) return;
    this.#happened.push(fault);
    throw injected(fault.code ?? 'EIO', on);
  }

  readonly #reset = (error: QemuFileError): void => {
    for (const direction of [this.#reading, this.#writing]) {
      direction.failure = error;
      direction.cancel(error);
    }
    for (const breaker of this.#breakers) breaker(error);
  };

  #table(ops: QemuFileOps): QemuFileOps {
    const reader = new FaultyReader(ops, this.#reading, this.#reset);
    const writer = new FaultyWriter(ops, this.#writing, this.#reset);
    let closing: { answer: MaybePromise<number | void> } | undefined;
    const shut = (error?: Error): MaybePromise<number | void> => {
      closing ??= { answer: this.#close(ops, reader, writer, error) };
      return closing.answer;
    };
    this.#breakers.push((error) => {
      if (closing !== undefined) return;
      const answer = breakOff(ops, writer, error);
      // Nobody has to close what is broken.
      answer.catch(() => {});
      closing = { answer };
    });
    return {
      ...(ops.getBuffer && {
        getBuffer: (buffer: Uint8Array, position: number) => reader.read(buffer, position),
      }),
      ...(ops.writevBuffer && {
        writevBuffer: (buffers: readonly Uint8Array[], position: number) =>
          writer.writev(buffers, position),
      }),
      close: shut,
      ...this.#others(ops, reader, writer),
      ...(ops.sizes && { sizes: ops.sizes }),
    };
  }

  /** All that moves no bytes of the stream. */
  #others(ops: QemuFileOps, reader: FaultyReader, writer: FaultyWriter): QemuFileOps {
    const checked = <Args extends unknown[], T>(on: OtherOp, call: (...args: Args) => T) => ({
      [on]: (...args: Args): T => {
        this.#check(on);
        return call(...args);
      },
    });
    return {
      ...(ops.setBlocking &&
        checked('setBlocking', (blocking: boolean) => ops.setBlocking?.(blocking))),
      ...(ops.getReturnPath && checked('getReturnPath', () => this.#over(ops.getReturnPath?.()))),
      ...(ops.shutDown &&
        checked('shutDown', (read: boolean, write: boolean) => {
          if (read) this.#reading.cancel(shutDownError('getBuffer'));
          if (write) this.#writing.cancel(shutDownError('writevBuffer'));
          if (!write) return ops.shutDown?.(read, write);
          // What was answered early and is lost must not look as if it were followed by an end.
          const finish = (): MaybePromise<number | void> => {
            if (writer.failedBehind !== undefined) throw writer.failedBehind;
            return ops.shutDown?.(read, write);
          };
          return writer.behind === undefined ? finish() : writer.behind.then(finish);
        })),
      ...(ops.unread &&
        checked('unread', (chunks: readonly Uint8Array[]) => ops.unread?.(reader.before(chunks)))),
      ...(ops.getFd && checked('getFd', () => ops.getFd?.() ?? -1)),
      ...(ops.setOffset &&
        checked('setOffset', (offset: number, whence: Whence) => ops.setOffset?.(offset, whence))),
      ...(ops.getOffset && checked('getOffset', () => ops.getOffset?.())),
      ...(ops.putBufferAt &&
        checked('putBufferAt', (buffer: Uint8Array, at: number) => ops.putBufferAt?.(buffer, at))),
      ...(ops.getBufferAt &&
        checked('getBufferAt', (buffer: Uint8Array, at: number) => ops.getBufferAt?.(buffer, at))),
    };
  }

  #over(path: QemuFileOps | Duplex | null | undefined): typeof path {
    if (path === null || path === undefined || 'pipe' in path) return path;
    return this.#table(path);
  }

  #close(
    ops: QemuFileOps,
    reader: FaultyReader,
    writer: FaultyWriter,
    error: Error | undefined,
  ): MaybePromise<number | void> {
    reader.close(error === undefined);
    const cut = writer.close();
    const isPlanned = this.#faults.some(({ on }) => on === 'close');
    const isEarly = writer.behind !== undefined || writer.failedBehind !== undefined;
    if (cut === undefined && !isEarly && !isPlanned) return ops.close?.(error);
    return this.#closeBadly(ops, writer, error ?? cut);
  }

  async #closeBadly(
    ops: QemuFileOps,
    writer: FaultyWriter,
    error: Error | undefined,
  ): Promise<number | void> {
    // What was answered early is not there yet; in a failure nobody waits for it.
    if (error === undefined) await writer.behind;
    let failure: Error | undefined = writer.failedBehind;
    try {
      this.#check('close');
    } catch (planned) {
      failure ??= planned as Error;
    }
    const answer = await ops.close?.(error ?? failure);
    if (failure !== undefined) throw failure;
    return answer;
  }
}

function shutDownError(operation: string): QemuFileError {
  return new QemuFileError('ECANCELED', 'shut down while it stalled', { operation });
}

/** Closes what a reset has broken; what that cost of writes answered early is told here. */
async function breakOff(
  ops: QemuFileOps,
  writer: FaultyWriter,
  error: QemuFileError,
): Promise<void> {
  try {
    await ops.close?.(error);
  } catch {
    // The reset that it is part of is known.
  }
  await writer.behind;
  if (writer.failedBehind !== undefined) throw writer.failedBehind;
}
