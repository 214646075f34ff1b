import { parseStoreUrl, type StoreUrl } from '../../../adapters/storage/store-url.ts';
import { type QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import type { SnapshotInfo } from '../../snapshot/format/manifest.ts';
import { openStore } from '../../snapshot/open-store.ts';
import type { SnapshotStore } from '../../snapshot/store.ts';
import { visible } from '../../util/format.ts';
import { UsageError } from '../shell/command-errors.ts';
import { EXIT, SIGNAL_EXITS, SignalAbort } from '../shell/exit-codes.ts';
import { type Measure, Meter } from '../shell/progress.ts';
import { showExactSize, showSize } from '../shell/sizes.ts';
import { printStderr, writeText } from '../shell/stdio.ts';

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
interface StoreWork {
  readonly store: SnapshotStore;
  /** Name of the snapshot in the URL; empty where it has none. */
  readonly name: string;
  readonly signal: AbortSignal;
  readonly flags: StoreCommandFlags;
}

/** Run `qemu-file store ls`. */
export function runStoreList(urlText: string, flags: StoreCommandFlags): Promise<number> {
  return withStore(urlText, flags, 'store', async ({ store, signal }) => {
    const damage: QemuFileError[] = [];
    const infos = await store.list({ signal, onDamage: (error) => damage.push(error) });
    for (const { reason } of damage) await printStderr(`${reason}; it is left out`);
    const isPrinted = await print(flags, infos.map(listedOf), () => showTable(infos));
    return isPrinted === EXIT.DONE && damage.length > 0 ? EXIT.BAD_STREAM : isPrinted;
  });
}

/** Run `qemu-file store show`. */
export function runStoreShow(urlText: string, flags: StoreCommandFlags): Promise<number> {
  return withStore(urlText, flags, 'snapshot', async ({ store, name, signal }) => {
    const guest = await store.reader(name, { signal, workingSet: true });
    const { info, sections, pages, workingSet, warnings } = guest;
    for (const warning of warnings) await printStderr(warning);
    const setPages = workingSet.reduce((sum, { count }) => sum + count, 0);
    const blocks = pages.blocks.map(({ name: block, usedLength }, index) => {
      let dataBytes = 0;
      for (const { length } of pages.extents(index)) dataBytes += length;
      return { name: block, usedLength, dataBytes };
    });
    const { packs, runs, pageSize } = pages.layout;
    const object = {
      ...info,
      pageSize,
      packs,
      runs,
      sections: sections.length,
      blocks,
      workingSetBytes: setPages * pageSize,
    };
    const set =
      setPages === 0
        ? '-'
        : `${showSize(setPages * pageSize)} in ${workingSet.length} runs of pages`;
    return print(flags, object, () => {
      const lines = [
        `${name}: ${info.machine ?? 'unknown machine'}, saved ${info.savedAt}`,
        `  parent   ${info.parent ?? '-'}`,
        `  memory   ${showSize(info.ramBytes)}, of which ${showExactSize(info.dataBytes)} are not zeros`,
        `  stored   ${showExactSize(info.ownBytes)} own, ${showExactSize(info.sharedBytes)} shared, in ${counted(packs, 'pack')}`,
        `  map      ${runs} runs of pages of ${pageSize} bytes; ${sections.length} sections beside RAM`,
        `  set      ${set}`,
        ...blocks.map(
          (block) =>
            `  ${visible(block.name)}  ${showSize(block.usedLength)}, data ${showSize(block.dataBytes)}`,
        ),
      ];
      return `${lines.join('\n')}\n`;
    });
  });
}

/** Run `qemu-file store rm`. */
export function runStoreRemove(urlText: string, flags: StoreCommandFlags): Promise<number> {
  return withStore(urlText, flags, 'snapshot', async ({ store, name, signal }) => {
    await store.remove(name, { signal });
    if (flags.quiet !== true) {
      await printStderr(
        `removed "${name}"; "qemu-file store gc" frees what no other snapshot needs`,
      );
    }
    return print(flags, { removed: name }, () => '');
  });
}

/** Run `qemu-file store copy`. */
export async function runStoreCopy(
  fromText: string,
  toText: string,
  flags: StoreCommandFlags,
): Promise<number> {
  let to: StoreUrl;
  try {
    to = parseStoreUrl(toText);
  } catch (error) {
    await printStderr(toQemuFileError(error).reason);
    return EXIT.USAGE;
  }
  return withStore(fromText, flags, 'snapshot', async ({ store, name, signal }) => {
    const target = await openStore(to);
    let measured: Measure = { bytes: 0, limitedMs: 0 };
    const meter = await Meter.start(() => measured, undefined, flags.quiet === true);
    try {
      const info = await store.copy(name, target, {
        name: to.snapshot,
        replace: flags.replace,
        signal,
        onProgress: (bytes) => {
          measured = { bytes, limitedMs: 0 };
        },
      });
      meter?.stop();
      if (flags.quiet !== true) {
        const sizes = `${showExactSize(info.ownBytes)} copied, ${showExactSize(info.sharedBytes)} were there`;
        await printStderr(`copied "${name}" to "${info.name}" in ${target.name}: ${sizes}`);
      }
      return await print(flags, info, () => '');
    } finally {
      meter?.stop();
      await target.close();
    }
  });
}

/** Run `qemu-file store gc`. */
export function runStoreGc(urlText: string, flags: StoreCommandFlags): Promise<number> {
  return withStore(urlText, flags, 'store', async ({ store, signal }) => {
    const result = await store.gc({ graceMs: flags.grace, dryRun: flags.dryRun, signal });
    const { removed, removedBytes, kept, leftovers } = result;
    if (flags.quiet !== true) {
      const verb = flags.dryRun === true ? 'would remove' : 'removed';
      const young =
        kept === 0
          ? ''
          : `; ${counted(kept, 'unneeded object')} stay: newer than --grace, or a writer is at work`;
      const left =
        leftovers === 0 ? '' : `, and ${counted(leftovers, 'leftover')} of interrupted writers`;
      await printStderr(
        `${verb} ${counted(removed.length, 'object')}, ${showExactSize(removedBytes)}${left}${young}`,
      );
    }
    return print(flags, result, () => '');
  });
}

/** Run `qemu-file store fsck`. */
export function runStoreFsck(urlText: string, flags: StoreCommandFlags): Promise<number> {
  return withStore(urlText, flags, 'store', async ({ store, signal }) => {
    const result = await store.fsck({ deep: flags.deep, signal });
    const { snapshots, objects, bytes, damage, unknown } = result;
    const isPrinted = await print(flags, result, () => {
      const lines = damage.map(({ key, problem, snapshots: hurt }) => {
        const who = hurt.length === 0 ? 'garbage, hurts no snapshot' : `hurts ${hurt.join(', ')}`;
        return `${visible(key)}: ${visible(problem)} (${who})\n`;
      });
      return lines.join('') + unknown.map((key) => `${visible(key)}: not of a store\n`).join('');
    });
    if (isPrinted !== EXIT.DONE) return isPrinted;
    const hurting = damage.filter((each) => each.snapshots.length > 0);
    if (flags.quiet !== true) {
      const verdict =
        damage.length === 0 ? 'ok' : `${counted(damage.length, 'object')} damaged or missing`;
      const all = `${counted(snapshots, 'snapshot')}, ${counted(objects, 'object')}`;
      await printStderr(`${urlText}: ${verdict}: ${all}, ${showExactSize(bytes)}`);
    }
    return hurting.length > 0 ? EXIT.BAD_STREAM : EXIT.DONE;
  });
}

/** Open a store, work with it, print errors, and close it. */
async function withStore(
  urlText: string,
  flags: StoreCommandFlags,
  kind: 'store' | 'snapshot',
  work: (parts: StoreWork) => Promise<number>,
): Promise<number> {
  let url: StoreUrl;
  try {
    url = parseStoreUrl(urlText);
    if (kind === 'store' && url.snapshot !== undefined) {
      throw new UsageError(
        `${urlText}: this command is for a whole store: leave out #${url.snapshot}`,
      );
    }
    if (kind === 'snapshot' && url.snapshot === undefined) {
      throw new UsageError(`${urlText}: the name of a snapshot is missing: add #NAME`);
    }
  } catch (error) {
    await printStderr(error instanceof UsageError ? error.message : toQemuFileError(error).reason);
    return EXIT.USAGE;
  }
  using interruption = new SignalAbort();
  const { signal } = interruption;
  let store: SnapshotStore | undefined;
  try {
    store = await openStore(url);
    return await work({ store, name: url.snapshot ?? '', signal, flags });
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

/** Print JSON if it was asked for, otherwise text. */
async function print(
  flags: StoreCommandFlags,
  value: unknown,
  text: () => string,
): Promise<number> {
  const output = flags.json === true ? `${JSON.stringify(value)}\n` : text();
  const isPrinted = output === '' || (await writeText(process.stdout, output));
  return isPrinted ? EXIT.DONE : EXIT.IO;
}

/** Return a number of things in words: `1 object`, `2 objects`. */
function counted(count: number, thing: string): string {
  return `${count} ${thing}${count === 1 ? '' : 's'}`;
}

function listedOf(info: SnapshotInfo): object {
  const { name, parent, machine, ramBytes, ownBytes, sharedBytes, savedAt } = info;
  return { name, parent, machine, ramBytes, ownBytes, sharedBytes, savedAt };
}

function showTable(infos: readonly SnapshotInfo[]): string {
  if (infos.length === 0) return 'No snapshots\n';
  const rows = infos.map((info) => [
    info.name,
    info.parent ?? '-',
    visible(info.machine ?? '-'),
    showSize(info.ramBytes),
    showSize(info.ownBytes),
    showSize(info.sharedBytes),
    info.savedAt.replace(/\.\d+Z$/, 'Z'),
  ]);
  const table = [['NAME', 'PARENT', 'MACHINE', 'RAM', 'OWN', 'SHARED', 'SAVED'], ...rows];
  const widths = table[0]?.map((_title, column) =>
    Math.max(...table.map((row) => (row[column] as string).length)),
  );
  return table
    .map(
      (row) =>
        `${row
          .map((cell, at) => cell.padEnd(widths?.[at] ?? 0))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('');
}
