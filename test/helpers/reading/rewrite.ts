import type { PageVisitor } from '../../../lib/migration/format/events.ts';
import {
  MigrationReader,
  type ReaderOptions,
} from '../../../lib/migration/reader/migration-reader.ts';
import { MigrationWriter } from '../../../lib/migration/writer/migration-writer.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { chunksOf, sectionHeaderBytes } from './read-stream.ts';

/**
 * Read a stream and write its events; return what was written. Texts and bodies that events do not contain
 * are taken from the stream by their offsets.
 */
export async function rewrite(
  bytes: Buffer,
  chunks: readonly Uint8Array[],
  options: ReaderOptions & { hasFooters?: boolean } = {},
): Promise<Buffer> {
  const pieces: Buffer[] = [];
  const file = new QemuFile({
    writevBuffer: (buffers) => {
      const piece = Buffer.concat(buffers);
      pieces.push(piece);
      return piece.length;
    },
  });
  const writer = new MigrationWriter(file, { hasFooters: options.hasFooters });
  const { ram } = writer;
  const pages: PageVisitor = {
    blocks: (_blocks, pageSize) => {
      ram.pageSize = pageSize;
    },
    page: (block, offset, page) => ram.page(block.index, offset, page),
    zero: (block, offset, count) => ram.zero(block.index, offset, count),
    xbzrle: (block, offset, encoded) => ram.xbzrle(block.index, offset, encoded),
    compressedPage: (block, offset, page) => ram.compressedPage(block.index, offset, page),
    filledPage: (block, offset, fill) => ram.zero(block.index, offset, 1, fill),
    named: () => ram.nameNextBlock(),
    multifdFlush: () => ram.multifdFlush(),
    hook: () => ram.hook(),
  };
  const reader = new MigrationReader(chunksOf(chunks), { ...options, pages });
  for await (const event of reader) {
    switch (event.type) {
      case 'header':
        writer.header();
        break;
      case 'configuration':
        writer.configuration(event.configuration);
        break;
      case 'section':
        writer.beginSection(event.section);
        break;
      case 'ramBlocks':
        ram.pageSize = event.pageSize;
        ram.listBlocks(event.blocks);
        break;
      case 'sectionEnd': {
        const { section, footer, offset } = event;
        const start = section.offset + sectionHeaderBytes(section);
        if (section.name !== 'ram') writer.body(bytes.subarray(start, footer ?? offset));
        writer.endSection();
        break;
      }
      case 'command':
        if (event.command.name === 'PACKAGED') writer.beginPackage();
        else if (event.command.name === 'UNKNOWN') {
          const payload = bytes.subarray(event.offset + 5, event.offset + event.bytes);
          writer.command({ number: event.number, payload });
        } else writer.command(event.command);
        break;
      case 'packageEnd':
        writer.endPackage();
        break;
      case 'end':
        writer.end();
        break;
      case 'vmDescription':
        writer.vmDescription(bytes.subarray(event.offset + 5, event.offset + event.bytes));
        break;
      case 'trailing':
        file.putBuffer(bytes.subarray(event.offset));
        break;
      case 'device':
      case 'warning':
        break;
    }
  }
  await file.close();
  return Buffer.concat(pieces);
}
