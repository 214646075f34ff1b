import { argumentError } from '../../contract/argument-error.ts';

/** @throws {TypeError} if an argument is not a `SavedGuest`. */
export function checkGuest(operation: string, name: string, given: unknown): void {
  const { pages } = (given ?? {}) as { pages?: unknown };
  if (typeof pages === 'object' && pages !== null) return;
  throw argumentError(operation, name, 'a SavedGuest, such as openSavedGuest returns', given);
}
