import type { FingerprintTask, FrameTask, OpenTask, PackTask } from './frame-tasks.ts';
import type { ReceivedMemory, SentMemory, SentView } from './shared-memory.ts';

/** A task as it is sent to a thread. */
export type SentTask =
  | OpenTask
  | (Omit<PackTask, 'pages' | 'packed'> & { readonly pages: SentView; readonly packed: SentView })
  | (Omit<FingerprintTask, 'pages' | 'fingerprints'> & {
      readonly pages: SentView;
      readonly fingerprints: SentView;
    });

/** Return a task as it is to be sent next. */
export function taskToSend(task: FrameTask, memory: SentMemory): SentTask {
  switch (task.kind) {
    case 'open':
      return task;
    case 'pack':
      return { ...task, pages: memory.view(task.pages), packed: memory.view(task.packed) };
    case 'fingerprint': {
      const { pages, fingerprints } = task;
      return { ...task, pages: memory.view(pages), fingerprints: memory.view(fingerprints) };
    }
  }
}

/** Return a task that was sent; tasks come in the order in which they were sent. */
export function receiveTask(sent: SentTask, memory: ReceivedMemory): FrameTask {
  switch (sent.kind) {
    case 'open':
      return sent;
    case 'pack':
      return { ...sent, pages: memory.view(sent.pages), packed: memory.view(sent.packed) };
    case 'fingerprint': {
      const { pages, fingerprints } = sent;
      return { ...sent, pages: memory.view(pages), fingerprints: memory.view(fingerprints) };
    }
  }
}
