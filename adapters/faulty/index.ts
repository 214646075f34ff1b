import type { Duplex } from 'node:stream';
import { argumentError } from '../../lib/contract/argument-error.ts';
import { QemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, QemuFileOps, Whence } from '../../lib/contract/ops.ts';
import { noop } from '../../lib/util/noop.ts';
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

/** A backend whose operations fail by a plan. */
export interface FaultyOps extends QemuFileOps {
  /** The faults that have happened, in order. */
  readonly happened: readonly Fault[];
  /** True while a call waits in a `stall`. */
  readonly isStalled: boolean;
  /** End all stalls; the calls go on. */
  release(): void;
}

/**
 * Wrap a backend so that it fails by a plan, for tests of the code that uses it. At exact bytes the stream is
 * delayed, cut short, broken, ended or changed, and other operations can fail. Without a fault in the plan, calls
 * and results pass unchanged.
 *
 * An injected error has the code of the fault and the reason "injected by faultyOps". A failed direction stays
 * failed, except after `EAGAIN`. `close()` always closes the wrapped backend. If `close` itself is to fail, the
 * wrapped backend is closed with an error, so that it publishes nothing.
 *
 * The backends that `getReturnPath()` returns follow the same plan and share its byte counts.
 *
 * @param ops - The backend to wrap. It must not be used directly from then on.
 * @param faults - The plan. Faults at the same byte happen in the given order.
 * @returns A backend with the same operations, and controls for the test.
 * @example
 * ```js
 * // The disk is full after 1 MiB, and the last bytes before that are slow.
 * const ops = faultyOps(memoryOps(), [
 *   { on: 'writevBuffer', at: 1_000_000, do: 'stall', ms: 50 },
 *   { on: 'writevBuffer', at: 2 ** 20, do: 'fail', code: 'ENOSPC' },
 * ]);
 * const file = new QemuFile(ops);
 * file.write(new Uint8Array(2 ** 21));
 * await file.close().catch(({ code, position }) => console.log(code, position)); // ENOSPC 1048576
 * ```
 */
export function faultyOps(ops: QemuFileOps, faults: Fault | readonly Fault[] = []): FaultyOps {
  if (typeof ops !== 'object' || ops === null) {
    throw argumentError('faultyOps', 'ops', 'a table of operations (QemuFileOps)', ops);
  }
  return new PlannedFaults([faults].flat()).wrapWithControls(ops);
}

/** A plan in use, by one backend or by several over the same transport. */
class PlannedFaults {
  readonly #faults: readonly Fault[];
  readonly #happened: Fault[] = [];
  readonly #reading: FaultyDirection;
  readonly #writing: FaultyDirection;
  /** Closes each wrapped backend with an error. */
  readonly #breakers: ((error: QemuFileError) => void)[] = [];

  constructor(faults: readonly Fault[]) {
    this.#faults = faults;
    this.#reading = new FaultyDirection('getBuffer', faults, this.#happened);
    this.#writing = new FaultyDirection('writevBuffer', faults, this.#happened);
  }

  wrapWithControls(ops: QemuFileOps): FaultyOps {
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
    return Object.assign(controls, this.#wrap(ops));
  }

  /** Throw if the plan has a fault for an operation that moves no bytes. */
  #failIfPlanned(on: OtherOp): void {
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

  #wrap(ops: QemuFileOps): QemuFileOps {
    const reader = new FaultyReader(ops, this.#reading, this.#reset);
    const writer = new FaultyWriter(ops, this.#writing, this.#reset);
    let closing: { result: MaybePromise<number | void> } | undefined;
    const close = (error?: Error): MaybePromise<number | void> => {
      closing ??= { result: this.#close(ops, reader, writer, error) };
      return closing.result;
    };
    this.#breakers.push((error) => {
      if (closing !== undefined) return;
      const result = breakConnection(ops, writer, error);
      // The caller need not close a broken backend, so the rejection may have no handler.
      result.catch(noop);
      closing = { result };
    });
    return {
      ...(ops.getBuffer && {
        getBuffer: (buffer: Uint8Array, position: number) => reader.read(buffer, position),
      }),
      ...(ops.writevBuffer && {
        writevBuffer: (buffers: readonly Uint8Array[], position: number) =>
          writer.writev(buffers, position),
      }),
      close,
      ...this.#otherOps(ops, reader, writer),
      ...(ops.sizes && { sizes: ops.sizes }),
    };
  }

  /** The operations that move no bytes of the stream. */
  #otherOps(ops: QemuFileOps, reader: FaultyReader, writer: FaultyWriter): QemuFileOps {
    const checked = <Args extends unknown[], T>(on: OtherOp, call: (...args: Args) => T) => ({
      [on]: (...args: Args): T => {
        this.#failIfPlanned(on);
        return call(...args);
      },
    });
    return {
      ...(ops.setBlocking &&
        checked('setBlocking', (blocking: boolean) => ops.setBlocking?.(blocking))),
      ...(ops.getReturnPath &&
        checked('getReturnPath', () => this.#wrapReturnPath(ops.getReturnPath?.()))),
      ...(ops.shutDown &&
        checked('shutDown', (read: boolean, write: boolean) => {
          if (read) this.#reading.cancel(shutDownError('getBuffer'));
          if (write) this.#writing.cancel(shutDownError('writevBuffer'));
          if (!write) return ops.shutDown?.(read, write);
          // A write that failed in the background must not look to the peer as if the end followed it.
          const finish = (): MaybePromise<number | void> => {
            if (writer.backgroundError !== undefined) throw writer.backgroundError;
            return ops.shutDown?.(read, write);
          };
          return writer.background === undefined ? finish() : writer.background.then(finish);
        })),
      ...(ops.unread &&
        checked('unread', (chunks: readonly Uint8Array[]) =>
          ops.unread?.(reader.withRest(chunks)),
        )),
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

  #wrapReturnPath(path: QemuFileOps | Duplex | null | undefined): typeof path {
    if (path === null || path === undefined || 'pipe' in path) return path;
    return this.#wrap(path);
  }

  #close(
    ops: QemuFileOps,
    reader: FaultyReader,
    writer: FaultyWriter,
    error: Error | undefined,
  ): MaybePromise<number | void> {
    reader.close(error === undefined);
    const cutError = writer.close();
    const isPlanned = this.#faults.some(({ on }) => on === 'close');
    const isEarly = writer.background !== undefined || writer.backgroundError !== undefined;
    if (cutError === undefined && !isEarly && !isPlanned) return ops.close?.(error);
    return this.#closeWithFaults(ops, writer, error ?? cutError);
  }

  async #closeWithFaults(
    ops: QemuFileOps,
    writer: FaultyWriter,
    error: Error | undefined,
  ): Promise<number | void> {
    // A write in the background must be complete before a successful close; a failure does not wait for it.
    if (error === undefined) await writer.background;
    let failure: Error | undefined = writer.backgroundError;
    try {
      this.#failIfPlanned('close');
    } catch (injectedError) {
      failure ??= injectedError as Error;
    }
    const result = await ops.close?.(error ?? failure);
    if (failure !== undefined) throw failure;
    return result;
  }
}

function shutDownError(operation: string): QemuFileError {
  return new QemuFileError('ECANCELED', 'shut down during a stall', { operation });
}

/** Close a backend after a reset. Rejects with the error of a write in the background. */
async function breakConnection(
  ops: QemuFileOps,
  writer: FaultyWriter,
  error: QemuFileError,
): Promise<void> {
  try {
    await ops.close?.(error);
  } catch {
    // The reset has already been reported.
  }
  await writer.background;
  if (writer.backgroundError !== undefined) throw writer.backgroundError;
}
