import type { StoreUrl } from '../../../../adapters/storage/store-url.ts';
import { openStore } from '../../../snapshot/open-store.ts';
import { parseCopyTarget, parseSnapshotUrl } from '../../endpoints/snapshot-url.ts';
import type { Measure } from '../../shell/progress.ts';
import { showExactSize } from '../../shell/sizes.ts';
import { printStderr } from '../../shell/stdio.ts';
import { print, type StoreCommandFlags, withProgress, withStore } from './store-command.ts';

/** Run `qemu-file store rm`. */
export function runStoreRemove(urlText: string, flags: StoreCommandFlags): Promise<number> {
  return withStore(
    () => parseSnapshotUrl(urlText),
    async ({ store, name, signal }) => {
      await store.remove(name, { signal });
      if (flags.quiet !== true) {
        await printStderr(
          `removed "${name}"; "qemu-file store gc" frees what no other snapshot needs`,
        );
      }
      return print(flags, { removed: name }, () => '');
    },
  );
}

/** Run `qemu-file store copy`. */
export function runStoreCopy(
  fromText: string,
  toText: string,
  flags: StoreCommandFlags,
): Promise<number> {
  let to: StoreUrl;
  const parse = (): StoreUrl => {
    to = parseCopyTarget(toText);
    return parseSnapshotUrl(fromText);
  };
  return withStore(parse, async ({ store, name, signal }) => {
    const target = await openStore(to);
    try {
      let measured: Measure = { bytes: 0, limitedMs: 0 };
      const info = await withProgress(
        flags,
        () => measured,
        () =>
          store.copy(name, target, {
            name: to.snapshot,
            replace: flags.replace,
            signal,
            onProgress: (bytes, total) => {
              measured = { bytes, total, limitedMs: 0 };
            },
          }),
      );
      if (flags.quiet !== true) {
        const sizes = `${showExactSize(info.ownBytes)} copied, ${showExactSize(info.sharedBytes)} were there`;
        await printStderr(`copied "${name}" to "${info.name}" in ${target.name}: ${sizes}`);
      }
      return await print(flags, info, () => '');
    } finally {
      await target.close();
    }
  });
}
