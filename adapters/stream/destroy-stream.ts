import type { Readable, Writable } from 'node:stream';
import { noop } from '../../lib/util/noop.ts';

/**
 * Destroy a stream and wait until it has closed. Errors that it still emits are dropped, so that they do not
 * end the process; no listener stays.
 *
 * @param stream - One that emits `'close'`, as all of Node's own do.
 */
export function destroyStream(stream: Readable | Writable): Promise<void> {
  stream.on('error', noop);
  if (stream.closed) {
    // `closed` is true before the last 'error', which comes in this turn of the event loop.
    setImmediate(() => stream.off('error', noop));
    return Promise.resolve();
  }
  return new Promise((resolve) => {
    stream.once('close', () => {
      stream.off('error', noop);
      resolve();
    });
    stream.destroy();
  });
}
