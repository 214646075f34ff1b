import type { DeviceSection } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import type { StreamSource } from '../format/stream-source.ts';
import { ImagePages } from '../memory/image-pages.ts';
import { RamImage, type RamImageOptions } from '../memory/ram-image.ts';
import { MigrationReader, type ReaderOptions } from '../reader/migration-reader.ts';
import type { ComparedGuest } from './compare-guests.ts';

/**
 * Read a stream to its end and keep its guest.
 *
 * @param store - Keeps the pages, as the option of `RamImage`.
 * @param options - As of a `MigrationReader`.
 * @throws {MigrationStreamError} (rejects) the first fault of the stream. {QemuFileError} the errors of its
 *   transport and of the store.
 */
export async function readGuest(
  source: StreamSource,
  store: RamImageOptions['store'],
  options: Omit<ReaderOptions, 'pages' | 'onFault'>,
): Promise<ComparedGuest> {
  const image = new RamImage({ store });
  const reader = new MigrationReader(source, { ...options, pages: image });
  const devices: DeviceSection[] = [];
  for await (const event of reader) {
    if (event.type === 'device') devices.push(event);
  }
  const { blocks, pageSize, usesMultifd } = reader.ram;
  if (usesMultifd && (options.channels ?? []).length === 0) {
    const reason =
      'the pages are in multifd channels, which were not given: give each with --a-channel or --b-channel';
    throw new MigrationStreamError('truncated', reason, {});
  }
  const pages = new ImagePages(image, blocks, pageSize);
  return { configuration: reader.configuration, devices, pages };
}
