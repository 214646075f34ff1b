import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';

/** A folder of recorded streams with known facts, outside the repository; it may be absent. */
const FOLDER =
  process.env.QEMU_FILE_CORPUS ??
  fileURLToPath(new URL('../../../../shared/corpus', import.meta.url));

/** Facts about a recording that tests use. */
export interface RecordingFacts {
  name: string;
  machine_type: string;
  capabilities: Record<string, boolean>;
  files: { file: string; holds: string; bytes: number; xxh64: string; sha256: string }[];
  stream_at?: number;
  /** What the stream is in, if it is not bare. */
  container?: { payload_at: number };
  pages_by_qemu?: Record<string, number>;
  multifd_packets?: Record<
    string,
    { packets: number; sync: number; normal_pages: number; zero_pages: number }
  >;
  analyze_migration: {
    configuration?: { machine: string };
    page_size: number;
    sections: { section_id: number; name: string; instance_id: number; version_id: number }[];
    ram_block_sizes: Record<string, number>;
    records: Record<string, number>;
    commands?: { command: number; bytes: number }[];
    has_vmdesc: boolean;
    sections_end_at: number;
    bytes_after_sections: number;
    analyser_lost_its_way?: unknown;
  };
  ram_blocks: { name: string; used: number; sha256: string | null; in_stream?: boolean }[];
  restored?: {
    restores: boolean;
    ram_sha256: Record<string, string>;
    ram_matches_source: Record<string, boolean>;
  };
}

/** Return the path of a file of the corpus; undefined if it is absent. */
export function corpus(file: string): string | undefined {
  const path = join(FOLDER, file);
  return existsSync(path) ? path : undefined;
}

/** Return the names of all recordings; empty without a corpus. */
export function corpusNames(): string[] {
  if (!existsSync(FOLDER)) return [];
  return readdirSync(FOLDER)
    .filter((name) => /^[^.]+\.json$/.test(name))
    .map((name) => name.slice(0, -'.json'.length))
    .sort();
}

/** Read the facts about a recording. */
export function corpusFacts(name: string): RecordingFacts {
  return JSON.parse(readFileSync(join(FOLDER, `${name}.json`), 'utf8')) as RecordingFacts;
}

/** Read a file of the corpus, decompressed if it is compressed. */
export function corpusBytes(file: string): Buffer {
  const bytes = readFileSync(join(FOLDER, file));
  return file.endsWith('.gz') ? gunzipSync(bytes) : bytes;
}
