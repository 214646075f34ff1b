import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import { noop } from '../../lib/util/noop.ts';
import { ChildExit } from '../process/child-exit.ts';
import { destroyStream } from '../stream/destroy-stream.ts';

/** Milliseconds from SIGTERM to SIGKILL of a tool that is not needed any more. */
const GRACE_MS = 2000;

/** A running tool of the system: found in `PATH` and called without a shell. */
export class ExternalTool {
  /** Where the system had no descriptors left Node makes no streams, whatever was asked for. */
  readonly stdin: Writable | undefined;
  readonly stdout: Readable | undefined;
  readonly end: ChildExit;
  readonly #name: string;
  readonly #operation: string;

  /**
   * @param name - Of the tool, and of the format that it is for.
   * @param args - Its arguments.
   * @param operation - What it does, as errors say it.
   * @throws {QemuFileError} The system's own code, if it has no room for one more process.
   */
  constructor(name: string, args: readonly string[], operation: string) {
    this.#name = name;
    this.#operation = operation;
    const child = start(name, args, operation);
    this.end = new ChildExit(child, false, GRACE_MS);
    const { stdin, stdout } = child as Partial<ChildProcess>;
    this.stdin = stdin ?? undefined;
    this.stdout = stdout ?? undefined;
    for (const stream of this.#streams) stream.on('error', noop);
  }

  /**
   * Tells why it failed, once it has ended; undefined if it did not.
   *
   * @param position - Byte of the stream that the error is to name.
   * @param advice - What to do where there is no such tool, as a clause.
   */
  failure(position: number, advice: string): Error | undefined {
    const operation = this.#operation;
    const cause = this.end.startFailure?.(operation, position);
    if (cause?.code !== 'ENOENT') return cause ?? this.end.failure?.(operation, position);
    const reason = `there is no ${this.#name} here to ${operation} with: ${advice}`;
    return new QemuFileError('ENOTSUP', reason, { operation, cause });
  }

  /** Ends it, if it still runs, and frees its streams. */
  async close(): Promise<void> {
    await this.end.force();
    await this.end.release();
    for (const stream of this.#streams) {
      await destroyStream(stream);
      stream.off('error', noop);
    }
  }

  get #streams(): (Readable | Writable)[] {
    return [this.stdin, this.stdout].filter((stream) => stream !== undefined);
  }
}

function start(name: string, args: readonly string[], operation: string): ChildProcess {
  try {
    return spawn(name, args, { stdio: 'pipe' });
  } catch (error) {
    throw toQemuFileError(error, { operation });
  }
}
