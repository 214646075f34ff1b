import type { ObjectStorage } from '../../../adapters/storage/object-storage.ts';
import type { PageRange } from '../../migration/page-source/page-source.ts';
import { encodeWorkingSet } from '../../migration/page-source/working-set.ts';
import type { GuestFrame } from '../../migration/saved-guest/read-frame.ts';
import { sha256Hex } from '../format/digest.ts';
import { mapKey, workingSetKey } from '../format/keys.ts';
import type { SnapshotInfo, SnapshotManifest } from '../format/manifest.ts';
import { encodeMap, type MapPack, type SnapshotMap } from '../format/map.ts';
import { PackIndex } from '../format/pack-index.ts';
import { type PageRuns, PageRunsBuilder } from '../format/page-runs.ts';
import { sealText } from '../format/sealed-text.ts';
import { decodeConfiguration } from '../read/snapshot-reader.ts';
import { checkPresent } from './check-present.ts';
import type { FinishedPacks } from './pages/own-packs.ts';
import type { PageIntake } from './pages/page-intake.ts';
import { publish } from './publish.ts';

/** A guest whose pages are stored. */
export interface StoredGuest {
  readonly storage: ObjectStorage;
  readonly name: string;
  readonly options: {
    readonly replace?: boolean | undefined;
    readonly signal?: AbortSignal | undefined;
  };
  readonly frame: GuestFrame;
  readonly intake: PageIntake;
  readonly parent: { readonly manifest: SnapshotManifest; readonly map: SnapshotMap } | null;
  /** The packs that were written for it. */
  readonly own: FinishedPacks;
  /** The working set that is kept with it. */
  readonly workingSet: readonly PageRange[];
}

/** Write map and manifest of a guest whose pages are stored: from then on there is a snapshot. */
export async function completeSnapshot(guest: StoredGuest): Promise<SnapshotInfo> {
  const { storage, name, frame, intake, parent, own, workingSet, options } = guest;
  const { signal } = options;
  const shared = parent?.map.packs ?? [];
  const { packs, runs } = usedPacks(shared, own, intake);
  const isOwn = new Set(own.packs);
  await checkPresent(storage, packs, signal);
  const { pageSize, blockList } = intake;
  const map = await encodeMap({
    configurationBytes: frame.configurationBytes,
    hasFooters: frame.hasFooters,
    ram: frame.ram,
    sectionsBeforeRam: frame.sectionsBeforeRam ?? 0,
    sections: frame.sections,
    descriptionText: frame.descriptionText,
    pageSize,
    blocks: blockList,
    packs,
    runs,
  });
  const sha256 = sha256Hex(map);
  await storage.put(mapKey(sha256), [map], { signal });
  if (workingSet.length > 0) {
    const text = encodeWorkingSet(workingSet, { pageSize, blocks: blockList }).trimEnd();
    await storage.put(workingSetKey(sha256), [sealText(text)], { signal });
  }
  const manifest: SnapshotManifest = {
    name,
    // A snapshot that replaces its parent has none any more.
    parent: parent === null || parent.manifest.name === name ? null : parent.manifest.name,
    machine: (await configurationOf(frame))?.machine ?? null,
    ramBytes: blockList.reduce((sum, { usedLength }) => sum + usedLength, 0),
    dataBytes: runs.total() * pageSize,
    ownBytes: map.length + totalBytes(packs.filter((pack) => isOwn.has(pack))),
    sharedBytes: totalBytes(packs.filter((pack) => !isOwn.has(pack))),
    savedAt: new Date().toISOString(),
    map: { sha256, bytes: map.length },
  };
  await publish(storage, manifest, options.replace === true, signal);
  return manifest;
}

/** Return the packs that the guest needs, and its runs of pages in the numbers of their stored pages. */
function usedPacks(
  shared: readonly MapPack[],
  { packs: own, numberOf }: FinishedPacks,
  { table }: PageIntake,
): { packs: MapPack[]; runs: PageRuns } {
  const all = [...shared, ...own];
  const index = new PackIndex(all);
  const isUsed = new Uint8Array(all.length);
  table.forEach((_page, number) => {
    isUsed[index.packOf(numberOf(number - 1))] = 1;
  });
  const packs = all.filter((_pack, at) => isUsed[at] === 1);
  /** How many pages of unused packs come before each pack. */
  const unused = new Uint32Array(all.length);
  let before = 0;
  for (const [at, { pages }] of all.entries()) {
    unused[at] = before;
    if (isUsed[at] === 0) before += pages;
  }
  const runs = new PageRunsBuilder();
  table.forEach((page, number) => {
    const stored = numberOf(number - 1);
    runs.add(page, 1, stored - (unused[index.packOf(stored)] as number));
  });
  return { packs, runs: runs.finish() };
}

async function configurationOf({
  configuration,
  configurationBytes,
}: GuestFrame): Promise<GuestFrame['configuration']> {
  if (configuration !== null || configurationBytes === null) return configuration;
  return decodeConfiguration(configurationBytes);
}

function totalBytes(packs: readonly MapPack[]): number {
  return packs.reduce((sum, { bytes }) => sum + bytes, 0);
}
