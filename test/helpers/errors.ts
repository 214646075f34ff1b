import assert from 'node:assert/strict';
import { QemuFileError } from '../../lib/contract/errors.ts';

/** Return a check that an error is a QemuFileError with this code, whose message matches. */
export function fails(code: string, message?: RegExp): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof QemuFileError, String(error));
    assert.equal(error.code, code, error.message);
    if (message !== undefined) assert.match(error.message, message);
    return true;
  };
}

/** Return a check that an error is a QemuFileError of this operation, and of this position unless that is undefined. */
export function failsAt(
  code: string,
  operation: string,
  position?: number,
): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof QemuFileError, String(error));
    assert.deepEqual([error.code, error.operation], [code, operation], error.message);
    if (position !== undefined) assert.equal(error.position, position, error.message);
    return true;
  };
}

/** Return an error as a call of the system fails with it, for a test to inject. */
export function injectedError(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: injected`), { code });
}

/** Return an error as a backend fails with it whose peer has gone. */
export function broken(code: string, message = 'the other end is gone'): Error {
  return Object.assign(new Error(message), { code });
}
