import type { QemuFileError } from '../../../lib/contract/errors.ts';
import { statusOf } from './s3-error.ts';

const PRECONDITION_FAILED = 412;
const NOT_IMPLEMENTED = 501;

/** How `ConditionalPut` writes one object. */
export interface ObjectWriter {
  /** Write the object; with a condition, only if it does not exist. Rejects with a `QemuFileError`. */
  readonly write: (isConditional: boolean) => Promise<void>;
  readonly exists: () => Promise<boolean>;
  /** Whether the object has exactly the content that `write` writes. */
  readonly isOurs: () => Promise<boolean>;
  readonly existsError: () => QemuFileError;
}

/**
 * Writes objects that must not exist yet, with the condition `If-None-Match: *` where the service has it.
 *
 *   the service refuses the condition (501)   the object is looked for before, and compared after it is written
 *   the service ignores it                    found out once, by writing the first such object again: the same
 *                                             from then on
 *   the object exists (412)                   `EEXIST`, unless an earlier attempt of ours whose answer was lost
 *                                             wrote it
 */
export class ConditionalPut {
  #isSupported: boolean | null = null;

  /** Null until the first object has been written. */
  get isSupported(): boolean | null {
    return this.#isSupported;
  }

  async put(writer: ObjectWriter): Promise<void> {
    if (this.#isSupported !== false) {
      try {
        await writer.write(true);
        this.#isSupported ??= await isRefused(writer);
        return;
      } catch (error) {
        const status = causeStatus(error);
        if (status === PRECONDITION_FAILED) {
          this.#isSupported = true;
          if (wasAttemptedBefore(error) && (await writer.isOurs())) return;
          throw writer.existsError();
        }
        if (status !== NOT_IMPLEMENTED) throw error;
        this.#isSupported = false;
      }
    }
    if (await writer.exists()) throw writer.existsError();
    await writer.write(false);
    if (!(await writer.isOurs())) throw writer.existsError();
  }

  /** Make a request, and note in its error whether an earlier attempt may have succeeded unnoticed. */
  async attempt<T>(number: number, request: () => Promise<T>): Promise<T> {
    try {
      return await request();
    } catch (error) {
      if (number > 0 && typeof error === 'object' && error !== null) {
        Object.defineProperty(error, ATTEMPTED_BEFORE, { value: true });
      }
      throw error;
    }
  }
}

const ATTEMPTED_BEFORE = Symbol('attempted before');

function wasAttemptedBefore(error: unknown): boolean {
  const { cause } = error as { cause?: unknown };
  return typeof cause === 'object' && cause !== null && ATTEMPTED_BEFORE in cause;
}

function causeStatus(error: unknown): number {
  const { cause } = error as { cause?: unknown };
  return typeof cause === 'object' && cause !== null ? statusOf(cause) : 0;
}

/** The content is the same, so that a service which ignores the condition changes nothing. */
async function isRefused(writer: ObjectWriter): Promise<boolean> {
  try {
    await writer.write(true);
    return false;
  } catch (error) {
    if (causeStatus(error) === PRECONDITION_FAILED) return true;
    throw error;
  }
}
