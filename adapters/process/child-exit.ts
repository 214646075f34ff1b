import type { ChildProcess } from 'node:child_process';
import type { Readable } from 'node:stream';
import { toQemuFileError } from '../../lib/contract/errors.ts';
import { noop } from '../../lib/util/noop.ts';
import { Backoff } from '../shared/backoff.ts';
import { destroyStream } from '../stream/destroy-stream.ts';
import { type Failure, failure } from '../stream/stream-failure.ts';
import { isGroupAlive, signalGroup } from './process-group.ts';

/** Bytes of a child's standard error that are kept for messages: the last ones. */
const STDERR_TAIL_BYTES = 2048;

/** Milliseconds to wait after the exit for the end of standard error, which another process may hold open. */
const STDERR_END_MS = 250;

/** Delays between checks for the processes that are left of a group, in milliseconds. */
const FIRST_CHECK_MS = 2;
const MAX_CHECK_MS = 200;

/** Children that are killed when this process exits, so that none takes a truncated stream for a complete one. */
const running = new Set<ChildExit>();

function killRunning(): void {
  for (const child of running) child.signal('SIGKILL');
}

/** The end of a child process, on its own or forced, with its status and its last lines on standard error. */
export class ChildExit {
  readonly #child: ChildProcess;
  readonly #isGroup: boolean;
  readonly #graceMs: number;
  /** Resolves when `hasEnded` becomes true. */
  readonly ended: Promise<void>;
  #resolveEnded: () => void = noop;
  #stderrTail = Buffer.alloc(0);
  #spawnError: Error | undefined;
  #hasEnded = false;
  #wasForced = false;
  #forcing: Promise<void> | undefined;

  /**
   * @param child - The child.
   * @param isGroup - True if the child leads a process group, which is ended with it.
   * @param graceMs - Milliseconds from SIGTERM to SIGKILL.
   */
  constructor(child: ChildProcess, isGroup: boolean, graceMs: number) {
    this.#child = child;
    this.#isGroup = isGroup;
    this.#graceMs = graceMs;
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
    child.stderr?.on('data', this.#onStderr);
    child.stderr?.on('error', noop);
    if (this.#hasExited) {
      this.#onExit();
      return;
    }
    child.on('exit', this.#onExit);
    child.on('error', this.#onError);
    if (isGroup) {
      if (running.size === 0) process.on('exit', killRunning);
      running.add(this);
    }
  }

  /** True once the child's status and standard error are known, or the child could not be started. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** False when the child could not be started, even before the reason is known. */
  get hasStarted(): boolean {
    return this.#child.pid !== undefined;
  }

  /** Why the child could not be started. */
  get startFailure(): Failure | undefined {
    const error = this.#spawnError;
    return error && ((operation, position) => toQemuFileError(error, { operation, position }));
  }

  /** The child's own failure: it could not be started, or it exited on its own with a status other than 0. */
  get failure(): Failure | undefined {
    if (this.#spawnError !== undefined) return this.startFailure;
    if (!this.#hasExited || this.#wasForced || this.#child.exitCode === 0) return undefined;
    return failure('EIO', this.describe());
  }

  /** The signal that ended the child; null if none did. */
  get signalCode(): NodeJS.Signals | null {
    return this.#child.signalCode;
  }

  /** The last bytes of the child's standard error. */
  get stderr(): string {
    return this.#stderrTail.toString();
  }

  /** Return how the child ended and the last lines of its standard error, as a clause. */
  describe(): string {
    const { exitCode, signalCode } = this.#child;
    let how = 'the command is still running';
    if (signalCode !== null) how = `the command was killed by ${signalCode}`;
    else if (exitCode !== null) how = `the command exited with status ${exitCode}`;
    const lines = this.stderr.split(/\p{Cc}+/u);
    const text = lines.filter((line) => line.trim() !== '').join(' | ');
    return text === '' ? how : `${how}, stderr: "${text}"`;
  }

  /** End the child and the group that it leads: SIGTERM, then SIGKILL for what still runs after the grace period. */
  force(): Promise<void> {
    this.#forcing ??= this.#force();
    return this.#forcing;
  }

  /** Send a signal to the child and the group that it leads. @returns Whether a process received it. */
  signal(name: NodeJS.Signals): boolean {
    const { pid } = this.#child;
    if (pid === undefined) return false;
    return this.#isGroup ? signalGroup(pid, name) : this.#child.kill(name);
  }

  /** Stop listening to the child, and close its standard error. */
  async release(): Promise<void> {
    this.#child.off('exit', this.#onExit);
    this.#child.off('error', this.#onError);
    this.#forget();
    await this.#closeStderr();
  }

  async #force(): Promise<void> {
    const { pid } = this.#child;
    if (pid === undefined || (this.#hasExited && !this.#isGroup)) return this.ended;
    this.signal('SIGTERM');
    const backoff = new Backoff(FIRST_CHECK_MS, MAX_CHECK_MS);
    // The group can outlive its leader, and no event reports its end.
    for (let leftMs = this.#graceMs; leftMs > 0; ) {
      if (this.#hasExited && !(this.#isGroup && (await isGroupAlive(pid)))) return this.ended;
      const ms = Math.min(backoff.next(), leftMs);
      leftMs -= ms;
      await sleep(ms);
    }
    this.signal('SIGKILL');
    await this.ended;
  }

  get #hasExited(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  readonly #onExit = (): void => {
    this.#wasForced = this.#forcing !== undefined;
    this.#forget();
    const { stderr } = this.#child;
    if (stderr) void closedWithin(stderr, STDERR_END_MS).then(() => this.#end());
    else this.#end();
  };

  readonly #onError = (error: Error): void => {
    // In a child that has started, this reports a signal that could not be sent; its exit is still to come.
    if (this.#child.pid !== undefined) return;
    this.#spawnError = error;
    this.#forget();
    this.#end();
  };

  readonly #onStderr = (chunk: Buffer | string): void => {
    const whole = Buffer.concat([
      this.#stderrTail,
      typeof chunk === 'string' ? Buffer.from(chunk) : chunk,
    ]);
    this.#stderrTail = whole.subarray(Math.max(0, whole.length - STDERR_TAIL_BYTES));
  };

  #end(): void {
    this.#hasEnded = true;
    this.#resolveEnded();
  }

  #forget(): void {
    running.delete(this);
    if (running.size === 0) process.off('exit', killRunning);
  }

  async #closeStderr(): Promise<void> {
    const { stderr } = this.#child;
    if (!stderr) return;
    await destroyStream(stderr);
    stderr.off('data', this.#onStderr);
    stderr.off('error', noop);
  }
}

/** Resolve when a stream has closed, or after `timeoutMs`. */
function closedWithin(stream: Readable, timeoutMs: number): Promise<void> {
  if (stream.closed) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(settle, timeoutMs);
    stream.on('close', settle);
    function settle(): void {
      clearTimeout(timer);
      stream.off('close', settle);
      resolve();
    }
  });
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
