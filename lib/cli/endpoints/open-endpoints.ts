import { fstatSync } from 'node:fs';
import {
  describeTarget,
  type KeepPartial,
  openFrom,
  openTo,
  type SocketTarget,
  type Uri,
} from '../../../adapters/index.ts';
import { type QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import type { QemuFileOptions } from '../../qemu-file/options.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { RelayEnd } from '../../relay/relay.ts';
import { printStderr } from '../shell/stdio.ts';
import { connectionFilter } from './connection-filter.ts';
import type { TlsEnds } from './tls-credentials.ts';

/** What a relay is to be opened with. */
export interface Endpoints {
  from: Uri;
  to: Uri;
  /** Path of the copy. */
  tee?: string | undefined;
  /** Options of the file that `to` becomes. */
  toOptions: QemuFileOptions;
  /** Decides whether what did not become a file is kept. */
  keepPartial?: KeepPartial | undefined;
  /** Whether whoever sends anything is let in where this listens. */
  anything?: boolean | undefined;
  /** How the ends speak TLS, if they do. */
  tls?: TlsEnds | undefined;
  signal: AbortSignal;
  quiet: boolean;
}

/** The files of a relay. */
export interface OpenEndpoints {
  from: QemuFile;
  to: QemuFile;
  tee: QemuFile | undefined;
}

/** The first end that could not be opened. */
export interface OpenFailure {
  end: RelayEnd;
  error: QemuFileError;
}

/**
 * Opens all ends, or none: those that were open already are destroyed if another fails.
 *
 * `to` is opened once `from` is open, because a QEMU that waits for a migration gives up when the
 * connection ends without one. Files are opened at once: one that cannot be written should be known
 * before a source has connected.
 */
export async function openEndpoints(endpoints: Endpoints): Promise<OpenEndpoints | OpenFailure> {
  const { from, to, tee, toOptions, keepPartial, tls } = endpoints;
  const stop = new AbortController();
  const signal = AbortSignal.any([endpoints.signal, stop.signal]);
  const opened: QemuFile[] = [];
  let failure: OpenFailure | undefined;

  const open = async (end: RelayEnd, opening: () => Promise<QemuFile>): Promise<QemuFile> => {
    try {
      const file = await opening();
      opened.push(file);
      return file;
    } catch (error) {
      failure ??= { end, error: toQemuFileError(error) };
      stop.abort();
      throw error;
    }
  };
  const onListening = endpoints.quiet ? undefined : printListening;
  const door = connectionFilter(endpoints);
  const openingFrom = open('from', () =>
    openFrom(from, { signal, onListening, tls: tls?.from, ...door }),
  );
  const openTheTo = (): Promise<QemuFile> =>
    open('to', () => openTo(to, { signal, file: toOptions, keepPartial, tls: tls?.to }));
  const openingTo = to.scheme === 'file' ? openTheTo() : openingFrom.then(openTheTo);
  const openingTee =
    tee === undefined
      ? Promise.resolve(undefined)
      : open('tee', () => openTo({ scheme: 'file', path: tee, offset: 0 }, { signal }));
  const all = [openingFrom, openingTo, openingTee] as const;
  await Promise.allSettled(all);
  if (failure === undefined) {
    const [fromFile, toFile, teeFile] = await Promise.all(all);
    return { from: fromFile, to: toFile, tee: teeFile };
  }
  for (const file of opened) file.destroy(failure.error);
  await Promise.allSettled(opened.map((file) => file.close()));
  return failure;
}

/** Says where a relay listens. */
export function printListening(address: SocketTarget): void {
  void printStderr(`listening on ${describeTarget(address)}`);
}

/** How many bytes will come from an end, where that is known. */
export function sizeOf(uri: Uri, file: QemuFile): number | undefined {
  const fd = file.getFd();
  if (fd < 0 || (uri.scheme !== 'file' && uri.scheme !== 'stdio')) return undefined;
  const stats = fstatSync(fd);
  if (!stats.isFile()) return undefined;
  return Math.max(0, stats.size - (uri.scheme === 'file' ? uri.offset : 0));
}

/** Whether what goes to an endpoint goes to standard output, so that nothing else may. */
export function isStdout(uri: Uri): boolean {
  return isStandard(uri, 1, 'stdout');
}

/** Whether what comes from an endpoint comes from standard input, so that nothing else can. */
export function isStdin(uri: Uri): boolean {
  return isStandard(uri, 0, 'stdin');
}

function isStandard(uri: Uri, fd: number, name: string): boolean {
  if (uri.scheme === 'stdio') return true;
  if (uri.scheme === 'fd') return uri.fd === fd;
  const paths = [`/dev/${name}`, `/dev/fd/${fd}`, `/proc/self/fd/${fd}`];
  return uri.scheme === 'file' && paths.includes(uri.path);
}
