import { inspect } from 'node:util';
import { noop } from '../util/noop.ts';
import { codeOf, QemuFileError, type QemuFileErrorContext, toQemuFileError } from './errors.ts';
import type { MaybePromise } from './ops.ts';

/** Mark a promise as handled. Errors are latched, so a rejection that no caller awaits must not end the process. */
export function markHandled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(noop);
  return promise;
}

/**
 * Return the error of a backend whose answer is a negative errno or not valid.
 *
 * @param answer - The answer.
 * @param asked - The question, to complete "the backend answered 5 …".
 * @param context - Where it happened.
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

/**
 * Return the backend's answer, 0 for none.
 *
 * @throws {QemuFileError} (rejects) for a negative errno, and for an error that the backend throws.
 */
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
