import type { ObjectStorage } from '../../../adapters/storage/object-storage.ts';
import type { GuestFrame } from '../../migration/saved-guest/read-frame.ts';
import { sha256Hex } from '../format/digest.ts';
import { mapKey } from '../format/keys.ts';
import type { SnapshotInfo, SnapshotManifest } from '../format/manifest.ts';
import { encodeMap, type MapPack, type SnapshotMap } from '../format/map.ts';
import { PackIndex } from '../format/pack-index.ts';
import { type PageRuns, PageRunsBuilder } from '../format/page-runs.ts';
import { decodeConfiguration } from '../read/snapshot-reader.ts';
import { checkPresent } from './check-present.ts';
import type { PageIntake } from './page-intake.ts';
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
  readonly own: readonly MapPack[];
}

/** Write map and manifest of a guest whose pages are stored: from then on there is a snapshot. */
export async function completeSnapshot(guest: StoredGuest): Promise<SnapshotInfo> {
  const { storage, name, frame, intake, parent, own, options } = guest;
  const { signal } = options;
  const shared = parent?.map.packs ?? [];
  const { packs, runs } = usedPacks([...shared, ...own], intake);
  const isOwn = new Set(own);
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
  all: readonly MapPack[],
  { table }: PageIntake,
): { packs: MapPack[]; runs: PageRuns } {
  const index = new PackIndex(all);
  const isUsed = new Uint8Array(all.length);
  table.forEach((_page, number) => {
    isUsed[index.packOf(number - 1)] = 1;
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
    const stored = number - 1;
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
