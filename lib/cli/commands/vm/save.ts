import { statSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import type { CompressFormat } from '../../../../adapters/compress/compress.ts';
import type { StreamLayout } from '../../../migration/guest-writer/guest-writer.ts';
import { PAGE_INDEX_SUFFIX } from '../../../migration/page-index/page-index.ts';
import type { MigrationProgress } from '../../../vm/migration-watch.ts';
import { saveVm } from '../../../vm/save/save.ts';
import type { SaveResult } from '../../../vm/save/save-options.ts';
import {
  type Endpoint,
  openToEndpoint,
  parseEndpoint,
  refuseStoreFlags,
  type StoreFlags,
} from '../../endpoints/endpoint.ts';
import { layoutMistake } from '../../endpoints/layout-mistake.ts';
import { isStdout } from '../../endpoints/open-endpoints.ts';
import { reportUnreadable } from '../../endpoints/tls/read-from-tls.ts';
import { UsageError } from '../../shell/command-errors.ts';
import { EXIT } from '../../shell/exit-codes.ts';
import { showExactSize, showSize } from '../../shell/sizes.ts';
import { printStderr, writeText } from '../../shell/stdio.ts';
import { writeWholeFile } from '../../shell/write-file.ts';
import { runWithVm, type VmFlags, type VmWork } from './vm-command.ts';

/** Options of `qemu-file save`. */
export interface SaveFlags extends VmFlags, StoreFlags {
  compress?: CompressFormat;
  /** Path for a manifest. */
  manifest?: string;
  /** Write an index of the stream's pages beside it. */
  index?: boolean;
  /** Where pages lie. */
  layout?: StreamLayout;
  /** Stop the guest first. */
  pause?: boolean;
}

const NOTHING_CHANGED = 'the migration was cancelled, and the guest continues as before';

/**
 * Run `qemu-file save`.
 *
 * @param toText - The endpoint, as typed.
 * @param flags - Options.
 * @returns The exit code.
 */
export async function runSave(toText: string, flags: SaveFlags): Promise<number> {
  try {
    const problem = flagsProblem(toText, flags);
    if (problem !== undefined) throw new UsageError(problem);
  } catch (error) {
    return reportUnreadable(error);
  }
  return runWithVm('to', toText, flags, NOTHING_CHANGED, async (parts) => {
    const result = await save(parts, flags);
    // From here on the guest is saved: a failure must not look like a failed save.
    const hasManifest = await writeManifest(result, flags);
    const hasIndex = await writePageIndex(parts.uri, result);
    const isPrinted = await report(toText, flags, result, isStdout(parts.uri));
    return hasManifest && hasIndex && isPrinted ? EXIT.DONE : EXIT.IO;
  });
}

/** Save the guest, with the progress line. */
async function save(parts: VmWork, flags: SaveFlags): Promise<SaveResult> {
  const { qmp, uri, tls, signal } = parts;
  const to = await openToEndpoint(uri, { signal, tls: tls.to }, flags);
  let progress: MigrationProgress | undefined;
  await parts.meter(() => ({ bytes: progress?.transferred ?? 0, limitedMs: to.limitedMs }));
  return saveVm(qmp, to, {
    maxBandwidth: flags.maxBandwidth,
    compress: flags.compress,
    manifest: flags.manifest !== undefined,
    index: flags.index,
    layout: flags.layout,
    pause: flags.pause,
    resume: flags.resume,
    check: flags.check,
    signal,
    onProgress: (now) => {
      progress = now;
    },
  });
}

/** Write the manifest, if one was requested. Return false if that failed. */
async function writeManifest({ manifest }: SaveResult, flags: SaveFlags): Promise<boolean> {
  const path = flags.manifest;
  if (path === undefined) return true;
  return writeBeside(`manifest (${path})`, () =>
    writeWholeFile(path, `${JSON.stringify(manifest, null, 2)}\n`),
  );
}

/** Write the index of the pages beside the file of the stream, or remove an old one. Return false if that failed. */
async function writePageIndex(uri: Endpoint, { index }: SaveResult): Promise<boolean> {
  if (uri.scheme !== 'file') return true;
  const path = uri.path + PAGE_INDEX_SUFFIX;
  return writeBeside(`page index (${path})`, () =>
    // An index that is there belongs to the file that this one has replaced.
    index === null ? rm(path, { force: true }) : writeWholeFile(path, index),
  );
}

async function writeBeside(what: string, write: () => Promise<void>): Promise<boolean> {
  try {
    await write();
    return true;
  } catch (error) {
    await printStderr(`the guest is saved, but the ${what} is not: ${(error as Error).message}`);
    return false;
  }
}

/** Return why the options cannot be used together, or with this endpoint; undefined if they can. */
function flagsProblem(toText: string, flags: SaveFlags): string | undefined {
  const { check, compress, index, layout, manifest } = flags;
  if (check === false && manifest !== undefined) {
    return '--manifest needs the check that --no-check switches off: remove one of them';
  }
  const others = { '--compress': compress, '--manifest': manifest, '--index': index };
  return (
    refuseStoreFlags(toText, flags) ??
    layoutMistake(toText, layout, others) ??
    (index === true ? indexProblem(toText, flags) : undefined)
  );
}

/** Return why no index can be made; undefined if it can. */
function indexProblem(toText: string, { check, compress }: SaveFlags): string | undefined {
  if (compress !== undefined) {
    return '--index and --compress exclude each other: pages of a compressed stream have no places';
  }
  if (check === false) {
    return '--index needs the check that --no-check switches off: remove one of them';
  }
  const uri = parseEndpoint(toText);
  // The directory of a device is not on a disk.
  if (uri.scheme === 'file' && !isBlockDevice(uri.path)) return undefined;
  return `--index writes a file beside the stream, but ${toText} is not a file`;
}

function isBlockDevice(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isBlockDevice() === true;
}

async function report(
  to: string,
  { json, quiet }: SaveFlags,
  { bytes, seconds, limitedSeconds, status, warnings }: SaveResult,
  usesStdout: boolean,
): Promise<boolean> {
  if (quiet !== true) {
    for (const warning of warnings) await printStderr(warning);
    const rate = seconds > 0 ? `, ${showSize(Math.round(bytes / seconds))}/s` : '';
    const state = status === 'running' ? 'keeps running' : `is stopped (${status})`;
    await printStderr(
      `saved ${showExactSize(bytes)} in ${seconds.toFixed(1)} s${rate}; the guest ${state}`,
    );
  }
  if (json !== true) return true;
  const object = { to, bytes, seconds, limitedSeconds, status, warnings };
  return writeText(usesStdout ? process.stderr : process.stdout, `${JSON.stringify(object)}\n`);
}
