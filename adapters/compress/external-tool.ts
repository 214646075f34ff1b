import { type ChildProcess, spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import { noop } from '../../lib/util/noop.ts';
import { ChildExit } from '../process/child-exit.ts';
import { destroyStream } from '../stream/destroy-stream.ts';

/** Milliseconds from SIGTERM to SIGKILL when a tool is closed while it runs. */
const GRACE_MS = 2000;

/** Open descriptors, or sockets, that a tool inherits. They may be closed once it was started. */
export interface ToolDescriptors {
  stdin?: number | undefined;
  stdout?: number | Socket | undefined;
}

/** A running tool of the system, found in `PATH` and started without a shell. */
export class ExternalTool {
  /**
   * Both are absent with a descriptor in their place, and when the system is out of descriptors: Node then creates no
   * streams even though they were requested.
   */
  readonly stdin: Writable | undefined;
  readonly stdout: Readable | undefined;
  readonly end: ChildExit;
  readonly #name: string;
  readonly #operation: string;

  /**
   * @param name - Name of the tool, which is also that of its format.
   * @param args - Its arguments.
   * @param operation - Its work, as a verb that errors name.
   * @param descriptors - Descriptors that become its standard input and output. Default: the streams `stdin` and
   *   `stdout`.
   * @param starter - A command, with its arguments, that starts the tool in its own place. Default: none.
   * @throws {QemuFileError} The system's own code (`EAGAIN`, `EMFILE` …) if it cannot start another process.
   */
  constructor(
    name: string,
    args: readonly string[],
    operation: string,
    descriptors: ToolDescriptors = {},
    starter: readonly string[] = [],
  ) {
    this.#name = name;
    this.#operation = operation;
    const child = startTool([...starter, name, ...args], operation, descriptors);
    this.end = new ChildExit(child, false, GRACE_MS);
    const { stdin, stdout } = child as Partial<ChildProcess>;
    this.stdin = stdin ?? undefined;
    this.stdout = stdout ?? undefined;
    for (const stream of this.#streams) stream.on('error', noop);
  }

  /**
   * Return the tool's failure after it has ended; undefined if it succeeded.
   *
   * @param position - Offset in the stream that the error names; undefined where it is not known.
   * @param advice - What to do if the tool is not installed, as a clause.
   */
  failure(position: number | undefined, advice: string): Error | undefined {
    const operation = this.#operation;
    const cause = this.end.startFailure?.(operation, position);
    if (cause?.code !== 'ENOENT') return cause ?? this.end.failure?.(operation, position);
    const reason = `cannot ${operation}: ${this.#name} is not installed; ${advice}`;
    return new QemuFileError('ENOTSUP', reason, { operation, cause });
  }

  /** End the tool if it is still running, and free its streams. */
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

function startTool(
  [program = '', ...args]: readonly string[],
  operation: string,
  { stdin, stdout }: ToolDescriptors,
): ChildProcess {
  try {
    return spawn(program, args, { stdio: [stdin ?? 'pipe', stdout ?? 'pipe', 'pipe'] });
  } catch (error) {
    throw toQemuFileError(error, { operation });
  }
}
