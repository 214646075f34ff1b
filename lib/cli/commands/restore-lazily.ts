import { openSavedGuest } from '../../migration/saved-guest/open-saved-guest.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { type LazyProgress, type LazyRestoreResult, restoreLazily } from '../../vm/index.ts';
import { isSnapshot, openSnapshotGuest } from '../endpoints/endpoint.ts';
import { openStream } from '../endpoints/open-stream.ts';
import { readPageIndex } from '../endpoints/read-page-index.ts';
import { EXIT } from '../shell/exit-codes.ts';
import { showExactSize } from '../shell/sizes.ts';
import { printStderr, writeText } from '../shell/stdio.ts';
import type { RestoreFlags } from './restore-flags.ts';
import type { VmWork } from './vm-command.ts';

/**
 * Run `qemu-file restore --lazy`.
 *
 * @param fromText - The endpoint, as typed.
 * @returns The exit code.
 */
export async function runRestoreLazily(
  fromText: string,
  flags: RestoreFlags,
  parts: VmWork,
): Promise<number> {
  const { qmp, uri, signal } = parts;
  const quiet = flags.quiet === true;
  const { snapshot } = flags;
  const open = async (): Promise<SavedGuest> => {
    if (isSnapshot(uri)) return openSnapshotGuest(uri, signal);
    const stream = await openStream({ from: uri, channels: [], snapshot, signal, quiet });
    return openSavedGuest(stream.unwrapped, {
      description: stream.description,
      index: await readPageIndex(uri),
      signal,
    });
  };
  await using guest = disposable(await open());
  let progress: LazyProgress | undefined;
  await parts.meter(() => ({ bytes: progress?.bytes ?? 0, limitedMs: 0 }));
  const calledAt = performance.now();
  const result = await restoreLazily(qmp, guest.value, {
    resume: flags.resume,
    keepPaused: flags.keepPaused,
    check: flags.check,
    signal,
    onProgress: (now) => {
      progress = now;
    },
  });
  const startMs = result.startMs + calledAt;
  return (await report(fromText, flags, { ...result, startMs })) ? EXIT.DONE : EXIT.IO;
}

function disposable<T extends { close(): Promise<void> }>(
  value: T,
): AsyncDisposable & { value: T } {
  return { value, [Symbol.asyncDispose]: () => value.close() };
}

async function report(
  from: string,
  { json, quiet }: RestoreFlags,
  result: LazyRestoreResult,
): Promise<boolean> {
  if (quiet !== true) {
    const { bytes, resumeMs, completeMs, status, warnings } = result;
    for (const warning of warnings) await printStderr(warning);
    const ran = resumeMs === null ? `is stopped (${status})` : `ran after ${ms(resumeMs)}`;
    await printStderr(
      `restored ${showExactSize(bytes)} lazily; the guest ${ran}, all its memory was there after ${ms(completeMs)}`,
    );
  }
  if (json !== true) return true;
  return writeText(process.stdout, `${JSON.stringify({ from, ...result })}\n`);
}

function ms(value: number): string {
  return `${Math.round(value)} ms`;
}
