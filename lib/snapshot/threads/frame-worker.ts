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
  parentPort?.postMessage(result);
  if (task.kind === 'open' && typeof task.source !== 'number') freeMemory(task.source);
});
