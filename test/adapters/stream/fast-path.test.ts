import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { hasFastPath } from '../../../adapters/stream/fast-path.ts';

const OFF = (value: string) => ({ QEMU_FILE_NO_FAST_PATH: value });

describe('the fast paths', () => {
  for (const version of ['20.19.0', '22.1.0', '24.11.1', '26.0.0']) {
    test(`are on with Node ${version} on Linux`, () => {
      assert.equal(hasFastPath({}, 'linux', version), true);
      assert.equal(hasFastPath(OFF('0'), 'linux', version), true);
      assert.equal(hasFastPath(OFF(''), 'linux', version), true);
    });
  }

  for (const version of ['21.7.3', '23.0.0', '25.2.1', '27.0.0']) {
    test(`are off with Node ${version}, where they were not measured`, () => {
      assert.equal(hasFastPath({}, 'linux', version), false);
    });
  }

  for (const platform of ['darwin', 'freebsd', 'win32'] as const) {
    test(`are off on ${platform}`, () => {
      assert.equal(hasFastPath({}, platform, '22.1.0'), false);
    });
  }

  test('are off where QEMU_FILE_NO_FAST_PATH is set', () => {
    assert.equal(hasFastPath(OFF('1'), 'linux', '22.1.0'), false);
    assert.equal(hasFastPath(OFF('yes'), 'linux', '22.1.0'), false);
  });
});
