import { createHash } from 'node:crypto';
import type { OpenStream } from '../../../lib/cli/endpoints/open-stream.ts';
import { stateToJson } from '../../../lib/migration/devices/state-decoder.ts';
import type { RamBlock } from '../../../lib/migration/format/events.ts';
import type { StreamSource } from '../../../lib/migration/format/stream-source.ts';
import { MemoryPageStore } from '../../../lib/migration/memory/page-store.ts';
import { RamImage } from '../../../lib/migration/memory/ram-image.ts';
import {
  MigrationReader,
  type ReaderOptions,
} from '../../../lib/migration/reader/migration-reader.ts';
import { StreamSummarizer, type StreamSummary } from '../../../lib/migration/verify/summary.ts';

/** Summary of a stream, and its RAM. */
export interface SummaryAndRam {
  summary: StreamSummary;
  /** SHA-256 of the final contents of each block. */
  ram: Record<string, string>;
  /** Decoded states, by `NAME (section id)`. */
  states: Map<string, unknown>;
  /** Offset after the end mark. */
  endedAt: number;
}

/** Read a stream to its end; return its summary and its final RAM. */
export async function readSummary(
  source: StreamSource,
  options: ReaderOptions = {},
  container: string | null = null,
): Promise<SummaryAndRam> {
  const image = new RamImage({ store: () => new MemoryPageStore() });
  const reader = new MigrationReader(source, { ...options, pages: image });
  const summarizer = new StreamSummarizer();
  const states = new Map<string, unknown>();
  let endedAt = 0;
  for await (const event of reader) {
    summarizer.add(event);
    if (event.type === 'end') endedAt = event.offset + 1;
    if (event.type !== 'device' || event.state === null) continue;
    const { name, sectionId } = event.section;
    const state = JSON.parse(JSON.stringify(stateToJson(event.state))) as unknown;
    states.set(`${name} (${sectionId})`, state);
  }
  const ram = Object.fromEntries(
    reader.ram.blocks.map((block) => [block.name, sha256Of(image, block)]),
  );
  return { summary: summarizer.summary(reader.ram, container), ram, states, endedAt };
}

/** Read a stream that was opened in the way the command opens it. */
export async function readOpened(opened: OpenStream): Promise<SummaryAndRam> {
  const { unwrapped, description, channels } = opened;
  const { file, fileOffset, seekable, container } = unwrapped;
  try {
    const options = { description, channels, fileOffset, seekable };
    return await readSummary(file, options, container);
  } finally {
    await opened.close();
  }
}

function sha256Of(image: RamImage, block: RamBlock): string {
  const hash = createHash('sha256');
  const piece = Buffer.alloc(1 << 20);
  for (let at = 0; at < block.usedLength; at += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, block.usedLength - at));
    image.read(block, at, part);
    hash.update(part);
  }
  return hash.digest('hex');
}
