import { statSync } from 'node:fs';
import { isStoreUrl } from '../../../../adapters/storage/store-url.ts';
import { parseUri } from '../../../../adapters/uri.ts';
import { QemuFileError, toQemuFileError } from '../../../contract/errors.ts';
import { bytesRead } from '../../../vm/decompress.ts';
import { restoreVm } from '../../../vm/restore/restore.ts';
import type { RestoreResult } from '../../../vm/restore/restore-options.ts';
import { restoreTemplate } from '../../../vm/template/restore-template.ts';
import { connectionFilter } from '../../endpoints/connection-filter.ts';
import { openFromEndpoint } from '../../endpoints/endpoint.ts';
import { printListening, sizeOf } from '../../endpoints/open-endpoints.ts';
import { EXIT } from '../../shell/exit-codes.ts';
import type { Measure } from '../../shell/progress.ts';
import { showExactSize, showSize } from '../../shell/sizes.ts';
import { printStderr, writeText } from '../../shell/stdio.ts';
import type { RestoreFlags } from './restore-flags.ts';
import { runWithVm, type VmWork } from './vm-command.ts';

const NOTHING_CHANGED = 'no guest was restored';

/**
 * Run `qemu-file restore`.
 *
 * @param fromText - The endpoint, as typed.
 * @param flags - Options.
 * @returns The exit code.
 */
export async function runRestore(fromText: string, flags: RestoreFlags): Promise<number> {
  const template = templateDirectory(fromText);
  const isAuto = flags['lazy=auto'] === true;
  const isLazy = flags.lazy === true || isAuto;
  const mistake = restoreMistake(fromText, template, isLazy, flags);
  if (mistake !== null) {
    await printStderr(mistake);
    return EXIT.USAGE;
  }
  return runWithVm('from', fromText, flags, NOTHING_CHANGED, async (parts) => {
    if (template !== null) {
      const { maxBandwidth, resume, keepPaused, check, verify } = flags;
      const options = { maxBandwidth, resume, keepPaused, check, verify, signal: parts.signal };
      const result = await restoreTemplate(parts.qmp, template, options);
      return (await report(fromText, flags, result)) ? EXIT.DONE : EXIT.IO;
    }
    if (isLazy) {
      const { runRestoreLazily } = await import('./restore-lazily.ts');
      try {
        return await runRestoreLazily(fromText, flags, parts);
      } catch (error) {
        if (!isAuto || flags.recover === true || !isImpossible(error)) throw error;
        await printStderr(`restoring ordinarily, because ${toQemuFileError(error).reason}`);
      }
    }
    return restoreEagerly(fromText, flags, parts);
  });
}

/** Options that only a lazy restore has. */
const LAZY_ONLY = [
  'recover',
  'address',
  'preempt',
  'record',
  'recordInStore',
  'recordSeconds',
  'prefetch',
] as const;

function optionOf(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** Return whether an error says that a lazy restore is not possible; nothing was sent then. */
function isImpossible(error: unknown): boolean {
  return error instanceof QemuFileError && error.code === 'ENOTSUP';
}

async function restoreEagerly(
  fromText: string,
  flags: RestoreFlags,
  parts: VmWork,
): Promise<number> {
  const { qmp, uri, tls, signal } = parts;
  const quiet = flags.quiet === true;
  const onListening = quiet ? undefined : printListening;
  const filter = connectionFilter({ from: uri, tls, quiet, anything: flags.check === false });
  const from = await openFromEndpoint(uri, { signal, onListening, tls: tls.from, ...filter });
  const measure = (): Measure => ({ bytes: bytesRead(from), limitedMs: 0 });
  await parts.meter(measure, sizeOf(uri, from));
  const result = await restoreVm(qmp, from, {
    maxBandwidth: flags.maxBandwidth,
    snapshot: flags.snapshot,
    resume: flags.resume,
    keepPaused: flags.keepPaused,
    check: flags.check,
    signal,
  });
  return (await report(fromText, flags, result)) ? EXIT.DONE : EXIT.IO;
}

/** Return the directory that an endpoint names; null if it is something else. */
function templateDirectory(fromText: string): string | null {
  try {
    const uri = parseUri(fromText);
    const isDirectory = uri.scheme === 'file' && statSync(uri.path).isDirectory();
    return isDirectory ? uri.path : null;
  } catch {
    return null;
  }
}

/** Return why options do not fit what is restored, or each other; null if they do. */
function restoreMistake(
  fromText: string,
  template: string | null,
  isLazy: boolean,
  flags: RestoreFlags,
): string | null {
  if (template !== null && (isLazy || flags.snapshot !== undefined)) {
    return `${fromText} is a template: remove --lazy and --snapshot`;
  }
  if (template === null && flags.verify === true) {
    return '--verify is for templates: use "qemu-file verify FILE"';
  }
  if (flags.recordInStore === true && !isStoreUrl(fromText)) {
    return `--record-in-store needs a snapshot in a store to restore from, not ${fromText}`;
  }
  const [stray] = LAZY_ONLY.filter((name) => flags[name] !== undefined);
  return isLazy || stray === undefined ? null : `--${optionOf(stray)} needs --lazy: add it`;
}

async function report(
  from: string,
  { json, quiet }: RestoreFlags,
  { bytes, seconds, limitedSeconds, status, warnings }: RestoreResult,
): Promise<boolean> {
  if (quiet !== true) {
    for (const warning of warnings) await printStderr(warning);
    const size = bytes === null ? '' : ` ${showExactSize(bytes)}`;
    const rate =
      bytes !== null && seconds > 0 ? `, ${showSize(Math.round(bytes / seconds))}/s` : '';
    const state = status === 'running' ? 'is running' : `is stopped (${status})`;
    await printStderr(`restored${size} in ${seconds.toFixed(1)} s${rate}; the guest ${state}`);
  }
  if (json !== true) return true;
  const object = { from, bytes, seconds, limitedSeconds, status, warnings };
  return writeText(process.stdout, `${JSON.stringify(object)}\n`);
}
