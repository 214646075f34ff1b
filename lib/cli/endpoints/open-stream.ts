import { fstatSync } from 'node:fs';
import { decompressWith, describeTarget, openFrom, type Uri } from '../../../adapters/index.ts';
import { type Unwrapped, unpack, unwrap } from '../../migration/containers/unwrap.ts';
import {
  type FoundDescription,
  findVmDescription,
} from '../../migration/devices/find-vm-description.ts';
import type { StreamSource } from '../../migration/format/stream-source.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { printStderr } from '../shell/stdio.ts';
import { connectionFilter } from './connection-filter.ts';

/** A migration stream to be read. */
export interface OpenStream {
  /** The file that was opened, under all wrappings: it tells how far the reading is. */
  outer: QemuFile;
  unwrapped: Unwrapped;
  /** The VM description, where it could be looked up beforehand. */
  description: FoundDescription | undefined;
  /** The other channels. */
  channels: StreamSource[];
  /** Closes all files. */
  close(): Promise<void>;
}

/** What is to be opened. */
export interface StreamChoice {
  from: Uri;
  channels: readonly Uri[];
  /** Name or id of a snapshot in a disk image. */
  snapshot?: string | undefined;
  signal: AbortSignal;
  quiet: boolean;
}

/** How far from the end of a file its VM description is looked for, at first and at most. */
const TAILS = [1_048_576, 33_554_432] as const;

function decompress(
  format: Parameters<typeof decompressWith>[0],
): (compressed: QemuFile) => QemuFile {
  return (compressed) => new QemuFile(decompressWith(format)(compressed));
}

/**
 * Opens a stream and the channels that belong to it, out of whatever they are wrapped in.
 *
 * @throws {QemuFileError} (rejects) as `openFrom` and `unwrap`; nothing is left open.
 */
export async function openStream(choice: StreamChoice): Promise<OpenStream> {
  const { from, snapshot, signal, quiet } = choice;
  const opened: QemuFile[] = [];
  const close = async (): Promise<void> => {
    await Promise.allSettled(opened.map((file) => file.close()));
  };
  try {
    const onListening = (address: Parameters<typeof describeTarget>[0]): void => {
      if (!quiet) void printStderr(`listening on ${describeTarget(address)}`);
    };
    const door = connectionFilter(choice);
    const outer = await openFrom(from, { signal, onListening, ...door, file: { signal } });
    opened.push(outer);
    const unwrapped = await unwrap(outer, { decompress, snapshot });
    opened.push(unwrapped.file);
    const channels: StreamSource[] = [];
    for (const uri of choice.channels) {
      const channel = await unpack(await openFrom(uri, { signal, file: { signal } }), {
        decompress,
      });
      opened.push(channel);
      channels.push(channel);
    }
    const description = await lookUpDescription(unwrapped);
    return { outer, unwrapped, description, channels, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/**
 * Finds the VM description of a stream in a regular file: right at the file's end, or with nothing but
 * padding behind it. Elsewhere it is found when the stream gets there.
 */
async function lookUpDescription({
  file,
  seekable,
  container,
  fileOffset,
}: Unwrapped): Promise<FoundDescription | undefined> {
  const fd = file.getFd();
  if (!seekable || fd < 0 || (container !== null && container !== 'libvirt')) return undefined;
  const stats = fstatSync(fd);
  if (!stats.isFile()) return undefined;
  for (const size of TAILS) {
    const length = Math.min(size, stats.size - fileOffset);
    if (length <= 0) return undefined;
    const tail = Buffer.allocUnsafe(length);
    await file.getBufferAt(tail, stats.size - length);
    const found = findVmDescription(tail, stats.size - length - fileOffset);
    const end = found === null ? 0 : found.offset + found.bytes + fileOffset;
    if (found !== null && isPadding(tail.subarray(length - (stats.size - end)))) return found;
    if (length < size) return undefined;
  }
  return undefined;
}

function isPadding(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}
