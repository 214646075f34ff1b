import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { codeOf, errnoOf, QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import { broken } from '../helpers/errors.ts';

describe('QemuFileError', () => {
  test('says code, operation, reason, position and advice in one line', () => {
    const error = new QemuFileError('EPIPE', 'nobody reads', { position: 12, operation: 'flush' });
    assert.equal(
      error.message,
      'EPIPE: flush: nobody reads at byte 12; the other end stopped reading: look at its log for the reason',
    );
    assert.equal(error.errno, -32);
    assert.equal(new QemuFileError('EIO', 'no').message, 'EIO: no');
  });

  test('is recognised by instanceof across two loaded copies of the package', async () => {
    const again = '../../lib/contract/errors.ts?again';
    const other = (await import(again)) as typeof import('../../lib/contract/errors.ts');
    assert.notEqual(other.QemuFileError, QemuFileError);
    const foreign = new other.QemuFileError('EIO', 'theirs');
    assert.ok(foreign instanceof QemuFileError);
    assert.ok(new QemuFileError('EIO', 'ours') instanceof other.QemuFileError);
    assert.equal(toQemuFileError(foreign), foreign);
    for (const not of [new Error('no'), null, undefined, 'EIO', { code: 'EIO' }]) {
      assert.equal((not as unknown) instanceof QemuFileError, false);
    }
  });

  test('has an errno for every code, that of EIO for one this system does not know', () => {
    assert.equal(errnoOf('EIO'), -5);
    assert.equal(errnoOf('EAGAIN'), -11);
    assert.equal(errnoOf('EWHATEVER'), -5);
    assert.equal(errnoOf('toString'), -5);
    assert.equal(codeOf(-5), 'EIO');
    assert.equal(codeOf(-11), 'EAGAIN');
    assert.equal(codeOf(-22), 'EINVAL');
    assert.equal(codeOf(-38), 'ENOSYS');
    assert.equal(codeOf(-99_999), 'EIO');
    assert.equal(codeOf(5), 'EIO');
  });

  test('is made of any value that a transport throws', () => {
    for (const [thrown, code] of [
      [broken('ENOENT'), 'ENOENT'],
      [broken('ERR_SOCKET_CLOSED'), 'EIO'],
      [Object.assign(new Error(''), { code: 5 }), 'EIO'],
      ['text', 'EIO'],
      [undefined, 'EIO'],
      [null, 'EIO'],
      [Symbol('s'), 'EIO'],
      [Object.create(null), 'EIO'],
      [Object.assign(new Error('x'), { name: 'AbortError', code: 'ABORT_ERR' }), 'ECANCELED'],
    ] as const) {
      const error = toQemuFileError(thrown, { operation: 'test', position: 1 });
      assert.equal(error.code, code);
      assert.equal(error.cause, thrown);
      assert.equal(error.operation, 'test');
      assert.equal(error.position, 1);
    }
  });
});
