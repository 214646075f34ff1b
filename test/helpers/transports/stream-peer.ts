import type { EventEmitter } from 'node:events';
import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import type { Peer } from './backend.ts';

/**
 * Return a peer made of a plain stream. It reads nothing before it is asked to, so that a writer meets
 * backpressure.
 *
 * @param stream - Its `allowHalfOpen` should be true.
 * @param reset - Resets the connection of the stream.
 */
export function streamPeer(stream: Duplex, reset?: () => void): Required<Peer> {
  let failure: Error | undefined;
  stream.on('error', (error: Error) => {
    failure = error;
  });
  const close = async () => {
    if (stream.closed) return;
    const closed = once(stream, 'close').catch(() => {});
    // An end after unread bytes would never arrive.
    if (stream.writable && stream.writableLength === 0) stream.end(() => stream.destroy());
    else stream.destroy();
    await closed;
  };
  return {
    async read() {
      for (;;) {
        const chunk = stream.read() as Uint8Array | null;
        if (chunk !== null) return chunk;
        if (stream.readableEnded) return new Uint8Array(0);
        if (failure !== undefined) throw failure;
        if (stream.closed) throw new Error('closed without an end');
        await anyOf(stream, ['readable', 'end', 'error', 'close']);
      }
    },
    write: (bytes) =>
      new Promise((resolve, reject) => {
        stream.write(bytes, (error) => (error ? reject(error) : resolve()));
      }),
    end: () =>
      new Promise((resolve) => {
        stream.end(() => resolve());
      }),
    close,
    reset: reset ?? (() => stream.destroy(new Error('reset by the test'))),
  };
}

function anyOf(emitter: EventEmitter, events: readonly string[]): Promise<void> {
  return new Promise((resolve) => {
    const settle = () => {
      for (const event of events) emitter.off(event, settle);
      resolve();
    };
    for (const event of events) emitter.on(event, settle);
  });
}

/**
 * Record the listeners of an emitter.
 *
 * @returns A function that returns the events that have more listeners now.
 */
export function watchListeners(emitter: EventEmitter): () => string[] {
  const before = new Map(emitter.eventNames().map((name) => [name, emitter.listenerCount(name)]));
  return () =>
    emitter
      .eventNames()
      .filter((name) => emitter.listenerCount(name) > (before.get(name) ?? 0))
      .map(String);
}
