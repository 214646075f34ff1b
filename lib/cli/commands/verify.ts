import { readFile } from 'node:fs/promises';
import { toQemuFileError } from '../../contract/errors.ts';
import { openScratchStore } from '../../extract/scratch-store.ts';
import {
  checkTarget,
  describeTargetProblem,
  parseTargetDump,
  type TargetVerdict,
} from '../../migration/target/check-target.ts';
import { parseManifest } from '../../migration/verify/manifest.ts';
import { type Verification, verifyStream } from '../../migration/verify/verify.ts';
import { printable } from '../../util/format.ts';
import { EXIT, readExitCode } from '../shell/exit-codes.ts';
import { showExactSize } from '../shell/sizes.ts';
import { printStderr, writeText } from '../shell/stdio.ts';
import { faultOf } from './inspect.ts';
import { type ReadFlags, readStream, UsageError } from './read-command.ts';

/** Options of `qemu-file verify`. */
export interface VerifyFlags extends ReadFlags {
  /** Path of a manifest that the stream must agree with. */
  manifest?: string;
  /** Goes on after the first fault. */
  all?: boolean;
  /** Path of what a QEMU's -dump-vmstate wrote. */
  target?: string;
  /** False accepts a stream without a VM description. */
  description?: boolean;
}

/**
 * The command `qemu-file verify`.
 *
 * @param fromText - Where from, as typed.
 * @returns The exit code.
 */
export function runVerify(fromText: string, flags: VerifyFlags): Promise<number> {
  return readStream(fromText, flags, async ({ unwrapped, description, channels }, signal) => {
    // First: a stream that cannot be compared need not be read.
    const manifest = await readOption('--manifest', flags.manifest, parseManifest);
    const dump = await readOption('--target', flags.target, (text) =>
      parseTargetDump(JSON.parse(text)),
    );
    using kept = openScratchStore();
    const { file, fileOffset, seekable } = unwrapped;
    const verification = await verifyStream(file, {
      all: flags.all,
      manifest,
      digests: manifest === undefined ? undefined : { store: kept.store },
      withoutDescription: flags.description === false,
      description,
      channels,
      fileOffset,
      seekable,
      signal,
    });
    const isSound = verification.faults.length === 0;
    const verdict = dump !== undefined && isSound ? checkTarget(verification, dump) : undefined;
    return report(fromText, flags, verification, verdict);
  });
}

/** Reads a file that an option names. */
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
    throw new UsageError(`${option}: ${toQemuFileError(error).message}`);
  }
  try {
    return parse(text);
  } catch (error) {
    throw new UsageError(`${option} ${path}: ${(error as Error).message}`);
  }
}

async function report(
  fromText: string,
  { json, quiet, target }: VerifyFlags,
  verification: Verification,
  verdict: TargetVerdict | undefined,
): Promise<number> {
  const { faults, warnings, bytes, sections, configuration } = verification;
  const problems = verdict?.problems ?? [];
  for (const { message } of faults) await printStderr(`${fromText}: ${message}`);
  for (const problem of problems) {
    await printStderr(
      `${fromText}: ${target} would not load it: ${describeTargetProblem(problem)}`,
    );
  }
  if (quiet !== true) {
    for (const note of [...warnings, ...(verdict?.notes ?? [])])
      await printStderr(`${fromText}: ${note}`);
  }
  const isFine = faults.length === 0 && problems.length === 0;
  const object = {
    from: fromText,
    ok: isFine,
    bytes,
    machine: configuration?.machine ?? null,
    sections: sections.length,
    faults: faults.map(faultOf),
    warnings,
    ...(verdict === undefined ? {} : { target: verdict }),
  };
  const machine = printable(configuration?.machine ?? 'an old machine type');
  const fits = verdict === undefined ? '' : `; ${target} would load it`;
  const line = `${fromText}: fine: ${machine}, ${sections.length} sections, ${showExactSize(bytes)}${fits}`;
  const text = json === true ? JSON.stringify(object) : isFine && quiet !== true ? line : '';
  const said = text === '' || (await writeText(process.stdout, `${text}\n`));
  const [first] = faults;
  if (first !== undefined) return readExitCode(first);
  if (problems.length > 0) return EXIT.BAD_STREAM;
  return said ? EXIT.DONE : EXIT.IO;
}
