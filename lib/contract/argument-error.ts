/**
 * Return the error of an argument that no typed program would pass, such as a promise in place of what it resolves to.
 *
 * @param operation - Public name of the function.
 * @param name - Name of the argument.
 * @param allowed - What it must be, as a noun.
 * @param given - What it is.
 */
export function argumentError(
  operation: string,
  name: string,
  allowed: string,
  given: unknown,
): TypeError {
  return new TypeError(`${operation}: ${name} must be ${allowed}, not ${describe(given)}`);
}

/** @throws {TypeError} if an argument is not a string. */
export function checkString(operation: string, name: string, given: unknown): void {
  if (typeof given !== 'string') throw argumentError(operation, name, 'a string', given);
}

/** @throws {TypeError} if an argument is not one of some words. */
export function checkWord(
  operation: string,
  name: string,
  allowed: readonly string[],
  given: unknown,
): void {
  if (allowed.includes(given as string)) return;
  const words = allowed.map((word) => `'${word}'`).join(' or ');
  throw argumentError(operation, name, words, given);
}

/** @throws {TypeError} if an argument does not have the methods that its type has. */
export function checkMethods(
  operation: string,
  name: string,
  { methods, allowed }: { methods: readonly string[]; allowed: string },
  given: unknown,
): void {
  const members = (given ?? {}) as Record<string, unknown>;
  if (methods.every((method) => typeof members[method] === 'function')) return;
  throw argumentError(operation, name, allowed, given);
}

function describe(given: unknown): string {
  if (typeof given === 'string') return JSON.stringify(given.slice(0, 64));
  if (typeof given === 'function') return 'a function';
  if (typeof given !== 'object' || given === null) return String(given);
  if (given instanceof Promise) return 'a promise: await it first';
  const { name } = (given.constructor ?? {}) as { name?: unknown };
  return typeof name === 'string' && name !== '' ? `an instance of ${name}` : 'an object';
}
