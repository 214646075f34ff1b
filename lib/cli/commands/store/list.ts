import type { QemuFileError } from '../../../contract/errors.ts';
import type { SnapshotInfo } from '../../../snapshot/format/manifest.ts';
import { visible } from '../../../util/format.ts';
import { parseSnapshotUrl, parseWholeStoreUrl } from '../../endpoints/snapshot-url.ts';
import { EXIT } from '../../shell/exit-codes.ts';
import { showExactSize, showSize } from '../../shell/sizes.ts';
import { printStderr } from '../../shell/stdio.ts';
import { counted, print, type StoreCommandFlags, withStore } from './store-command.ts';

/** Run `qemu-file store ls`. */
export function runStoreList(urlText: string, flags: StoreCommandFlags): Promise<number> {
  return withStore(
    () => parseWholeStoreUrl(urlText),
    async ({ store, signal }) => {
      const damage: QemuFileError[] = [];
      const infos = await store.list({ signal, onDamage: (error) => damage.push(error) });
      for (const { reason } of damage) await printStderr(`${reason}; it is left out`);
      const isPrinted = await print(flags, infos.map(listedOf), () => showTable(infos));
      return isPrinted === EXIT.DONE && damage.length > 0 ? EXIT.BAD_STREAM : isPrinted;
    },
  );
}

/** Run `qemu-file store show`. */
export function runStoreShow(urlText: string, flags: StoreCommandFlags): Promise<number> {
  return withStore(
    () => parseSnapshotUrl(urlText),
    async ({ store, name, signal }) => {
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
    },
  );
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
