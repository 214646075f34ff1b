import { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { PageVisitor } from '../format/events.ts';
import type { StreamSource } from '../format/stream-source.ts';
import { MigrationReader, type ReaderOptions } from '../reader/migration-reader.ts';

/**
 * Return a function that reads a stream once more and passes its pages to a visitor; undefined for a source that cannot
 * be read again: one that cannot seek, or one with further channels.
 *
 * @param source - The source, at the first byte of the stream. Its end must not have been delivered as the end of a
 *   `Readable` when the function is called.
 * @param options - Those of the first reading.
 */
export function pagesAgain(
  source: StreamSource,
  options: ReaderOptions,
): ((pages: PageVisitor) => Promise<void>) | undefined {
  const { fileOffset = 0, channels = [], seekable } = options;
  if (!(source instanceof QemuFile) || seekable !== true || channels.length > 0) return undefined;
  return async (pages) => {
    await source.setOffset(fileOffset);
    const reader = new MigrationReader(source, { ...options, pages });
    for await (const event of reader) if (event.type === 'end') break;
  };
}
