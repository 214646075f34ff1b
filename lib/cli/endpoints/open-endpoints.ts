import { fstatSync } from 'node:fs';
import type { KeepPartial } from '../../../adapters/file/open-file.ts';
import { openTo } from '../../../adapters/open.ts';
import { describeTarget, type SocketTarget } from '../../../adapters/socket/socket-target.ts';
import { type QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import type { QemuFileOptions } from '../../qemu-file/options.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { RelayEnd } from '../../relay/relay-types.ts';
import { printStderr } from '../shell/stdio.ts';
import { connectionFilter } from './connection-filter.ts';
import {
  type Endpoint,
  isSnapshot,
  openFromEndpoint,
  openToEndpoint,
  type StoreFlags,
} from './endpoint.ts';
import type { TlsEnds } from './tls/credentials.ts';

/** The endpoints of a relay, and how to open them. */
export interface Endpoints {
  from: Endpoint;
  to: Endpoint;
  /** How a snapshot is written, if `to` is one. */
  store?: StoreFlags | undefined;
  /** Path of the copy. */
  tee?: string | undefined;
  /** Options of the file that is opened for `to`. */
  toOptions: QemuFileOptions;
  /** Returns whether to keep the partial file of `to` after a failure. */
  keepPartial?: KeepPartial | undefined;
  /** Where `from` listens, accept any peer that sends something. */
  anything?: boolean | undefined;
  /** How the ends speak TLS, if they do. */
  tls?: TlsEnds | undefined;
  signal: AbortSignal;
  quiet: boolean;
}

/** The open files of a relay. */
export interface OpenEndpoints {
  from: QemuFile;
  to: QemuFile;
  tee: QemuFile | undefined;
}

/** The first endpoint that could not be opened. */
export interface OpenFailure {
  end: RelayEnd;
  error: QemuFileError;
}

/**
 * Open all endpoints or none: if one fails, the open ones are destroyed.
 *
 * A socket `to` is opened after `from`, because a QEMU that waits for a migration gives up if a connection ends
 * without one. A file or a snapshot `to` is opened at once, so that one which cannot be written is reported before
 * a source connects.
 */
export async function openEndpoints(endpoints: Endpoints): Promise<OpenEndpoints | OpenFailure> {
  const { from, to, tee, toOptions, keepPartial, tls } = endpoints;
  const stop = new AbortController();
  const signal = AbortSignal.any([endpoints.signal, stop.signal]);
  const opened: QemuFile[] = [];
  let failure: OpenFailure | undefined;

  const open = async (end: RelayEnd, openFile: () => Promise<QemuFile>): Promise<QemuFile> => {
    try {
      const file = await openFile();
      opened.push(file);
      return file;
    } catch (error) {
      failure ??= { end, error: toQemuFileError(error) };
      stop.abort();
      throw error;
    }
  };
  const onListening = endpoints.quiet ? undefined : printListening;
  const filter = connectionFilter(endpoints);
  const openingFrom = open('from', () =>
    openFromEndpoint(from, {
      signal,
      onListening,
      tls: tls?.from,
      inlineReads: true,
      ...filter,
    }),
  );
  const startTo = (): Promise<QemuFile> =>
    open('to', () =>
      openToEndpoint(
        to,
        { signal, file: toOptions, keepPartial, tls: tls?.to },
        endpoints.store ?? {},
      ),
    );
  const openingTo = to.scheme === 'file' || isSnapshot(to) ? startTo() : openingFrom.then(startTo);
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

/** Print the address on which a command listens to standard error. */
export function printListening(address: SocketTarget): void {
  void printStderr(`listening on ${describeTarget(address)}`);
}

/** Return how many bytes an endpoint will provide; undefined unless it is a regular file. */
export function sizeOf(uri: Endpoint, file: QemuFile): number | undefined {
  const fd = file.getFd();
  if (fd < 0 || (uri.scheme !== 'file' && uri.scheme !== 'stdio')) return undefined;
  const stats = fstatSync(fd);
  if (!stats.isFile()) return undefined;
  return Math.max(0, stats.size - (uri.scheme === 'file' ? uri.offset : 0));
}

/** Return whether an endpoint writes to standard output, which then cannot carry anything else. */
export function isStdout(uri: Endpoint): boolean {
  return isStandard(uri, 1, 'stdout');
}

/** Return whether an endpoint reads standard input, which then cannot carry anything else. */
export function isStdin(uri: Endpoint): boolean {
  return isStandard(uri, 0, 'stdin');
}

function isStandard(uri: Endpoint, fd: number, name: string): boolean {
  if (uri.scheme === 'stdio') return true;
  if (uri.scheme === 'fd') return uri.fd === fd;
  const paths = [`/dev/${name}`, `/dev/fd/${fd}`, `/proc/self/fd/${fd}`];
  return uri.scheme === 'file' && paths.includes(uri.path);
}
