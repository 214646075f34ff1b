import type { Readable } from 'node:stream';
import { MessageChannel } from 'node:worker_threads';

type MessagePort = InstanceType<typeof MessageChannel>['port1'];

interface Transferable extends ArrayBuffer {
  /** Since Node 22. */
  transfer?(newLength: number): ArrayBuffer;
}

let nowhere: MessagePort | undefined;

/**
 * A fast path, used with `DirectRead` only: free the memory of a chunk whose bytes have been copied, before
 * the garbage collector finds it. Node reads each chunk of a socket into memory of its own, and 12 MB of such
 * memory make V8 mark its whole heap: a fifth of the time of a relay, on Linux with Node 20 to 26
 * (bench/relay.ts, unix → unix). The next chunk gets the same memory, which is still in the processor's cache.
 *
 * @param chunk - Detached, and empty from now on, unless other code may have a view of the same memory.
 * @param source - The stream that emitted it.
 */
export function releaseChunk(chunk: Uint8Array, source: Readable): void {
  const memory = chunk.buffer as Transferable;
  if (chunk.length !== memory.byteLength || source.listenerCount('data') > 1) return;
  if (memory.transfer !== undefined) {
    memory.transfer(0);
    return;
  }
  if (nowhere === undefined) {
    const { port1, port2 } = new MessageChannel();
    // Messages to a port without a peer are dropped.
    port2.close();
    nowhere = port1;
  }
  nowhere.postMessage(null, [memory]);
}
