/** The snapshot store: many snapshots of guests in a directory or in object storage. */
export type { SnapshotInfo } from './format/manifest.ts';
export type { FsckOptions, FsckResult, StoreDamage } from './maintain/check-store.ts';
export type { GcOptions, GcResult } from './maintain/collect-garbage.ts';
export type { CopyOptions } from './maintain/copy-snapshot.ts';
export { openStore } from './open-store.ts';
export type { SnapshotPages } from './read/snapshot-pages.ts';
export { SnapshotReader } from './read/snapshot-reader.ts';
export {
  type SnapshotListOptions,
  type SnapshotReaderOptions,
  SnapshotStore,
  type SnapshotStoreOptions,
} from './store.ts';
export type { SnapshotFile, StreamWatcher } from './write/snapshot-file.ts';
export {
  type SnapshotFileOptions,
  type SnapshotProgress,
  type SnapshotStreamOptions,
  SnapshotWriter,
  type SnapshotWriterOptions,
} from './write/snapshot-writer.ts';
