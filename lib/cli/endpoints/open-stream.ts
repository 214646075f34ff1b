import { openFrom } from '../../../adapters/open.ts';
import type { Uri } from '../../../adapters/uri.ts';
import { type Unwrapped, unpack, unwrap } from '../../migration/containers/unwrap.ts';
import type { FoundDescription } from '../../migration/devices/find-vm-description.ts';
import type { StreamSource } from '../../migration/format/stream-source.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { decompress } from '../../vm/decompress.ts';
import { lookUpDescription } from '../../vm/look-up-description.ts';
import { connectionFilter } from './connection-filter.ts';
import { type Endpoint, openFromEndpoint } from './endpoint.ts';
import { printListening } from './open-endpoints.ts';
import type { TlsEnds } from './tls/credentials.ts';

/** An open migration stream. */
export interface OpenStream {
  /** The file as it was opened, outside all containers; its position shows the progress of reading. */
  outer: QemuFile;
  unwrapped: Unwrapped;
  /** The VM description, if it could be found before reading the stream. */
  description: FoundDescription | undefined;
  /** The further channels of the migration. */
  channels: StreamSource[];
  /** Close all files. */
  close(): Promise<void>;
}

/** Which stream to open. */
export interface StreamChoice {
  from: Endpoint;
  channels: readonly Uri[];
  /** Name or id of a snapshot in a disk image. */
  snapshot?: string | undefined;
  /** Bytes that are read at a time. Default: those of the endpoint's backend. */
  lookAheadSize?: number | undefined;
  /** How a listening end speaks TLS, if it does; further channels speak it as well where they are sockets. */
  tls?: TlsEnds | undefined;
  signal: AbortSignal;
  quiet: boolean;
  /** False: the VM description at the end of the file is not looked up. Default true. */
  needsDescription?: boolean | undefined;
  /**
   * False: the signal does not close the file, because what reads its descriptor by position ends by the signal
   * itself. Default true.
   */
  closesOnSignal?: boolean | undefined;
}

/**
 * Open a stream and its further channels, and unwrap each from its containers.
 *
 * @throws {QemuFileError} (rejects) as `openFrom` and `unwrap`; nothing is left open.
 */
export async function openStream(choice: StreamChoice): Promise<OpenStream> {
  const { from, snapshot, lookAheadSize, tls, signal, quiet } = choice;
  const { needsDescription = true, closesOnSignal = true } = choice;
  const opened: QemuFile[] = [];
  const close = async (): Promise<void> => {
    await Promise.allSettled(opened.map((file) => file.close()));
  };
  try {
    const onListening = quiet ? undefined : printListening;
    const filter = connectionFilter(choice);
    const outer = await openFromEndpoint(from, {
      signal,
      onListening,
      tls: tls?.from,
      ...filter,
      // The command has nothing else to do while it waits for a file.
      inlineReads: true,
      file: { signal: closesOnSignal ? signal : undefined, lookAheadSize },
    });
    opened.push(outer);
    const unwrapped = await unwrap(outer, { decompress, snapshot });
    opened.push(unwrapped.file);
    const channels: StreamSource[] = [];
    for (const uri of choice.channels) {
      const isSocket = uri.scheme === 'tcp' || uri.scheme === 'unix';
      const options = { signal, tls: isSocket ? tls?.from : undefined, file: { signal } };
      const channel = await unpack(await openFrom(uri, options), { decompress });
      opened.push(channel);
      channels.push(channel);
    }
    const description = needsDescription ? await lookUpDescription(unwrapped) : undefined;
    return { outer, unwrapped, description, channels, close };
  } catch (error) {
    await close();
    throw error;
  }
}
