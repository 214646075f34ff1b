import type { ConnectionOptions, TlsOptions } from 'node:tls';
import { argumentError } from '../lib/contract/argument-error.ts';
import { abortError, QemuFileError, toQemuFileError } from '../lib/contract/errors.ts';
import type { Direction, QemuFileOps } from '../lib/contract/ops.ts';
import type { QemuFileOptions } from '../lib/qemu-file/options.ts';
import { QemuFile } from '../lib/qemu-file/qemu-file.ts';
import type { KeepPartial } from './file/open-file.ts';
import { openPath } from './open-path.ts';
import type { PipeOptions } from './pipe/pipe.ts';
import type { AdmissionOptions } from './socket/listen/admit.ts';
import type { ListenOptions } from './socket/listen/listen.ts';
import type { SocketTarget } from './socket/socket-target.ts';
import { parseUri, URI_FORMS, type Uri } from './uri.ts';

/*
 * Each backend is loaded when it is opened: most programs open one or two kinds, and start faster that way.
 */

/** Options of both `openFrom` and `openTo`. */
export interface OpenOptions {
  /** Ends the call with `ECANCELED`, and frees what was opened. It has no effect on the open file. */
  signal?: AbortSignal | undefined;
  /** Milliseconds to wait for the peer of a socket or FIFO. Default: the system's own limit, if any. */
  timeoutMs?: number | undefined;
  /** Options of the file; its `signal` has an effect as long as the file is open. */
  file?: QemuFileOptions | undefined;
}

/** How `openFrom` opens. */
export interface OpenFromOptions extends OpenOptions {
  /** Encrypt the connection, with these options of `tls.createServer`. For `tcp:` and `unix:` only. */
  tls?: TlsOptions | undefined;
  /** Called when the socket listens, with the port that the system chose. */
  onListening?: ((address: SocketTarget) => void) | undefined;
  /**
   * Accept a connection only by its first bytes, as `admit` does; `{}` accepts the first one that sends
   * anything. For `tcp:` and `unix:`. Default: accept the first connection, even before it sends anything.
   */
  admission?: AdmissionOptions | undefined;
  /** Called with each connection that failed before it was accepted, for example by its certificate. */
  onConnectionError?: ListenOptions['onConnectionError'];
  /** As for `fdOps`; for files only. */
  inlineReads?: boolean | undefined;
}

/** How `openTo` opens. */
export interface OpenToOptions extends OpenOptions {
  /** Encrypt the connection, with these options of `tls.connect`. For `tcp:` and `unix:` only. */
  tls?: ConnectionOptions | undefined;
  /** As for `socketOps`, with `tls`; but false by default, because QEMU does not read the alert on its main channel. */
  closeNotify?: boolean | undefined;
  /** As for `openFd`; for files only. */
  keepPartial?: boolean | KeepPartial | undefined;
}

const SCHEMES: readonly unknown[] = ['tcp', 'unix', 'exec', 'fd', 'stdio', 'file'];
const STDIN = 0;
const STDOUT = 1;

/**
 * Open the source of a migration, as QEMU's `-incoming` does: `tcp:` and `unix:` listen for one connection,
 * `exec:` reads the output of the command, the others read. With `tcp:`, an empty host means this machine
 * only, where QEMU listens on every interface: write `tcp:0.0.0.0:port` or `tcp:[::]:port` for that.
 *
 * @param uri - Text as for `parseUri`, or its result.
 * @param options - `signal`, `timeoutMs`, `tls`, `onListening`, `admission`, `onConnectionError`,
 *   `inlineReads`, `file`.
 * @returns A file. One over a socket can also be written: that is its return path.
 * @throws {QemuFileError} As `parseUri`, `listenSocket`, `admit`, `openPath`, `pipeOps` and `execOps`;
 *   `ETIMEDOUT`; `ECANCELED` by the signal; `EINVAL` for `tls` with a URI that is not a socket's.
 *
 * @example
 * ```js
 * const file = await openFrom('unix:/run/vm.sock');
 * console.log((await file.readBe32()).toString(16)); // 5145564d, once a QEMU has migrated there
 * ```
 */
export function openFrom(uri: string | Uri, options: OpenFromOptions = {}): Promise<QemuFile> {
  return open('openFrom', uri, options, (endpoint, signal) => {
    switch (endpoint.scheme) {
      case 'tcp':
        return accept({ host: endpoint.host, port: endpoint.port }, options, signal);
      case 'unix':
        return accept({ path: endpoint.path }, options, signal);
      case 'exec':
        return run(endpoint.command, 'read');
      case 'fd':
        return openPipe(endpoint.fd, { direction: 'read' });
      case 'stdio':
        return openPipe(STDIN);
      case 'file':
        return openPath(endpoint.path, {
          direction: 'read',
          offset: endpoint.offset,
          signal,
          inlineReads: options.inlineReads,
        });
    }
  });
}

/**
 * Open the destination of a migration, as QEMU's `migrate` does: `tcp:` (an empty host is this machine) and
 * `unix:` connect, `exec:` writes the input of the command, the others write. A file appears under its name
 * only when the `QemuFile` is closed without an error; see `openFd`.
 *
 * @param uri - Text as for `parseUri`, or its result.
 * @param options - `signal`, `timeoutMs`, `tls`, `closeNotify`, `keepPartial`, `file`.
 * @returns A file. One over a socket can also be read: that is its return path.
 * @throws {QemuFileError} As `parseUri`, `connectSocket`, `openPath`, `pipeOps` and `execOps`; `ETIMEDOUT`;
 *   `ECANCELED` by the signal; `EINVAL` for port 0, and for `tls` with a URI that is not a socket's.
 *
 * @example
 * ```js
 * const file = await openTo('exec:gzip -c > guest.mig.gz', { file: { maxBandwidth: 32 * 2 ** 20 } });
 * ```
 */
export function openTo(uri: string | Uri, options: OpenToOptions = {}): Promise<QemuFile> {
  return open('openTo', uri, options, (endpoint, signal) => {
    switch (endpoint.scheme) {
      case 'tcp':
        if (endpoint.port === 0)
          throw openError(
            'EINVAL',
            'cannot connect to port 0; write the port of the listening side',
          );
        return connect({ host: endpoint.host, port: endpoint.port }, options, signal);
      case 'unix':
        return connect({ path: endpoint.path }, options, signal);
      case 'exec':
        return run(endpoint.command, 'write');
      case 'fd':
        return openPipe(endpoint.fd, { direction: 'write' });
      case 'stdio':
        return openPipe(STDOUT);
      case 'file':
        return openPath(endpoint.path, {
          direction: 'write',
          offset: endpoint.offset,
          signal,
          keepPartial: options.keepPartial,
        });
    }
  });
}

type Opener = (uri: Uri, signal: AbortSignal | undefined) => QemuFileOps | Promise<QemuFileOps>;

async function open(
  operation: string,
  uri: string | Uri,
  options: OpenFromOptions | OpenToOptions,
  opener: Opener,
): Promise<QemuFile> {
  const endpoint = typeof uri === 'string' ? parseUri(uri) : uri;
  if (!SCHEMES.includes(endpoint?.scheme)) {
    throw argumentError(operation, 'uri', `${URI_FORMS}, or the result of parseUri`, uri);
  }
  const { signal, timeoutMs } = options;
  if (options.tls !== undefined && endpoint.scheme !== 'tcp' && endpoint.scheme !== 'unix') {
    throw openError('EINVAL', `${endpoint.scheme}: does not support TLS; use tcp: or unix:`);
  }
  if (signal?.aborted) throw abortError(signal, 'open');
  const timeout = timeoutMs === undefined ? undefined : AbortSignal.timeout(timeoutMs);
  const signals = [signal, timeout].filter((one) => one !== undefined);
  let ops: QemuFileOps;
  try {
    ops = await opener(endpoint, signals.length > 1 ? AbortSignal.any(signals) : signals[0]);
  } catch (error) {
    if (timeout?.aborted && !signal?.aborted) {
      const reason = `timed out after ${timeoutMs} ms waiting for the other end`;
      throw openError('ETIMEDOUT', reason, error);
    }
    throw toQemuFileError(error, { operation: 'open' });
  }
  try {
    if (signal?.aborted) throw abortError(signal, 'open');
    return new QemuFile(ops, options.file);
  } catch (error) {
    await ops.close?.(error as Error);
    throw error;
  }
}

async function accept(
  target: SocketTarget,
  { tls, onConnectionError, admission, onListening }: OpenFromOptions,
  signal: AbortSignal | undefined,
): Promise<QemuFileOps> {
  const { acceptOne } = await import('./socket/open-socket.ts');
  return acceptOne(target, { signal, tls, onConnectionError, admission, onListening });
}

async function connect(
  target: SocketTarget,
  { tls, closeNotify = false }: OpenToOptions,
  signal: AbortSignal | undefined,
): Promise<QemuFileOps> {
  const { connectOne } = await import('./socket/open-socket.ts');
  return connectOne(target, { signal, tls, closeNotify });
}

async function openPipe(fd: number, options?: PipeOptions): Promise<QemuFileOps> {
  const { pipeOps } = await import('./pipe/pipe.ts');
  return pipeOps(fd, options);
}

async function run(command: string, direction: Direction): Promise<QemuFileOps> {
  const { execOps } = await import('./process/exec.ts');
  return execOps(command, direction);
}

function openError(code: string, reason: string, cause?: unknown): QemuFileError {
  return new QemuFileError(code, reason, { operation: 'open', cause });
}
