import type { Configuration } from '../../migration/format/events.ts';
import { StreamInput } from '../../migration/format/stream-input.ts';
import { readConfiguration } from '../../migration/reader/configuration.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import type { SnapshotInfo } from '../format/manifest.ts';
import type { SnapshotMap } from '../format/map.ts';
import type { FrameCache } from './frame-cache.ts';
import { SnapshotPages } from './snapshot-pages.ts';
import { streamOf } from './snapshot-stream.ts';

/** A snapshot that is read: a saved guest with random access to its memory. */
export class SnapshotReader implements SavedGuest {
  /** What the store says about the snapshot. */
  readonly info: SnapshotInfo;
  readonly configuration: Configuration | null;
  readonly configurationBytes: SavedGuest['configurationBytes'];
  readonly hasFooters: boolean;
  readonly ram: SavedGuest['ram'];
  readonly sections: SavedGuest['sections'];
  readonly sectionsBeforeRam: number;
  readonly descriptionText: SavedGuest['descriptionText'];
  readonly pages: SnapshotPages;

  /** @internal */
  constructor(
    info: SnapshotInfo,
    map: SnapshotMap,
    configuration: Configuration | null,
    cache: FrameCache,
  ) {
    this.info = info;
    this.configuration = configuration;
    this.configurationBytes = map.configurationBytes;
    this.hasFooters = map.hasFooters;
    this.ram = map.ram;
    this.sections = map.sections;
    this.sectionsBeforeRam = map.sectionsBeforeRam;
    this.descriptionText = map.descriptionText;
    this.pages = new SnapshotPages(map, cache);
  }

  /**
   * Return a file from which the snapshot is read as a migration stream: one round, each page once. Any number of
   * files can be read at the same time.
   *
   * @param onClose - Called when the file is closed.
   */
  stream(onClose?: () => Promise<void>): QemuFile {
    return streamOf(this, onClose);
  }

  /** Does nothing: the store that opened the snapshot holds all resources. */
  close(): Promise<void> {
    return Promise.resolve();
  }
}

/**
 * Decode a configuration section.
 *
 * @param section - The section as it was sent, from its type byte.
 * @throws {MigrationStreamError} (rejects) as `MigrationReader`.
 */
export async function decodeConfiguration(section: Uint8Array): Promise<Configuration> {
  // The reader of the section looks at the byte after it for a further part.
  const bytes = Buffer.concat([section.subarray(1), Buffer.alloc(1)]);
  let isRead = false;
  const file = new QemuFile({
    getBuffer() {
      if (isRead) return 0;
      isRead = true;
      return bytes;
    },
  });
  try {
    return await readConfiguration(new StreamInput(file));
  } finally {
    await file.close().catch(noop);
  }
}
