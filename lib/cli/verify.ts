import { readFile } from 'node:fs/promises';
import { toQemuFileError } from '../errors.ts';
import { type Manifest, parseManifest } from '../migration/manifest.ts';
import type { MigrationStreamError } from '../migration/stream-error.ts';
import { parseTarget, type Target } from '../migration/target.ts';
import { type Verification, verifyStream } from '../migration/verify.ts';
import { EXIT, readExitCode } from './exit.ts';
import { faultOf } from './inspect.ts';
import type { OpenStream } from './open-stream.ts';
import { keepPages } from './page-stores.ts';
import { type ReadFlags, readStream, UsageError } from './read-command.ts';
import { showExactSize } from './sizes.ts';
import { say, writeText } from './text.ts';

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
  return readStream(fromText, flags, async (stream) => {
    // Both are read first: a save that cannot be compared need not be read.
    const manifest = await readOption(flags.manifest, 'manifest', parseManifest);
    const target = await readOption(flags.target, 'target', parseTarget);
    const verification = await verify(stream, flags, manifest);
    const { faults, warnings } = verification;
    const misfits =
      target === undefined || faults.length > 0 ? [] : fitsTarget(target, verification);
    return report(fromText, flags, verification, misfits, warnings);
  });
}
