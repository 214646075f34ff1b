import type { MigrationEvent, RamBlock, Section } from '../../../lib/migration/format/events.ts';
import {
  MigrationReader,
  type ReaderOptions,
} from '../../../lib/migration/reader/migration-reader.ts';

/** One report of a reader about RAM pages. */
export interface SeenPage {
  block: string;
  offset: number;
  /** Bytes, or the number of pages of zeros. */
  what: string;
}

/** Yield chunks one at a time. */
export async function* chunksOf(chunks: readonly Uint8Array[]): AsyncGenerator<Uint8Array, void> {
  for (const chunk of chunks) yield chunk;
}

/** Read a stream to its end; return all events and the final RAM of each block. */
export async function readStream(
  chunks: readonly Uint8Array[],
  options: ReaderOptions = {},
): Promise<{ events: MigrationEvent[]; ram: Map<string, Buffer>; reader: MigrationReader }> {
  const ram = new Map<string, Buffer>();
  const bytesOf = (block: RamBlock): Buffer => ram.get(block.name) as Buffer;
  let pageSize = 0;
  const reader = new MigrationReader(chunksOf(chunks), {
    ...options,
    pages: {
      blocks(blocks, size) {
        pageSize = size;
        for (const { name, usedLength } of blocks) {
          if (!ram.has(name)) ram.set(name, Buffer.alloc(usedLength));
        }
      },
      page: (block, offset, bytes) => void bytesOf(block).set(bytes, offset),
      zero: (block, offset, count) =>
        void bytesOf(block).fill(0, offset, offset + count * pageSize),
      ...options.pages,
    },
  });
  const events: MigrationEvent[] = [];
  for await (const event of reader) events.push(event);
  return { events, ram, reader };
}

/** Return one line per event, for comparisons: `offset type details`. */
export function outline(events: readonly MigrationEvent[]): string[] {
  return events.map((event) => `${event.offset} ${event.type} ${detail(event)}`.trim());
}

function detail(event: MigrationEvent): string {
  switch (event.type) {
    case 'header':
      return `${event.version}`;
    case 'configuration':
      return event.configuration.machine;
    case 'section':
      return `${event.section.kind} ${event.section.sectionId} ${event.section.name}`;
    case 'sectionEnd':
      return `${event.section.sectionId} ${event.section.bytes} footer ${event.footer}`;
    case 'ramBlocks':
      return event.blocks.map(({ name, usedLength }) => `${name} ${usedLength}`).join(', ');
    case 'device':
      return `${event.section.name} ${event.body.toString('hex')}`;
    case 'command':
      return event.command.name;
    case 'vmDescription':
    case 'trailing':
      return `${event.bytes}`;
    case 'warning':
      return event.message;
    case 'end':
    case 'packageEnd':
      return '';
  }
}

/** Return the number of bytes before a section's body. */
export function sectionHeaderBytes({ kind, name }: Section): number {
  return kind === 'start' || kind === 'full' ? 14 + Buffer.byteLength(name) : 5;
}
