import { QemuFileError } from '../../lib/contract/errors.ts';
import type { ByteFault, ByteOp, Fault } from './fault-plan.ts';

/** One direction: the faults that are still to happen, and the effects of those that have happened. */
export class FaultyDirection {
  readonly op: ByteOp;
  /** Number of bytes moved so far. */
  moved = 0;
  /** The error that all calls fail with from now on. */
  failure: QemuFileError | undefined;
  /** True once reads report the end. */
  hasEnded = false;
  /** Greatest number of bytes that one call moves. */
  maxCallBytes: number = Number.POSITIVE_INFINITY;
  /** Turns of the event loop by which results are delayed; undefined leaves results as they are. */
  lateTurns: number | undefined;
  /** True once writes return before they are made. */
  isEarly = false;
  readonly #happened: Fault[];
  /** Faults that are still to happen, the next one last. */
  readonly #pending: ByteFault[];
  readonly #stalls = new Set<Stall>();
  /** True if a fault of either direction can break the connection. */
  readonly #canBreak: boolean;

  /**
   * @param op - The operation.
   * @param faults - The whole plan.
   * @param happened - Receives the faults as they happen.
   */
  constructor(op: ByteOp, faults: readonly Fault[], happened: Fault[]) {
    this.op = op;
    this.#happened = happened;
    this.#canBreak = faults.some((fault) => fault.do === 'reset');
    const own = faults.filter((fault): fault is ByteFault => fault.on === op);
    this.#pending = own.sort((a, b) => offsetOf(a) - offsetOf(b)).reverse();
  }

  /** True if calls can go straight to the backend: no fault is pending, and none has a lasting effect. */
  get isIdle(): boolean {
    const isUndelayed = this.lateTurns === undefined && !this.isEarly;
    const isUncut = this.#pending.length === 0 && this.maxCallBytes === Number.POSITIVE_INFINITY;
    return isUncut && isUndelayed && !this.#canBreak;
  }

  /** Number of bytes that can move before the next fault. */
  get bytesToFault(): number {
    const next = this.#pending.at(-1);
    return next === undefined ? Number.POSITIVE_INFINITY : offsetOf(next) - this.moved;
  }

  get isStalled(): boolean {
    return this.#stalls.size > 0;
  }

  /** Remove and return the fault at the current byte, if there is one. */
  take(): ByteFault | undefined {
    if (this.bytesToFault > 0) return undefined;
    const fault = this.#pending.pop() as ByteFault;
    this.#happened.push(fault);
    return fault;
  }

  /** Apply the faults at the current byte that only change how later bytes move. */
  takeModes(): void {
    for (let next = this.#pending.at(-1); next !== undefined; next = this.#pending.at(-1)) {
      if (this.bytesToFault > 0 || !this.#applyMode(next)) return;
      this.#happened.push(next);
      this.#pending.pop();
    }
  }

  /** Apply a fault of that kind. @returns Whether it is one. */
  #applyMode(fault: ByteFault): boolean {
    if (fault.do === 'trickle') this.maxCallBytes = fault.size;
    else if (fault.do === 'late') this.lateTurns = fault.turns;
    else if (fault.do === 'early') this.isEarly = true;
    else return false;
    return true;
  }

  /** Return the error of a fault. It is latched, unless it is `EAGAIN`. */
  fail(code: string, position: number): QemuFileError {
    const error = injected(code, this.op, position);
    if (code !== 'EAGAIN') this.failure = error;
    return error;
  }

  /**
   * Wait until `release()` or `cancel()`, or for a time.
   *
   * @param owner - The reader or writer that stalls, for `cancel()`.
   * @param ms - Milliseconds after which the wait ends on its own.
   */
  stall(owner: object, ms: number | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined;
      const end = (): void => {
        clearTimeout(timer);
        this.#stalls.delete(entry);
      };
      const entry: Stall = {
        owner,
        resume: () => {
          end();
          resolve();
        },
        cancel: (error) => {
          end();
          reject(error);
        },
      };
      if (ms !== undefined) timer = setTimeout(entry.resume, ms);
      this.#stalls.add(entry);
    });
  }

  /** End all stalls; the calls go on. */
  release(): void {
    for (const stall of this.#stalls) stall.resume();
  }

  /** Reject the calls that stall, or only those of `owner`. */
  cancel(error: QemuFileError, owner?: object): void {
    for (const stall of this.#stalls) {
      if (owner === undefined || stall.owner === owner) stall.cancel(error);
    }
  }

  /** Return a result after the delay of a `late` fault. */
  async delayed<T>(result: T): Promise<T> {
    for (let turns = this.lateTurns ?? 0; turns > 0; turns--) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    return result;
  }
}

/** A call that stalls. */
interface Stall {
  readonly owner: object;
  readonly resume: () => void;
  readonly cancel: (error: QemuFileError) => void;
}

function offsetOf(fault: ByteFault): number {
  return fault.at ?? 0;
}

/** Return an error that a fault of the plan causes. */
export function injected(code: string, operation: string, position?: number): QemuFileError {
  return new QemuFileError(code, 'injected by faultyOps', { operation, position });
}
