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
import { NO_GUEST_RESTORED, type RestoreFlags } from './restore-flags.ts';
import { restoreMistake, templateDirectory } from './restore-mistake.ts';
import { runWithVm, type VmWork } from './vm-command.ts';

/**
 * Run `qemu-file restore` without `--lazy`.
 *
 * @param fromText - The endpoint, as typed.
 * @param flags - Options.
 * @returns The exit code.
 */
export async function runRestore(fromText: string, flags: RestoreFlags): Promise<number> {
  const template = templateDirectory(fromText);
  const mistake = restoreMistake(fromText, template, flags);
  if (mistake !== null) {
    await printStderr(mistake);
    return EXIT.USAGE;
  }
  return runWithVm('from', fromText, flags, NO_GUEST_RESTORED, async (parts) => {
    if (template === null) return restoreEagerly(fromText, flags, parts);
    const { maxBandwidth, resume, keepPaused, check, verify } = flags;
    const options = { maxBandwidth, resume, keepPaused, check, verify, signal: parts.signal };
    const result = await restoreTemplate(parts.qmp, template, options);
    return (await report(fromText, flags, result)) ? EXIT.DONE : EXIT.IO;
  });
}

/** Restore a guest from a stream, all of its memory first; return the exit code. */
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
