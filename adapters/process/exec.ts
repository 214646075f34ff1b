import { type ChildProcess, spawn } from 'node:child_process';
import { abortError, QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { MaybePromise, QemuFileOps } from '../../lib/contract/ops.ts';
import { type ConnectionOps, shareTransport } from '../shared/shared-transport.ts';
import { PIPE_SIZES } from '../shared/sizes.ts';
import { type ChildDirection, ChildTransport } from './child-transport.ts';

/** How a child process is dealt with. */
export interface ProcessOptions {
  /** Ends the child at any time; what waits, what comes later and `close()` fail with `ECANCELED`. */
  signal?: AbortSignal | undefined;
  /**
   * Milliseconds that a child has between SIGTERM and SIGKILL when it is ended, and that the status
   * of one that stopped reading is waited for. Default 2000.
   */
  graceMs?: number | undefined;
}

/** How a command is started. */
export interface ExecOptions extends ProcessOptions {
  /** Working directory. Default: this process's. */
  cwd?: string | undefined;
  /** Environment. Default: this process's. */
  env?: NodeJS.ProcessEnv | undefined;
}

/** What every table over a child process has. */
export interface ChildOps extends QemuFileOps {
  close(error?: Error): Promise<void>;
  shutDown(read: boolean, write: boolean): Promise<void>;
}

/** A child whose standard output is read. */
export interface ChildReadOps extends ChildOps {
  getBuffer(buffer: Uint8Array, position: number): MaybePromise<number | Uint8Array>;
  writevBuffer?: never;
}

/** A child whose standard input is written. */
export interface ChildWriteOps extends ChildOps {
  writevBuffer(buffers: readonly Uint8Array[], position: number): MaybePromise<number>;
  getBuffer?: never;
}

/**
 * Runs a command in `/bin/sh` and makes a backend of its standard output or input: QEMU's
 * `exec:command`. The unused one of the two is `/dev/null`; of standard error the last 2 KiB are kept
 * for messages.
 *
 * - The command is to blame when it does not exit with status 0. When it writes (`read`), the end of
 *   its output is not given before it has exited, and is `EIO` then; when it reads (`write`), `close()`
 *   ends its input, waits for it, and rejects with `EIO`.
 * - A command that stops reading is `EPIPE`, and the message says how it ended.
 * - `close()` before the end of its output, `close(error)`, and a `shutDown()` in the middle of a batch
 *   end it and the process group that it leads: SIGTERM, and SIGKILL `graceMs` later. How it ends then
 *   is no error. `shutDown(false, true)` otherwise ends its input.
 * - It is killed when this process exits, but not when this process is itself killed; since it does not
 *   belong to the terminal's foreground group, Ctrl-C does not reach it.
 * - Its standard streams are socket pairs, as Node makes them: `cat -` can read one, `cat /dev/stdin`
 *   cannot.
 *
 * With both streams the table is two-way and has a return path, as that of `socketOps`; then the end of
 * the output is given at once.
 *
 * @param command - For `sh -c`. Never put anything into it that comes out of a stream.
 * @param direction - `read` its output, `write` its input, or both.
 * @param options - `signal`, `graceMs`, `cwd`, `env`.
 * @throws {QemuFileError} `ECANCELED` the signal was aborted already; `EINVAL` what cannot be a command.
 *   A command that cannot be started fails each operation and `close()` with the system's code.
 * @example
 * ```js
 * const file = new QemuFile(execOps('gzip > guest.mig.gz', 'write'));
 * ```
 */
export function execOps(command: string, direction: 'read', options?: ExecOptions): ChildReadOps;
export function execOps(command: string, direction: 'write', options?: ExecOptions): ChildWriteOps;
export function execOps(command: string, direction: 'both', options?: ExecOptions): ConnectionOps;
export function execOps(
  command: string,
  direction: ChildDirection,
  options?: ExecOptions,
): ChildOps | ConnectionOps;
export function execOps(
  command: string,
  direction: ChildDirection,
  options: ExecOptions = {},
): ChildOps | ConnectionOps {
  if (options.signal?.aborted) throw abortError(options.signal, 'exec');
  if (command.includes('\0')) {
    throw new QemuFileError('EINVAL', 'a command has no NUL in it', { operation: 'exec' });
  }
  let child: ChildProcess;
  try {
    child = spawn('/bin/sh', ['-c', command], {
      stdio: [
        direction === 'read' ? 'ignore' : 'pipe',
        direction === 'write' ? 'ignore' : 'pipe',
        'pipe',
      ],
      detached: true,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.env === undefined ? {} : { env: options.env }),
    });
  } catch (error) {
    throw toQemuFileError(error, { operation: 'exec' });
  }
  return childTable(child, direction, true, options);
}

/**
 * Makes a backend of a child process: `getBuffer` over its standard output, `writevBuffer` over its
 * standard input, each where it is a pipe. It is the backend's from then on, as for `execOps`; but only
 * the child itself is ended, not its own children. Standard error, where it is a pipe, is read for messages.
 *
 * @param child - Fresh from `spawn`: nobody has read or written its streams.
 * @param options - `signal` and `graceMs`.
 * @throws {QemuFileError} `ECANCELED` the signal was aborted already.
 * @example
 * ```js
 * const file = new QemuFile(processOps(spawn('ssh', ['host', 'qemu-file', 'relay', '-', 'unix:/vm'])));
 * ```
 */
export function processOps(
  child: ChildProcess,
  options: ProcessOptions = {},
): ChildOps | ConnectionOps {
  if (options.signal?.aborted) throw abortError(options.signal, 'exec');
  const direction = child.stdin === null ? 'read' : child.stdout === null ? 'write' : 'both';
  return childTable(child, direction, false, options);
}

function childTable(
  child: ChildProcess,
  direction: ChildDirection,
  isGroup: boolean,
  options: ProcessOptions,
): ChildOps | ConnectionOps {
  const transport = new ChildTransport(child, direction, isGroup, options);
  if (direction === 'both') return shareTransport(transport);
  return {
    ...(direction === 'read'
      ? { getBuffer: (buffer, position) => transport.getBuffer(buffer, position) }
      : { writevBuffer: (buffers, position) => transport.writevBuffer(buffers, position) }),
    close: (error) => transport.close(error),
    shutDown: (read, write) => transport.shutDown(read, write),
    sizes: PIPE_SIZES,
  };
}
