/* The entry of a thread of `FrameThreads`: does one task after the other, in the order of their arrival. */
import { parentPort } from 'node:worker_threads';
import { doTask, type FrameTask } from './frame-tasks.ts';

parentPort?.on('message', (task: FrameTask) => {
  const result = doTask(task);
  parentPort?.postMessage(result, task.kind === 'open' ? buffersOf(result, task.bytes) : []);
});

/** Return the memory that is handed over without a copy: not that which Node shares among small buffers. */
function buffersOf(result: unknown, { buffer: own }: Uint8Array): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>();
  for (const contents of result as readonly unknown[]) {
    if (!(contents instanceof Uint8Array)) continue;
    const { buffer } = contents;
    if (buffer === own || buffer.byteLength === contents.length) buffers.add(buffer as ArrayBuffer);
  }
  return [...buffers];
}
