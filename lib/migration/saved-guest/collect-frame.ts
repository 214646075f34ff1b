import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import type { FoundDescription } from '../devices/find-vm-description.ts';
import type { MigrationEvent, PageVisitor } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import { openSource, type StreamSource } from '../format/stream-source.ts';
import { endsAs } from '../format/whole-source.ts';
import { checkDiscarded, DiscardedPages } from '../memory/discarded-pages.ts';
import { MigrationReader } from '../reader/migration-reader.ts';
import { hasPagesElsewhere } from './multifd-pages.ts';
import { type GuestFrame, readFrame, type StreamBytes } from './read-frame.ts';

/** Options of `collectFrame`. */
export interface CollectFrameOptions {
  /** The additional channels of the migration; as for `MigrationReader`. */
  channels?: readonly StreamSource[] | undefined;
  /** Bytes that may be the VM description, if it was looked up at the end of the file; as for `MigrationReader`. */
  description?: FoundDescription | undefined;
  /** Offset in its file of the stream's first byte; as for `MigrationReader`. Default 0. */
  fileOffset?: number | undefined;
  /** Called with each fault after which the stream can still be read. Default: the first one is thrown. */
  onFault?: ((fault: MigrationStreamError) => void) | undefined;
  /** Called with each event of the stream. */
  onEvent?: ((event: MigrationEvent) => void) | undefined;
  /** Waits until the visitor can take more pages; called before bytes of the stream are read. */
  ready?: (() => Promise<void>) | undefined;
}

/**
 * Read a stream of any kind to its end, and keep everything except RAM.
 *
 * @param source - A `QemuFile`, or chunks of bytes. Its next byte is the stream's first. It stays open.
 * @param pages - Receives the pages.
 * @throws {MigrationStreamError} (rejects) as `MigrationReader`; `unsupported` for a stream without RAM, with its
 *   pages in channels that were not given, or with a command that QEMU does not know; `truncated` if pages that postcopy
 *   discarded did not come after that.
 * @throws {QemuFileError} (rejects) the errors of the source and of `ready`.
 */
export async function collectFrame(
  source: StreamSource,
  pages: PageVisitor,
  options: CollectFrameOptions = {},
): Promise<GuestFrame> {
  const { channels = [], description, fileOffset, onFault, onEvent, ready } = options;
  const opened = openSource(source);
  const passed = new PassedBytes(opened.file, ready);
  endsAs(passed.file, source);
  const discarded = new DiscardedPages();
  const visitor: PageVisitor = {
    blocks(blocks, pageSize) {
      discarded.blocks(blocks, pageSize);
      return pages.blocks?.(blocks, pageSize);
    },
    page(block, offset, bytes) {
      discarded.sent(block, offset, bytes.length);
      pages.page?.(block, offset, bytes);
      passed.release(reader.position - bytes.length);
    },
    zero(block, offset, count) {
      discarded.zero(block, offset, count);
      pages.zero?.(block, offset, count);
      passed.release(reader.position);
    },
    xbzrle(block, offset, encoded) {
      pages.xbzrle?.(block, offset, encoded);
      passed.release(reader.position - encoded.length);
    },
  };
  const reader: MigrationReader = new MigrationReader(passed.file, {
    pages: visitor,
    channels: ready === undefined ? channels : channels.map((channel) => paced(channel, ready)),
    description,
    fileOffset,
    onFault,
  });
  try {
    const frame = await readFrame(reader, passed, (event) => {
      discarded.follow(event);
      onEvent?.(event);
    });
    if (channels.length === 0 && hasPagesElsewhere(reader)) {
      const reason =
        'its pages are in multifd channels, which were not given (--channel FILE for each channel)';
      throw new MigrationStreamError('unsupported', reason, {});
    }
    checkDiscarded(discarded, reader.position);
    return frame;
  } finally {
    await passed.file.close().catch(noop);
    await opened.close();
  }
}

/** Yield the chunks of a channel, each when the visitor can take it. */
async function* paced(
  channel: StreamSource,
  ready: () => Promise<void>,
): AsyncGenerator<Uint8Array, void> {
  const { file, close } = openSource(channel);
  try {
    while ((await file.fillOrEnd(1)) > 0) {
      await ready();
      yield file.getBuffer(file.lookedAhead);
    }
  } finally {
    await close();
  }
}

/** A file that passes on the bytes of another one without a copy, and remembers those that were not released. */
class PassedBytes implements StreamBytes {
  readonly file: QemuFile;
  readonly #source: ReturnType<QemuFile['startTransfer']>;
  readonly #chunks: Uint8Array[] = [];
  /** Offset in the stream of the first remembered byte. */
  #from = 0;

  /** @param ready - Waits until the reader may have more bytes. */
  constructor(from: QemuFile, ready: (() => Promise<void>) | undefined) {
    const source = from.startTransfer();
    this.#source = source;
    this.file = new QemuFile({
      getBuffer: async () => {
        await ready?.();
        for (;;) {
          const chunk = source.takeChunk();
          if (chunk !== null) {
            this.#chunks.push(chunk);
            return chunk;
          }
          if (await source.waitForChunk()) continue;
          if (from.error !== null) throw from.error;
          return 0;
        }
      },
    });
  }

  take(from: number, to: number): Uint8Array {
    const bytes = new Uint8Array(to - from);
    let at = this.#from;
    for (const chunk of this.#chunks) {
      const start = Math.max(from - at, 0);
      const end = Math.min(to - at, chunk.length);
      if (start < end) bytes.set(chunk.subarray(start, end), at + start - from);
      at += chunk.length;
    }
    return bytes;
  }

  release(before: number): void {
    let count = 0;
    for (const chunk of this.#chunks) {
      if (this.#from + chunk.length > before) break;
      this.#from += chunk.length;
      count += 1;
      this.#source.recycleChunk(chunk);
    }
    if (count > 0) this.#chunks.splice(0, count);
  }
}
