import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { destroyStream } from '../../../adapters/stream/destroy-stream.ts';
import { manyTurns } from '../../helpers/transports/backend.ts';
import { watchListeners } from '../../helpers/transports/stream-peer.ts';

test('destroyStream waits until the stream has closed, and drops its late errors', async () => {
  const stream = new Writable({
    write() {},
    destroy(_error, done) {
      setImmediate(done, new Error('late'));
    },
  });
  const leftovers = watchListeners(stream);
  await destroyStream(stream);
  assert.equal(stream.closed, true);
  await destroyStream(stream);
  await manyTurns();
  assert.deepEqual(leftovers(), []);
});
