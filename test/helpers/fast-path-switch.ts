import { afterEach, beforeEach } from 'node:test';

/** Name of the environment variable that switches the fast paths off. */
export const FAST_PATH_SWITCH = 'QEMU_FILE_NO_FAST_PATH';

/** In this suite, let each test begin with the fast paths on, and put the switch back after it. */
export function keepFastPathSwitch(): void {
  let before: string | undefined;

  beforeEach(() => {
    before = process.env[FAST_PATH_SWITCH];
    delete process.env[FAST_PATH_SWITCH];
  });

  afterEach(() => {
    delete process.env[FAST_PATH_SWITCH];
    if (before !== undefined) process.env[FAST_PATH_SWITCH] = before;
  });
}
