import type { ChildProcess } from 'node:child_process';
import type { Readable } from 'node:stream';
import { toQemuFileError } from '../../lib/contract/errors.ts';
import { noop } from '../../lib/util/noop.ts';
import { Backoff } from '../shared/backoff.ts';
import { destroyStream } from '../stream/destroy-stream.ts';
import { type Failure, failure } from '../stream/stream-failure.ts';
import { isGroupAlive, signalGroup } from './process-group.ts';

/** Bytes of a child's standard error that are kept for messages: the last ones. */
const STDERR_TAIL = 2048;

/** Milliseconds that the rest of standard error is waited for: someone else may hold it open. */
const STDERR_MS = 250;

/** Milliseconds between looks for what is left of a group. */
const FIRST_LOOK_MS = 2;
const LAST_LOOK_MS = 200;

/** Children that die with this process, so that none takes a cut stream for a whole one. */
const living = new Set<ChildExit>();

function killLiving(): void {
  for (const child of living) child.signal('SIGKILL');
}

/** How a child process ends: on its own, or because it is made to; with its status and last words. */
export class ChildExit {
  readonly #child: ChildProcess;
  readonly #isGroup: boolean;
  readonly #graceMs: number;
  /** Settles once `hasEnded` is true. */
  readonly ended: Promise<void>;
  #resolveEnded: () => void = noop;
  #stderr = Buffer.alloc(0);
  #spawnError: Error | undefined;
  #hasEnded = false;
  #wasForced = false;
  #forced: Promise<void> | undefined;

  /**
   * @param child - The child.
   * @param isGroup - Whether it leads a process group of its own, which ends with it.
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
      if (living.size === 0) process.on('exit', killLiving);
      living.add(this);
    }
  }

  /** True once the child's status and last words are known, or it could not be started. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** False when the child could not be started, even before it is known why. */
  get hasStarted(): boolean {
    return this.#child.pid !== undefined;
  }

  /** Why the child could not be started. */
  get startFailure(): Failure | undefined {
    const error = this.#spawnError;
    return error && ((operation, position) => toQemuFileError(error, { operation, position }));
  }

  /** Why the child is to blame: it was not started, or ended on its own in other than status 0. */
  get failure(): Failure | undefined {
    if (this.#spawnError !== undefined) return this.startFailure;
    if (!this.#hasExited || this.#wasForced || this.#child.exitCode === 0) return undefined;
    return failure('EIO', this.describe());
  }

  /** Says how the child ended, and its last words, in a clause. */
  describe(): string {
    const { exitCode, signalCode } = this.#child;
    let how = 'the command still runs';
    if (signalCode !== null) how = `the command was ended by ${signalCode}`;
    else if (exitCode !== null) how = `the command exited with status ${exitCode}`;
    const lines = this.#stderr.toString().split(/\p{Cc}+/u);
    const words = lines.filter((line) => line.trim() !== '').join(' | ');
    return words === '' ? how : `${how}, and said on stderr: "${words}"`;
  }

  /** Ends the child, and the group that it leads: SIGTERM, and SIGKILL for what is left after the grace. */
  force(): Promise<void> {
    this.#forced ??= this.#force();
    return this.#forced;
  }

  /** Sends a signal to the child, and to the group that it leads; says whether anyone got it. */
  signal(name: NodeJS.Signals): boolean {
    const { pid } = this.#child;
    if (pid === undefined) return false;
    return this.#isGroup ? signalGroup(pid, name) : this.#child.kill(name);
  }

  /** Stops listening to the child, and lets go of its standard error. */
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
    const backoff = new Backoff(FIRST_LOOK_MS, LAST_LOOK_MS);
    // The group can outlive its leader, and nobody tells when it is gone.
    for (let left = this.#graceMs; left > 0; ) {
      if (this.#hasExited && !(this.#isGroup && (await isGroupAlive(pid)))) return this.ended;
      const ms = Math.min(backoff.next(), left);
      left -= ms;
      await sleep(ms);
    }
    this.signal('SIGKILL');
    await this.ended;
  }

  get #hasExited(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  readonly #onExit = (): void => {
    this.#wasForced = this.#forced !== undefined;
    this.#forget();
    const { stderr } = this.#child;
    if (stderr) void closes(stderr, STDERR_MS).then(() => this.#end());
    else this.#end();
  };

  readonly #onError = (error: Error): void => {
    // After a start, errors are of signals that did not reach it; its exit still comes.
    if (this.#child.pid !== undefined) return;
    this.#spawnError = error;
    this.#forget();
    this.#end();
  };

  readonly #onStderr = (chunk: Buffer | string): void => {
    const whole = Buffer.concat([
      this.#stderr,
      typeof chunk === 'string' ? Buffer.from(chunk) : chunk,
    ]);
    this.#stderr = whole.subarray(Math.max(0, whole.length - STDERR_TAIL));
  };

  #end(): void {
    this.#hasEnded = true;
    this.#resolveEnded();
  }

  #forget(): void {
    living.delete(this);
    if (living.size === 0) process.off('exit', killLiving);
  }

  async #closeStderr(): Promise<void> {
    const { stderr } = this.#child;
    if (!stderr) return;
    await destroyStream(stderr);
    stderr.off('data', this.#onStderr);
    stderr.off('error', noop);
  }
}

function closes(stream: Readable, timeoutMs: number): Promise<void> {
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
