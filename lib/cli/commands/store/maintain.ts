import { visible } from '../../../util/format.ts';
import { parseWholeStoreUrl } from '../../endpoints/snapshot-url.ts';
import { EXIT } from '../../shell/exit-codes.ts';
import { showExactSize } from '../../shell/sizes.ts';
import { printStderr } from '../../shell/stdio.ts';
import {
  counted,
  print,
  type StoreCommandFlags,
  withProgress,
  withStore,
} from './store-command.ts';

/** Run `qemu-file store gc`. */
export function runStoreGc(urlText: string, flags: StoreCommandFlags): Promise<number> {
  return withStore(
    () => parseWholeStoreUrl(urlText),
    async ({ store, signal }) => {
      let line = 'looking for what no snapshot needs';
      const onProgress = (removed: number, all: number): void => {
        line = `removed ${removed} of ${counted(all, 'object')}`;
      };
      const { grace: graceMs, dryRun } = flags;
      const result = await withProgress(
        flags,
        () => ({ bytes: 0, limitedMs: 0, line }),
        () => store.gc({ graceMs, dryRun, signal, onProgress }),
      );
      const { removed, removedBytes, kept, leftovers } = result;
      if (flags.quiet !== true) {
        const verb = dryRun === true ? 'would remove' : 'removed';
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
    },
  );
}

/** Run `qemu-file store fsck`. */
export function runStoreFsck(urlText: string, flags: StoreCommandFlags): Promise<number> {
  return withStore(
    () => parseWholeStoreUrl(urlText),
    async ({ store, signal }) => {
      let line = 'checking manifests and maps';
      const onProgress = (checked: number, all: number): void => {
        line = `checked ${checked} of ${counted(all, 'pack')}`;
      };
      const result = await withProgress(
        flags,
        () => ({ bytes: 0, limitedMs: 0, line }),
        () => store.fsck({ deep: flags.deep, signal, onProgress }),
      );
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
    },
  );
}
