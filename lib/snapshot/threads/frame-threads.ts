import { availableParallelism } from 'node:os';
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { QemuFileError } from '../../contract/errors.ts';
import { doTask, type FrameResults, type FrameTask } from './frame-tasks.ts';
import { taskToSend } from './sent-task.ts';
import { SentMemory } from './shared-memory.ts';

/** Most threads. Each takes about 5 MiB. */
const MAX_THREADS = 4;

/** Tasks that are done in the caller's thread before others are started, so that small snapshots start none. */
const TASKS_BEFORE_START = 8;

/** Time without a task after which the threads end, in milliseconds. */
const IDLE_MS = 1000;

const WORKER_LIMITS = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 4 };

const ENTRY = new URL(`./frame-worker${extname(import.meta.url)}`, import.meta.url);

/** Node 20 cannot run the sources in a thread, because a loader of the process does not apply to it. */
const CAN_START: boolean = ENTRY.pathname.endsWith('.js') || !process.version.startsWith('v20.');

type Result = FrameResults[FrameTask['kind']];

interface Pending {
  readonly resolve: (result: Result) => void;
  readonly reject: (error: Error) => void;
}

/** A thread, and the tasks that it was given, in order. */
interface Thread {
  readonly worker: Worker;
  /** The shared memory that it knows. */
  readonly memory: SentMemory;
  readonly pending: Pending[];
  isReady: boolean;
}

/**
 * Fingerprints, compresses and decompresses in threads of their own. They start with the work and end by themselves
 * when there is none; they keep the process alive only while there is some. Until they are there, the caller's thread
 * does it.
 */
export class FrameThreads {
  readonly #maxThreads: number;
  #threads: Thread[] = [];
  #tasksBeforeStart = TASKS_BEFORE_START;
  #idle: NodeJS.Timeout | undefined;

  /** @param maxThreads - Default: the number of processors, at most 4. 0: all is done in the caller's thread. */
  constructor(maxThreads: number = Math.min(availableParallelism(), MAX_THREADS)) {
    this.#maxThreads = CAN_START ? maxThreads : 0;
  }

  /** Number of threads that there are now. */
  get size(): number {
    return this.#threads.length;
  }

  /**
   * Do a task.
   *
   * @param task - Its buffers must not change before the end; the bytes of an `OpenTask` are lost to the caller.
   * @throws {QemuFileError} (rejects) `EIO` if the thread ended.
   */
  async run<T extends FrameTask>(task: T): Promise<FrameResults[T['kind']]> {
    const thread = this.#ready();
    if (thread === null) return doTask(task) as FrameResults[T['kind']];
    return (await this.#give(task, thread)) as FrameResults[T['kind']];
  }

  #give(task: FrameTask, { worker, memory, pending }: Thread): Promise<Result> {
    return new Promise((resolve, reject) => {
      // First: a task that cannot be sent must not wait among those that were.
      const given = task.kind === 'open' && typeof task.source !== 'number' ? task.source : null;
      worker.postMessage(
        taskToSend(task, memory),
        given === null ? [] : [given.buffer as ArrayBuffer],
      );
      pending.push({ resolve, reject });
      worker.ref();
    });
  }

  /** Return the thread with the least work; null as long as none is ready. */
  #ready(): Thread | null {
    if (this.#threads.length === 0 && this.#maxThreads > 0) {
      if (this.#tasksBeforeStart > 0) {
        this.#tasksBeforeStart -= 1;
        return null;
      }
      while (this.#threads.length < this.#maxThreads) this.#start();
    }
    this.#idle?.refresh();
    let least: Thread | null = null;
    for (const thread of this.#threads) {
      if (!thread.isReady) continue;
      if (least === null || thread.pending.length < least.pending.length) least = thread;
    }
    return least;
  }

  #start(): void {
    const worker = new Worker(ENTRY, { resourceLimits: WORKER_LIMITS, env: {} });
    const memory = new SentMemory();
    const thread: Thread = { worker, memory, pending: [], isReady: false };
    this.#threads.push(thread);
    worker.unref();
    worker.on('online', () => {
      thread.isReady = true;
    });
    worker.on('message', (result: Result) => {
      thread.pending.shift()?.resolve(result);
      if (thread.pending.length === 0) worker.unref();
    });
    worker.on('error', (error) => this.#end(thread, error));
    worker.on('exit', () => this.#end(thread));
    this.#idle ??= setInterval(() => this.#endIdle(), IDLE_MS).unref();
  }

  #endIdle(): void {
    if (this.#threads.some(({ pending }) => pending.length > 0)) return;
    for (const { worker } of this.#threads) void worker.terminate();
    this.#threads = [];
    this.#tasksBeforeStart = TASKS_BEFORE_START;
    clearInterval(this.#idle);
    this.#idle = undefined;
  }

  #end(thread: Thread, cause?: unknown): void {
    const reason = 'a thread that compresses has ended; try again';
    const error = new QemuFileError('EIO', reason, { operation: 'snapshot', cause });
    for (const { reject } of thread.pending.splice(0)) reject(error);
    this.#threads = this.#threads.filter((each) => each !== thread);
    if (this.#threads.length === 0) {
      clearInterval(this.#idle);
      this.#idle = undefined;
    }
  }
}

/** The threads of all stores of the process. */
export const frameThreads: FrameThreads = new FrameThreads();
