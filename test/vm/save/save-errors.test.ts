import assert from 'node:assert/strict';
import { test } from 'node:test';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { unreachableError } from '../../../lib/vm/save/save-errors.ts';

test('the error of a save whose QEMU is gone gives its reason and its advice once', () => {
  const cause = new QemuFileError('ECONNRESET', 'QEMU ended the connection to its monitor', {
    operation: 'QmpClient',
  });
  assert.equal(
    unreachableError(cause).message,
    'ECONNRESET: saveVm: QEMU cannot be reached any more during the save: QEMU ended the connection to its ' +
      'monitor; the other end went away: look at its log for the reason',
  );
});
