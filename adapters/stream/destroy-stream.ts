import type { Readable, Writable } from 'node:stream';
import { noop } from '../../lib/util/noop.ts';

export { StreamReader } from './stream-reader.ts';
export { StreamWriter } from './stream-writer.ts';

/**
 * Destroys a stream and waits until it has closed. Errors that it still reports meanwhile are dropped,
 * so that they cannot end the process; no listener stays.
 *
 * @param stream - One that emits `'close'`, as all of Node's own do.
 */
export function destroyStream(stream: Readable | Writable): Promise<void> {
  stream.on('error', noop);
  if (stream.closed) {
    // True already before the last 'error', which comes in this turn of the event loop.
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
