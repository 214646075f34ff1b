import {
  type OpenFromOptions,
  type OpenToOptions,
  openFrom,
  openTo,
} from '../../../adapters/open.ts';
import { isStoreUrl, type StoreUrl } from '../../../adapters/storage/store-url.ts';
import { parseUri, type Uri } from '../../../adapters/uri.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { SnapshotReader } from '../../snapshot/read/snapshot-reader.ts';
import type { SnapshotReaderOptions, SnapshotStore } from '../../snapshot/store.ts';
import { noop } from '../../util/noop.ts';
import { printStderr } from '../shell/stdio.ts';
import { readWorkingSetText } from './read-working-set.ts';
import { checkNames, parseSnapshotUrl } from './snapshot-url.ts';

/** Where a command reads from or writes to: one of QEMU's URIs, or a snapshot in a store. */
export type Endpoint = Uri | StoreUrl;

/** Values of the options that `addStoreOptions` adds. */
export interface StoreFlags {
  /** Name of the snapshot that a new one is compared with. */
  parent?: string;
  /** Replace a snapshot of the same name. */
  replace?: boolean;
  /** A file with the pages that the guest needs first, or a snapshot with which they are kept. */
  workingSet?: string;
}

/** A snapshot that is open. */
export interface OpenSnapshot {
  readonly guest: SnapshotReader;
  /** Close the store. */
  readonly close: () => Promise<void>;
}

/**
 * Parse an endpoint.
 *
 * @throws {QemuFileError} `EINVAL` as `parseUri` and `parseSnapshotUrl`.
 */
export function parseEndpoint(text: string): Endpoint {
  return isStoreUrl(text) ? parseSnapshotUrl(text) : parseUri(text);
}

/** Return whether an endpoint is a snapshot in a store. */
export function isSnapshot(endpoint: Endpoint): endpoint is StoreUrl {
  return endpoint.scheme === 'store' || endpoint.scheme === 's3';
}

/**
 * Return why the options of a store do not fit an endpoint; undefined if they do.
 *
 * @param toText - The endpoint to write to, as typed.
 */
export function refuseStoreFlags(
  toText: string,
  flags: StoreFlags & { compress?: string },
): string | undefined {
  if (isStoreUrl(toText)) {
    if (flags.compress !== undefined) {
      return '--compress is for files: a snapshot store compresses by itself';
    }
    checkNames(flags);
    return undefined;
  }
  const options = {
    '--parent': flags.parent,
    '--working-set': flags.workingSet,
    '--replace': flags.replace,
  };
  const [option] = Object.entries(options).find(([, value]) => value !== undefined) ?? [];
  if (option === undefined) return undefined;
  return `${option} needs a snapshot store to write to, such as store:/srv/vm#name`;
}

/** Open a store. Most commands start faster without the modules of the store. */
async function openStore(url: StoreUrl): Promise<SnapshotStore> {
  const store = await import('../../snapshot/open-store.ts');
  return store.openStore(url);
}

/** Open the snapshot of an endpoint. */
export async function openSnapshot(
  url: StoreUrl,
  signal: AbortSignal,
  options: SnapshotReaderOptions = {},
): Promise<OpenSnapshot> {
  const store = await openStore(url);
  try {
    const guest = await store.reader(url.snapshot ?? '', { ...options, signal });
    return { guest, close: () => store.close() };
  } catch (error) {
    await store.close().catch(noop);
    throw error;
  }
}

/** Open the snapshot of an endpoint as a guest, which closes the store when it is closed. */
export async function openSnapshotGuest(url: StoreUrl, signal: AbortSignal): Promise<SavedGuest> {
  const { guest, close } = await openSnapshot(url, signal);
  const { configuration, configurationBytes, hasFooters, ram, sections } = guest;
  const { sectionsBeforeRam, descriptionText, pages } = guest;
  return {
    configuration,
    configurationBytes,
    hasFooters,
    ram,
    sections,
    sectionsBeforeRam,
    descriptionText,
    pages,
    close,
  };
}

/** Open an endpoint to read from; a snapshot is read as a stream of one round. */
export async function openFromEndpoint(
  from: Endpoint,
  options: OpenFromOptions & { signal: AbortSignal },
): Promise<QemuFile> {
  if (!isSnapshot(from)) return openFrom(from, options);
  const { guest, close } = await openSnapshot(from, options.signal);
  return guest.stream(close);
}

/** Open an endpoint to write to; a snapshot appears when the file is closed. */
export async function openToEndpoint(
  to: Endpoint,
  options: OpenToOptions & { signal: AbortSignal },
  flags: StoreFlags,
): Promise<QemuFile> {
  if (!isSnapshot(to)) return openTo(to, options);
  const { signal } = options;
  const { parent, replace } = flags;
  const workingSet =
    flags.workingSet === undefined ? undefined : await readWorkingSetText(flags.workingSet, signal);
  const store = await openStore(to);
  try {
    const writer = store.writer(to.snapshot ?? '', {
      parent,
      replace,
      workingSet,
      signal,
      onWarning: (reason) => void printStderr(reason),
    });
    // Refuse what can be refused before a guest is stopped for it.
    await writer.check();
    return writer.file({ onClose: () => store.close() });
  } catch (error) {
    await store.close().catch(noop);
    throw error;
  }
}
