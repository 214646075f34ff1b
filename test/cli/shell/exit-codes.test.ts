import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exitCodeOf, readExitCode } from '../../../lib/cli/shell/exit-codes.ts';
import { QemuFileError } from '../../../lib/contract/errors.ts';

test('compressed data that a tool of the system refuses is a damaged stream', () => {
  const reason = 'the command exited with status 1, stderr: "zstd: premature end"';
  const error = new QemuFileError('EIO', reason, { operation: 'decompress' });
  assert.equal(readExitCode(error), 1);
  assert.equal(exitCodeOf(error), 3);
});

test('a tool of the system that a signal ends is a failed input', () => {
  const error = new QemuFileError('EIO', 'the command was killed by SIGKILL', {
    operation: 'decompress',
  });
  assert.equal(readExitCode(error), 4);
  assert.equal(exitCodeOf(error), 4);
});

test('a path that cannot hold a stream is a failed output, not an unsupported stream', () => {
  const error = new QemuFileError('ENOTSUP', 'x is not a regular file', { operation: 'open' });
  assert.equal(readExitCode(error), 4);
  assert.equal(exitCodeOf(error), 4);
  const other = new QemuFileError('ENOTSUP', 'x', { operation: 'restoreLazily' });
  assert.equal(exitCodeOf(other), 5);
});
