import { inspect } from 'node:util';
import { noop } from '../util/noop.ts';
import { codeOf, QemuFileError, type QemuFileErrorContext, toQemuFileError } from './errors.ts';
import type { MaybePromise } from './ops.ts';

/** Marks a promise as handled: an error is latched, so a promise nobody awaits must not end the process. */
export function markHandled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(noop);
  return promise;
}

/**
 * The error of a backend that answered a negative errno, or nonsense.
 *
 * @param answer - What it answered.
 * @param asked - What it was asked, to complete "the backend answered 5 …".
 * @param context - Where.
 */
export function backendError(
  answer: unknown,
  asked: string,
  context: QemuFileErrorContext,
): QemuFileError {
  if (Number.isInteger(answer) && (answer as number) < 0) {
    return new QemuFileError(codeOf(answer as number), 'the backend reported an error', context);
  }
  return new QemuFileError('EIO', `the backend answered ${inspect(answer)} ${asked}`, context);
}

/** What a backend answers, 0 for nothing; all that is a failure is thrown as `QemuFileError`. */
export async function callBackend(
  operation: string,
  call: () => MaybePromise<number | void> | undefined,
): Promise<number> {
  try {
    const answer = await call();
    if (typeof answer !== 'number') return 0;
    if (answer >= 0) return answer;
    throw backendError(answer, 'when asked to end', { operation });
  } catch (error) {
    throw toQemuFileError(error, { operation });
  }
}
