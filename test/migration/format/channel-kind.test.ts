import assert from 'node:assert/strict';
import { test } from 'node:test';
import { kindOfChannel } from '../../../lib/migration/format/channel-kind.ts';

test('the kind of a channel is known by its first four bytes', () => {
  const kinds = (
    ['5145564d00000003', '11223344', '08000100', '', '514556', '0000000000', '1f8b0800'] as const
  ).map((start) => kindOfChannel(Buffer.from(start, 'hex')));
  assert.deepEqual(kinds, ['main', 'multifd', 'main', 'empty', 'unknown', 'unknown', 'unknown']);
});
