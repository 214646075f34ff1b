import { checkMethods } from '../contract/argument-error.ts';

const FILE = { methods: ['getFd', 'startTransfer', 'tellFast'], allowed: 'a QemuFile' };

/**
 * Check that an argument is a `QemuFile`, of any loaded copy of this package.
 *
 * @throws {TypeError} if it is not.
 */
export function checkFile(operation: string, name: string, given: unknown): void {
  checkMethods(operation, name, FILE, given);
}
