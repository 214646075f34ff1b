import { checkMethods } from '../../contract/argument-error.ts';

const CLIENT = { methods: ['execute', 'close'], allowed: 'a QmpClient' };

/** @throws {TypeError} if an argument is not a `QmpClient`. */
export function checkQmp(operation: string, given: unknown): void {
  checkMethods(operation, 'qmp', CLIENT, given);
}
