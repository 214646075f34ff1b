import { QemuFileError } from '../../../contract/errors.ts';
import { type CopyOptions, copyStream } from '../../../migration/rewrite/copy-stream.ts';
import { FieldChanges } from '../../../migration/rewrite/field-changes.ts';
import { isMappedRam, rebaseMappedRam } from '../../../relay/rebase-mapped-ram.ts';
import { isRegularFile } from '../../../util/regular-file.ts';
import { type Endpoint, parseEndpoint } from '../../endpoints/endpoint.ts';
import { UsageError } from '../../shell/command-errors.ts';
import type { Rewritten } from './output.ts';
import { type RewriteFlags, rewriteStream } from './rewrite-command.ts';
import { type GuestRewrite, writeGuest } from './write-guest.ts';

/** Options of `qemu-file convert`. */
export interface ConvertFlags extends RewriteFlags {
  /** New names of RAM blocks, by their old names. */
  renameBlock?: ReadonlyMap<string, string>;
  /** Leave out the VM description. */
  dropDescription?: boolean;
  /** Changes of device fields, as `DEVICE.FIELD=VALUE`. */
  set?: readonly string[];
}

/**
 * Run `qemu-file convert`.
 *
 * @param fromText - The endpoint to read, as typed.
 * @param toText - The endpoint to write, as typed.
 * @returns The exit code.
 */
export function runConvert(fromText: string, toText: string, flags: ConvertFlags): Promise<number> {
  return rewriteStream('converted', [fromText, toText], flags, (stream, output, signal) =>
    convert({ fromText, stream, output, flags, signal }, parseEndpoint(toText)),
  );
}

async function convert(
  rewrite: GuestRewrite & { flags: ConvertFlags },
  to: Endpoint,
): Promise<Rewritten> {
  const { stream, output, flags } = rewrite;
  const { unwrapped, description, channels } = stream;
  const { layout } = flags;
  const changes = changesOf(flags);
  const { fileOffset } = unwrapped;
  const toOffset = to.scheme === 'file' ? to.offset : 0;
  // A live source is never mapped-ram, and its first bytes must not wait for more of them.
  const isMapped = unwrapped.seekable && (await isMappedRam(unwrapped.file));
  const isOther = layout !== undefined && (layout === 'mapped-ram') !== isMapped;
  // A mapped-ram file holds the offset of all that follows the names of its blocks.
  const isRenamed = isMapped && !isOther && flags.renameBlock !== undefined;
  if (isRenamed) checkPlace(to, flags, false);
  // Pages of further channels become part of the stream.
  if (isOther || isRenamed || channels.length > 0) {
    const newFlags: ConvertFlags = isRenamed ? { ...flags, layout: 'mapped-ram' } : flags;
    const written = writeGuest({ ...rewrite, flags: newFlags, isMapped, changes });
    return written.catch((error: unknown) => {
      throw usageErrorOf(error);
    });
  }
  if (isMapped) checkPlace(to, flags, fileOffset === 0);
  // A file is read on this thread while the pool writes: each call in the pool takes longer to start and to end.
  if (unwrapped.containers.length === 0 && isRegularFile(stream.outer.getFd()))
    stream.outer.setBlocking(true);
  const isMoved = isMapped && fileOffset !== toOffset;
  const from = isMoved ? rebaseMappedRam(unwrapped.file, fileOffset, toOffset) : unwrapped.file;
  const { bytes, trailingBytes, warnings } = await copyStream(from, output.file, {
    ...changes,
    description: isMoved ? undefined : description,
    fileOffset: isMoved ? toOffset : fileOffset,
  }).catch((error: unknown) => {
    throw usageErrorOf(error);
  });
  const notes = [...warnings];
  if (trailingBytes > 0) notes.push(`${trailingBytes} bytes after the stream were left out`);
  return { before: bytes, after: output.file.putPosition, notes };
}

/** Return the changes that the options ask for. */
function changesOf({ renameBlock, dropDescription, set }: ConvertFlags): CopyOptions {
  try {
    const devices = set === undefined ? undefined : new FieldChanges(set);
    return { renameBlocks: renameBlock, dropDescription, devices };
  } catch (error) {
    throw usageErrorOf(error);
  }
}

/**
 * Refuse a mapped-ram stream for a destination that it cannot be written to: offsets in it count from the start of its
 * file, so a stream that changes is written to a file that can seek.
 *
 * @param isSame - Whether the bytes stay as they are.
 */
function checkPlace(to: Endpoint, { compress }: ConvertFlags, isSame: boolean): void {
  if ((isSame || to.scheme === 'file') && compress === undefined) return;
  throw new UsageError(
    'a mapped-ram stream goes to a file, not compressed: give a file, or use compact',
  );
}

/** Codes and operations of errors about what was typed. Files fail with the same codes, in other operations. */
const USAGE_CODES: ReadonlySet<string> = new Set(['EINVAL', 'ERANGE']);
const TYPED_OPERATIONS: ReadonlySet<string | undefined> = new Set([
  'setField',
  'encodeState',
  'renameBlocks',
]);

/** Return names and values that do not fit the stream as a mistake of the command line; other errors as they are. */
function usageErrorOf(error: unknown): unknown {
  const isTyped =
    error instanceof QemuFileError &&
    USAGE_CODES.has(error.code) &&
    TYPED_OPERATIONS.has(error.operation);
  return isTyped ? new UsageError(error.reason) : error;
}
