import { openFrom } from '../../../adapters/open.ts';
import { isStoreUrl } from '../../../adapters/storage/store-url.ts';
import { parseUri, type Uri } from '../../../adapters/uri.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import { readerOf } from '../../migration/containers/qcow2-file.ts';
import type { Qcow2Snapshot } from '../../migration/containers/qcow2-header.ts';
import { Qcow2Image } from '../../migration/containers/qcow2-image.ts';
import { shellWord } from '../../util/format.ts';
import { EXIT, readExitCode } from '../shell/exit-codes.ts';
import { showSize } from '../shell/sizes.ts';
import { printStderr, writeText } from '../shell/stdio.ts';

/** First bytes of a qcow2 image. */
const QCOW2_MAGIC = 0x5146_49fb;

/**
 * Run `qemu-file inspect --snapshots`: list the snapshots of a qcow2 image.
 *
 * @param imageText - The path of the image, as typed.
 * @returns The exit code.
 */
export async function listSnapshots(imageText: string, isJson: boolean): Promise<number> {
  if (isStoreUrl(imageText)) {
    await printStderr(`${imageText}: --snapshots is for qcow2 images: use "qemu-file store ls"`);
    return EXIT.USAGE;
  }
  let uri: Uri;
  try {
    uri = parseUri(imageText);
  } catch (error) {
    await printStderr(toQemuFileError(error).reason);
    return EXIT.USAGE;
  }
  let snapshots: readonly Qcow2Snapshot[] | null;
  try {
    snapshots = await readSnapshots(uri);
  } catch (error) {
    const failure = toQemuFileError(error);
    await printStderr(`${imageText}: ${failure.message}`);
    return readExitCode(failure);
  }
  if (snapshots === null) {
    await printStderr(`${imageText}: not a qcow2 image: --snapshots lists the snapshots of one`);
    return EXIT.USAGE;
  }
  const text = isJson
    ? `${JSON.stringify({ snapshots: snapshots.map(toJson) })}\n`
    : showSnapshots(snapshots);
  return (await writeText(process.stdout, text)) ? EXIT.DONE : EXIT.IO;
}

/** Return the snapshots of an image; null if the file is not a qcow2 image. */
async function readSnapshots(uri: Uri): Promise<readonly Qcow2Snapshot[] | null> {
  await using file = await openFrom(uri);
  const readAt = await readerOf(file);
  if (readAt === undefined) return null;
  const magic = Buffer.alloc(4);
  const length = await readAt(magic, 0);
  if (length < 4 || magic.readUInt32BE(0) !== QCOW2_MAGIC) return null;
  return (await Qcow2Image.open(readAt)).snapshots;
}

function toJson({ id, name, date, vmStateSize, diskSize, vmClock }: Qcow2Snapshot): object {
  return { id, name, date: showDate(date), vmStateSize, diskSize, vmClock: vmClock.toString() };
}

/** Return a date in ISO 8601; null if the image has an impossible one. */
function showDate(date: Date): string | null {
  return Number.isNaN(date.getTime()) ? null : date.toISOString();
}

function showSnapshots(snapshots: readonly Qcow2Snapshot[]): string {
  if (snapshots.length === 0) return 'No snapshots\n';
  const rows = snapshots.map(({ id, name, date, vmStateSize }) => [
    shellWord(id),
    showDate(date)?.replace(/\.\d+Z$/, 'Z') ?? '-',
    vmStateSize === 0 ? 'disk only' : showSize(vmStateSize),
    // Last, and as a shell reads it: to be pasted after --snapshot.
    shellWord(name),
  ]);
  const table = [['ID', 'DATE', 'VM STATE', 'NAME'], ...rows];
  const widths = [0, 1, 2].map((column) =>
    Math.max(...table.map((row) => (row[column] as string).length)),
  );
  return table
    .map((row) => `${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ')}\n`)
    .join('');
}
