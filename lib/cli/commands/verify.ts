import { readFile } from 'node:fs/promises';
import { isStoreUrl } from '../../../adapters/storage/store-url.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import type { ScratchStore } from '../../extract/scratch-store.ts';
import type { TargetVerdict } from '../../migration/target/check-target.ts';
import { parseManifest } from '../../migration/verify/manifest.ts';
import { type Verification, verifyStream } from '../../migration/verify/verify.ts';
import { printable } from '../../util/format.ts';
import type { PreflightResult } from '../../vm/preflight/preflight.ts';
import { UsageError } from '../shell/command-errors.ts';
import { EXIT, readExitCode } from '../shell/exit-codes.ts';
import { showExactSize } from '../shell/sizes.ts';
import { printStderr, writeText } from '../shell/stdio.ts';
import { faultHint } from './fault-hint.ts';
import { faultToJson } from './json.ts';
import { type ReadFlags, readStream } from './read-command.ts';

/** Options of `qemu-file verify`. */
export interface VerifyFlags extends ReadFlags {
  /** Monitor of the QEMU that is to load the stream. */
  qmp?: string;
  /** Path of a manifest to compare the stream with. */
  manifest?: string;
  /** Continue after the first fault. */
  all?: boolean;
  /** Path of the file that a QEMU wrote with `-dump-vmstate`. */
  target?: string;
  /** False: a stream without a VM description is accepted. */
  description?: boolean;
}

/**
 * Run `qemu-file verify`.
 *
 * @param fromText - The endpoint, as typed.
 * @returns The exit code.
 */
export function runVerify(fromText: string, flags: VerifyFlags): Promise<number> {
  return readStream(fromText, flags, async ({ unwrapped, description, channels }, signal) => {
    // Read these first: a stream that cannot be compared need not be read.
    const manifest = await readOption('--manifest', flags.manifest, parseManifest);
    const target =
      flags.target === undefined ? null : await import('../../migration/target/check-target.ts');
    const dump = await readOption('--target', flags.target, (text) =>
      target?.parseTargetDump(JSON.parse(text)),
    );
    const destination = flags.qmp === undefined ? null : await import('./verify-destination.ts');
    await using qmp = (await destination?.connectMonitor(flags.qmp ?? '', signal)) ?? null;
    using scratch = manifest === undefined ? null : await openScratch();
    const { file, fileOffset, seekable } = unwrapped;
    const verification = await verifyStream(file, {
      all: flags.all,
      manifest,
      // A store returns the stream in another layout, with the same contents.
      contentsOnly: isStoreUrl(fromText),
      digests: scratch === null ? undefined : { store: scratch.store },
      withoutDescription: flags.description === false,
      description,
      channels,
      fileOffset,
      seekable,
      signal,
    });
    const isSound = verification.faults.length === 0;
    const verdict =
      dump !== undefined && isSound ? target?.checkTarget(verification, dump) : undefined;
    const problems =
      verdict?.problems.map((problem) => target?.describeTargetProblem(problem)) ?? [];
    const preflight =
      qmp !== null && isSound ? await destination?.checkDestination(verification, qmp) : undefined;
    return report(fromText, flags, verification, { verdict, problems, preflight });
  });
}

async function openScratch(): Promise<ScratchStore> {
  const { openScratchStore } = await import('../../extract/scratch-store.ts');
  return openScratchStore();
}

/** How a stream compares with a QEMU that is to load it. */
interface Comparisons {
  verdict: TargetVerdict | undefined;
  /** The problems of the verdict, in words. */
  problems: readonly (string | undefined)[];
  preflight: PreflightResult | undefined;
}

/** Contents that the file of an option must have. */
const NOT_JSON: Readonly<Record<string, string>> = {
  '--manifest': 'not JSON; give a file that --manifest of save, relay or extract wrote',
  '--target': 'not JSON; give a file that QEMU wrote with -dump-vmstate',
};

/** Read and parse the file that an option names. */
async function readOption<T>(
  option: string,
  path: string | undefined,
  parse: (text: string) => T,
): Promise<T | undefined> {
  if (path === undefined) return undefined;
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new UsageError(`${option} ${path}: ${toQemuFileError(error).message}`);
  }
  try {
    return parse(text);
  } catch (error) {
    const reason = error instanceof SyntaxError ? NOT_JSON[option] : undefined;
    throw new UsageError(`${option} ${path}: ${reason ?? (error as Error).message}`);
  }
}

async function report(
  fromText: string,
  { json, quiet, target, qmp }: VerifyFlags,
  verification: Verification,
  { verdict, problems, preflight }: Comparisons,
): Promise<number> {
  const { faults, warnings, bytes, sections, configuration, isRamComplete } = verification;
  for (const { message } of faults) await printStderr(`${fromText}: ${message}`);
  const [first] = faults;
  for (const problem of problems) {
    await printStderr(`${fromText}: ${target} would not load this stream: ${problem}`);
  }
  for (const { message } of preflight?.problems ?? []) {
    await printStderr(`${fromText}: the QEMU at ${qmp} would not load this stream: ${message}`);
  }
  if (quiet !== true) {
    if (isRamComplete) {
      await printStderr('hint: qemu-file extract writes the guest memory in this stream to files');
    }
    const hint = first === undefined ? null : faultHint(first);
    if (hint !== null) await printStderr(hint);
    const notes = [...warnings, ...(verdict?.notes ?? []), ...(preflight?.warnings ?? [])];
    if (preflight !== undefined) {
      notes.push(`not compared with the QEMU at ${qmp}: ${preflight.unknown.join(', ')}`);
    }
    for (const note of notes) await printStderr(`${fromText}: ${note}`);
  }
  const problemCount = problems.length + (preflight?.problems.length ?? 0);
  const isValid = faults.length === 0 && problemCount === 0;
  const object = {
    from: fromText,
    ok: isValid,
    bytes,
    machine: configuration?.machine ?? null,
    sections: sections.length,
    faults: faults.map(faultToJson),
    warnings,
    ...(verdict === undefined ? {} : { target: verdict }),
    ...(preflight === undefined ? {} : { destination: preflight }),
  };
  const machine = printable(configuration?.machine ?? 'machine type not in the stream');
  const fits = verdict === undefined ? '' : `; ${target} would load this stream`;
  const line = `${fromText}: ok: ${machine}, ${sections.length} sections, ${showExactSize(bytes)}${fits}`;
  const text = json === true ? JSON.stringify(object) : isValid && quiet !== true ? line : '';
  const isPrinted = text === '' || (await writeText(process.stdout, `${text}\n`));
  if (first !== undefined) return readExitCode(first);
  if (problemCount > 0) return EXIT.BAD_STREAM;
  return isPrinted ? EXIT.DONE : EXIT.IO;
}
