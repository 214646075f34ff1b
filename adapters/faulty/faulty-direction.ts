import { QemuFileError } from '../../lib/contract/errors.ts';
import type { ByteFault, ByteOp, Fault } from './fault-plan.ts';

/** A direction with the faults that are still to come, and what those that came have changed. */
export class FaultyDirection {
  readonly op: ByteOp;
  /** Bytes moved in all. */
  moved = 0;
  /** What all calls fail with from now on. */
  failure: QemuFileError | undefined;
  /** Reads meet the end from now on. */
  hasEnded = false;
  /** Greatest number of bytes moved at a time. */
  pieceSize: number = Number.POSITIVE_INFINITY;
  /** Turns of the loop by which answers come late; none come as they are. */
  lateTurns: number | undefined;
  /** Writes are answered before they are done. */
  isEarly = false;
  readonly #happened: Fault[];
  /** The next one last. */
  readonly #due: ByteFault[];
  readonly #gates = new Set<Gate>();
  /** Either direction may break the connection while the other one waits. */
  readonly #mayBreak: boolean;

  /**
   * @param op - The operation.
   * @param faults - Of all directions and operations.
   * @param happened - Gets those that happen.
   */
  constructor(op: ByteOp, faults: readonly Fault[], happened: Fault[]) {
    this.op = op;
    this.#happened = happened;
    this.#mayBreak = faults.some((fault) => fault.do === 'reset');
    const own = faults.filter((fault): fault is ByteFault => fault.on === op);
    this.#due = own.sort((a, b) => placeOf(a) - placeOf(b)).reverse();
  }

  /** Nothing is to happen any more, and what happened changes nothing any more. */
  get isIdle(): boolean {
    const asIs = this.lateTurns === undefined && !this.isEarly;
    const isWhole = this.#due.length === 0 && this.pieceSize === Number.POSITIVE_INFINITY;
    return isWhole && asIs && !this.#mayBreak;
  }

  /** Bytes that may move before the next fault. */
  get free(): number {
    const next = this.#due.at(-1);
    return next === undefined ? Number.POSITIVE_INFINITY : placeOf(next) - this.moved;
  }

  get isStalled(): boolean {
    return this.#gates.size > 0;
  }

  /** The next fault, if it is to happen here. */
  take(): ByteFault | undefined {
    if (this.free > 0) return undefined;
    const fault = this.#due.pop() as ByteFault;
    this.#happened.push(fault);
    return fault;
  }

  /** Lets those faults happen that change how things go on, as far as they come next and here. */
  takeModes(): void {
    for (let next = this.#due.at(-1); next !== undefined; next = this.#due.at(-1)) {
      if (this.free > 0 || !this.#enter(next)) return;
      this.#happened.push(next);
      this.#due.pop();
    }
  }

  #enter(fault: ByteFault): boolean {
    if (fault.do === 'trickle') this.pieceSize = fault.size;
    else if (fault.do === 'late') this.lateTurns = fault.turns;
    else if (fault.do === 'early') this.isEarly = true;
    else return false;
    return true;
  }

  /** The error of a fault, latched unless it is one that says to try again. */
  fail(code: string, position: number): QemuFileError {
    const error = injected(code, this.op, position);
    if (code !== 'EAGAIN') this.failure = error;
    return error;
  }

  /** Waits until somebody releases, or cancels; or for a time. */
  stall(owner: object, ms: number | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined;
      const leave = (): void => {
        clearTimeout(timer);
        this.#gates.delete(gate);
      };
      const gate: Gate = {
        owner,
        open: () => {
          leave();
          resolve();
        },
        cancel: (error) => {
          leave();
          reject(error);
        },
      };
      if (ms !== undefined) timer = setTimeout(gate.open, ms);
      this.#gates.add(gate);
    });
  }

  release(): void {
    for (const gate of this.#gates) gate.open();
  }

  /** Wakes what stalls with an error; only that of an owner, if one is given. */
  cancel(error: QemuFileError, owner?: object): void {
    for (const gate of this.#gates) {
      if (owner === undefined || gate.owner === owner) gate.cancel(error);
    }
  }

  /** Answers late, if that is to be. */
  async held<T>(answer: T): Promise<T> {
    for (let turns = this.lateTurns ?? 0; turns > 0; turns--) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    return answer;
  }
}

interface Gate {
  readonly owner: object;
  readonly open: () => void;
  readonly cancel: (error: QemuFileError) => void;
}

function placeOf(fault: ByteFault): number {
  return fault.at ?? 0;
}

/** An error that nothing but a plan is the reason of. */
export function injected(code: string, operation: string, position?: number): QemuFileError {
  return new QemuFileError(code, 'injected by faultyOps', { operation, position });
}
