/* The entry of a thread of `FrameThreads`: does one task after the other, in the order of their arrival. */
import { parentPort } from 'node:worker_threads';
import { freeMemory } from '../../util/free-memory.ts';
import { doTask } from './frame-tasks.ts';
import { receiveTask, type SentTask } from './sent-task.ts';
import { ReceivedMemory } from './shared-memory.ts';

const memory = new ReceivedMemory();

parentPort?.on('message', (sent: SentTask) => {
  const task = receiveTask(sent, memory);
  const result = doTask(task);
  if (task.kind !== 'open') {
    parentPort?.postMessage(result);
    return;
  }
  const buffers = buffersOf(result, task.bytes);
  parentPort?.postMessage(result, buffers);
  if (!buffers.includes(task.bytes.buffer as ArrayBuffer)) freeMemory(task.bytes);
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
