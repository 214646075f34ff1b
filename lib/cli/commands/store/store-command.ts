import type { StoreUrl } from '../../../../adapters/storage/store-url.ts';
import { toQemuFileError } from '../../../contract/errors.ts';
import { openStore } from '../../../snapshot/open-store.ts';
import type { SnapshotStore } from '../../../snapshot/store.ts';
import { reportUnreadable } from '../../endpoints/tls/read-from-tls.ts';
import { EXIT, SIGNAL_EXITS, SignalAbort } from '../../shell/exit-codes.ts';
import { type Measure, Meter } from '../../shell/progress.ts';
import { printStderr, writeText } from '../../shell/stdio.ts';

/** Options of `qemu-file store …`; each command has some of them. */
export interface StoreCommandFlags {
  replace?: boolean;
  /** Milliseconds. */
  grace?: number;
  dryRun?: boolean;
  deep?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** What a command works with. */
export interface StoreWork {
  readonly store: SnapshotStore;
  /** Name of the snapshot in the URL; empty where it has none. */
  readonly name: string;
  readonly signal: AbortSignal;
}

/**
 * Open a store, work with it, print errors, and close it.
 *
 * @param parse - Parses the URL of the store; `reportUnreadable` reports its errors.
 * @param work - Returns the exit code.
 */
export async function withStore(
  parse: () => StoreUrl,
  work: (parts: StoreWork) => Promise<number>,
): Promise<number> {
  let url: StoreUrl;
  try {
    url = parse();
  } catch (error) {
    return reportUnreadable(error);
  }
  using interruption = new SignalAbort();
  const { signal } = interruption;
  let store: SnapshotStore | undefined;
  try {
    store = await openStore(url);
    return await work({ store, name: url.snapshot ?? '', signal });
  } catch (error) {
    const { by } = interruption;
    if (by !== undefined) {
      await printStderr(`interrupted by ${by}`);
      return SIGNAL_EXITS[by];
    }
    await printStderr(toQemuFileError(error).message);
    return EXIT.IO;
  } finally {
    await store?.close();
  }
}

/** Do work with a progress line, which is gone when the work ends. */
export async function withProgress<T>(
  { quiet }: StoreCommandFlags,
  measure: () => Measure,
  work: () => Promise<T>,
): Promise<T> {
  const meter = await Meter.start(measure, undefined, quiet === true);
  try {
    return await work();
  } finally {
    meter?.stop();
  }
}

/** Print JSON if it was asked for, otherwise text. */
export async function print(
  flags: StoreCommandFlags,
  value: unknown,
  text: () => string,
): Promise<number> {
  const output = flags.json === true ? `${JSON.stringify(value)}\n` : text();
  const isPrinted = output === '' || (await writeText(process.stdout, output));
  return isPrinted ? EXIT.DONE : EXIT.IO;
}

/** Return a number of things in words: `1 object`, `2 objects`. */
export function counted(count: number, thing: string): string {
  return `${count} ${thing}${count === 1 ? '' : 's'}`;
}
