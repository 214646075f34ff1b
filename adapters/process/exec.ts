import { type ChildProcess, spawn } from 'node:child_process';
import { checkMethods, checkString, checkWord } from '../../lib/contract/argument-error.ts';
import { abortError, QemuFileError, toQemuFileError } from '../../lib/contract/errors.ts';
import type { Direction, OpsOf, ReadOps, WriteOps } from '../../lib/contract/ops.ts';
import { type ConnectionOps, shareTransport } from '../shared/shared-transport.ts';
import { PIPE_SIZES } from '../shared/sizes.ts';
import { ChildTransport } from './child-transport.ts';

/** Options of `processOps`. */
export interface ProcessOptions {
  /**
   * Ends the child at any time. Pending and later operations, and `close()`, then fail with `ECANCELED`.
   */
  signal?: AbortSignal | undefined;
  /**
   * Milliseconds from SIGTERM to SIGKILL when the child is ended. Also the longest wait for the exit status
   * of a child that stopped reading. Default 2000.
   */
  graceMs?: number | undefined;
}

/** Options of `execOps`. */
export interface ExecOptions extends ProcessOptions {
  /** Working directory. Default: that of this process. */
  cwd?: string | undefined;
  /** Environment. Default: that of this process. */
  env?: NodeJS.ProcessEnv | undefined;
}

/** The backend over a child process: for both directions, one with a return path. */
export type ChildOps<D extends Direction | 'both'> = D extends Direction ? OpsOf<D> : ConnectionOps;

/**
 * Run a command in `/bin/sh` and make a backend of its standard output or input: QEMU's `exec:command`. The
 * unused one of the two is `/dev/null`. The last 2 KiB of standard error are kept for error messages.
 *
 * - A command that exits with a status other than 0 is an error. With `read`, the end of its output is reported
 *   only after it has exited, and is then `EIO`. With `write`, `close()` ends its input, waits for its exit, and
 *   rejects with `EIO`.
 * - A write to a command that stopped reading fails with `EPIPE`, and the message names how the command ended.
 * - `close()` before the end of its output, `close(error)`, and a `shutDown()` while a batch is pending end the
 *   command and its process group: SIGTERM, then SIGKILL `graceMs` later. Its status is then ignored. Otherwise
 *   `shutDown(false, true)` ends its input.
 * - The command is killed when this process exits, but not when this process is itself killed. Ctrl-C does not
 *   reach it, because it is not in the terminal's foreground process group.
 * - Its standard streams are socket pairs, as Node creates them: `cat -` can read one, `cat /dev/stdin` cannot.
 *
 * With `both`, the backend has both directions and a return path, as that of `socketOps`, and the end of the
 * output is reported at once.
 *
 * @param command - The command for `sh -c`. It must not contain anything that comes from a stream.
 * @param direction - `read` its output, `write` its input, or `both`.
 * @param options - `signal`, `graceMs`, `cwd`, `env`.
 * @throws {QemuFileError} `ECANCELED` the signal is already aborted; `EINVAL` the command contains NUL. If the
 *   command cannot be started, each operation and `close()` fail with the system's code.
 * @example
 * ```js
 * const file = new QemuFile(execOps('gzip > guest.mig.gz', 'write'));
 * ```
 */
export function execOps<D extends Direction | 'both'>(
  command: string,
  direction: D,
  options: ExecOptions = {},
): ChildOps<D> {
  checkString('execOps', 'command', command);
  checkWord('execOps', 'direction', ['read', 'write', 'both'], direction);
  if (options.signal?.aborted) throw abortError(options.signal, 'exec');
  if (command.includes('\0')) {
    throw new QemuFileError('EINVAL', 'a command must not contain NUL', { operation: 'exec' });
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
      cwd: options.cwd,
      env: options.env,
    });
  } catch (error) {
    throw toQemuFileError(error, { operation: 'exec' });
  }
  return childOps(child, direction, true, options) as ChildOps<D>;
}

/**
 * Make a backend of a child process: `getBuffer` reads its standard output, `writevBuffer` writes its standard
 * input, each where it is a pipe. The backend owns the child from then on, as with `execOps`, except that only
 * the child itself is ended, not its own children. If standard error is a pipe, it is read for error messages.
 *
 * @param child - A new child from `spawn`, whose streams have not been used.
 * @param options - `signal`, `graceMs`.
 * @throws {QemuFileError} `ECANCELED` the signal is already aborted.
 * @example
 * ```js
 * const file = new QemuFile(processOps(spawn('ssh', ['host', 'qemu-file', 'relay', '-', 'unix:/vm'])));
 * ```
 */
export function processOps(
  child: ChildProcess,
  options: ProcessOptions = {},
): ReadOps | WriteOps | ConnectionOps {
  checkMethods('processOps', 'child', CHILD, child);
  if (options.signal?.aborted) throw abortError(options.signal, 'exec');
  const direction = child.stdin === null ? 'read' : child.stdout === null ? 'write' : 'both';
  return childOps(child, direction, false, options);
}

const CHILD = { methods: ['kill', 'on'], allowed: 'a ChildProcess of node:child_process' };

function childOps(
  child: ChildProcess,
  direction: Direction | 'both',
  isGroup: boolean,
  options: ProcessOptions,
): ReadOps | WriteOps | ConnectionOps {
  const transport = new ChildTransport(child, direction, isGroup, options);
  if (direction === 'both') return shareTransport(transport);
  const ops = {
    close: (error?: Error) => transport.close(error),
    shutDown: (read: boolean, write: boolean) => transport.shutDown(read, write),
    getFd: () => transport.getFd(),
    sizes: PIPE_SIZES,
  };
  return direction === 'read'
    ? { ...ops, getBuffer: (buffer, position) => transport.getBuffer(buffer, position) }
    : { ...ops, writevBuffer: (buffers, position) => transport.writevBuffer(buffers, position) };
}
