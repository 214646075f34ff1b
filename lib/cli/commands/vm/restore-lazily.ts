import { statSync } from 'node:fs';
import { QemuFileError, toQemuFileError } from '../../../contract/errors.ts';
import { openSavedGuest } from '../../../migration/saved-guest/open-saved-guest.ts';
import type { SavedGuest } from '../../../migration/saved-guest/saved-guest.ts';
import type { SnapshotReader } from '../../../snapshot/read/snapshot-reader.ts';
import { noop } from '../../../util/noop.ts';
import { askDestination } from '../../../vm/lazy/check-lazy.ts';
import type {
  LazyProgress,
  LazyRestoreOptions,
  LazyRestoreResult,
} from '../../../vm/lazy/lazy-options.ts';
import { recoverLazily } from '../../../vm/lazy/recover-lazily.ts';
import { restoreLazilyInto } from '../../../vm/lazy/restore-lazily.ts';
import { type Endpoint, isSnapshot, openSnapshot } from '../../endpoints/endpoint.ts';
import { openStream } from '../../endpoints/open-stream.ts';
import { readPageIndex } from '../../endpoints/read-page-index.ts';
import { EXIT } from '../../shell/exit-codes.ts';
import type { Measure } from '../../shell/progress.ts';
import { showExactSize } from '../../shell/sizes.ts';
import { printStderr, writeText } from '../../shell/stdio.ts';
import { NO_GUEST_RESTORED, type RestoreFlags } from './restore-flags.ts';
import { restoreMistake, templateDirectory } from './restore-mistake.ts';
import { runWithVm, type VmWork } from './vm-command.ts';
import { keepWorkingSet, readWorkingSet, writeWorkingSet } from './working-set-file.ts';

const RECORD_SECONDS = 10;

/** What an interruption of `--recover` leaves, as a clause. */
const GUEST_STILL_WAITS =
  'the guest waits for the rest of its memory: continue with "qemu-file restore --lazy --recover"';

/**
 * Run `qemu-file restore --lazy`.
 *
 * @param fromText - The endpoint, as typed.
 * @param flags - Options.
 * @returns The exit code; null with `--lazy=auto` if a lazy restore is not possible: an ordinary one is to follow.
 */
export async function runRestoreLazily(
  fromText: string,
  flags: RestoreFlags,
): Promise<number | null> {
  const mistake = restoreMistake(fromText, templateDirectory(fromText), flags);
  if (mistake !== null) {
    await printStderr(mistake);
    return EXIT.USAGE;
  }
  const untouched = flags.recover === true ? GUEST_STILL_WAITS : NO_GUEST_RESTORED;
  let isPossible = true;
  const code = await runWithVm('from', fromText, flags, untouched, async (parts) => {
    try {
      return await restore(fromText, flags, parts);
    } catch (error) {
      const isAuto = flags['lazy=auto'] === true && flags.recover !== true;
      if (!isAuto || !isImpossible(error)) throw error;
      await printStderr(`restoring ordinarily, because ${toQemuFileError(error).reason}`);
      isPossible = false;
      return EXIT.DONE;
    }
  });
  return isPossible ? code : null;
}

/** Return whether an error says that a lazy restore is not possible; nothing was sent then. */
function isImpossible(error: unknown): boolean {
  return error instanceof QemuFileError && error.code === 'ENOTSUP';
}

/**
 * Restore a guest lazily.
 *
 * @returns The exit code.
 * @throws {QemuFileError} (rejects) `ENOTSUP` if a lazy restore is not possible; nothing was sent then. Otherwise as
 *   `restoreLazily` and `recoverLazily`.
 */
async function restore(fromText: string, flags: RestoreFlags, parts: VmWork): Promise<number> {
  const { qmp, uri, tls, signal } = parts;
  // QEMU answers while the guest is opened.
  const asked = flags.recover === true ? null : askDestination(qmp);
  const { guest, snapshot, close } = await openGuest(uri, flags, signal);
  try {
    const { prefetch: path, record, recordInStore, recordSeconds = RECORD_SECONDS } = flags;
    const isRecording = record !== undefined || recordInStore === true;
    const known = snapshot?.workingSet ?? [];
    const prefetch = path === undefined ? known : await readWorkingSet(path, record, guest.pages);
    for (const warning of snapshot?.warnings ?? []) await printStderr(warning);
    let progress: LazyProgress | undefined;
    await parts.meter(() => measureOf(progress));
    const options: LazyRestoreOptions = {
      address: flags.address,
      tls: tls.to,
      preempt: flags.preempt,
      maxBandwidth: flags.maxBandwidth,
      prefetch,
      recordMs: isRecording ? recordSeconds * 1000 : 0,
      resume: flags.resume,
      keepPaused: flags.keepPaused,
      check: flags.check,
      signal,
      onProgress: (now) => {
        progress = now;
      },
    };
    const calledAt = performance.now();
    const { workingSet, ...result } = await (asked === null
      ? recoverLazily(qmp, guest, options)
      : restoreLazilyInto(qmp, guest, options, asked));
    // From here on the guest is restored: a failure must not look like a failed restore.
    let code: number = EXIT.DONE;
    if (record !== undefined) {
      const kept = record === path ? prefetch : [];
      const isWritten = await writeWorkingSet(record, [...kept, ...workingSet], guest.pages);
      if (!isWritten) code = EXIT.IO;
    }
    if (snapshot !== null && recordInStore === true) {
      const isKept = await keepWorkingSet(snapshot, [...known, ...workingSet]);
      if (!isKept) code = EXIT.IO;
    }
    const startMs = result.startMs + calledAt;
    if (!(await report(fromText, flags, { ...result, startMs }))) code = EXIT.IO;
    await close();
    return code;
  } catch (error) {
    // Only this error says whether the guest runs; a signal makes closing fail as well.
    await close().catch(noop);
    throw error;
  }
}

/** A guest that is open, and the snapshot that it is; null for a stream. */
interface OpenGuest {
  readonly guest: SavedGuest;
  readonly snapshot: SnapshotReader | null;
  readonly close: () => Promise<void>;
}

async function openGuest(
  uri: Endpoint,
  { snapshot, quiet }: RestoreFlags,
  signal: AbortSignal,
): Promise<OpenGuest> {
  if (isSnapshot(uri)) {
    const { guest, close } = await openSnapshot(uri, signal, { workingSet: true });
    return { guest, snapshot: guest, close };
  }
  if (uri.scheme !== 'file' || statSync(uri.path, { throwIfNoEntry: false })?.isFIFO() === true) {
    const reason =
      'a lazy restore needs a stream with random access; write it to a file first (qemu-file relay FROM FILE)';
    throw new QemuFileError('ENOTSUP', reason, { operation: 'restoreLazily' });
  }
  const index = readPageIndex(uri);
  const { unwrapped, description } = await openStream({
    from: uri,
    channels: [],
    snapshot,
    signal,
    quiet: quiet === true,
    needsDescription: index === undefined,
    closesOnSignal: false,
  });
  const guest = await openSavedGuest(unwrapped, { description, index, signal });
  return { guest, snapshot: null, close: () => guest.close() };
}

/**
 * Return the progress line of a lazy restore.
 *
 * @param progress - How far it is; absent before it began.
 */
export function measureOf(progress: LazyProgress | undefined): Measure {
  const { bytes = 0, total = 0, resumeMs = null } = progress ?? {};
  const share = total === 0 ? 0 : Math.floor((bytes / total) * 100);
  const state = resumeMs === null ? 'starting' : `running since ${showMs(resumeMs)}`;
  return { bytes, limitedMs: 0, line: `${state} · ${share} % of memory` };
}

async function report(
  from: string,
  { json, quiet, recover }: RestoreFlags,
  result: Omit<LazyRestoreResult, 'workingSet'>,
): Promise<boolean> {
  const { bytes, resumeMs, completeMs, status, warnings } = result;
  const { requests, faults, faultMs, pages, blockedMs } = result;
  if (quiet !== true) for (const warning of warnings) await printStderr(warning);
  const state =
    status === 'running' && resumeMs !== null
      ? `the guest ${recover === true ? 'went on' : 'ran'} after ${showMs(resumeMs)}`
      : `the guest is stopped (${status})`;
  // The second time completes the first one, so `quiet` leaves out neither.
  await printStderr(
    `restored ${showExactSize(bytes)} lazily; ${state}, all its memory was there after ${showMs(completeMs)}`,
  );
  if (quiet !== true) {
    const blocked = blockedMs === null ? '' : `; all CPUs waited ${showMs(blockedMs)}`;
    await printStderr(
      `${requests} requests, ${faults} of them for pages that were not sent yet: p50 ${showMs(faultMs.p50)}, p99 ` +
        `${showMs(faultMs.p99)}, at most ${showMs(faultMs.max)}${blocked}`,
    );
    await printStderr(
      `pages: ${pages.requested} requested, ${pages.around} around them, ${pages.prefetched} prefetched, ` +
        `${pages.background} in the background, ${pages.zero} of zeros`,
    );
  }
  if (json !== true) return true;
  return writeText(process.stdout, `${JSON.stringify({ from, ...result })}\n`);
}

function showMs(value: number): string {
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}
