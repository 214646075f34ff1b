import { printable } from '../../util/format.ts';
import type { SectionKind } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';

/** Digest of one section. */
export interface SectionDigest {
  sectionId: number;
  name: string;
  instanceId: number;
  kind: SectionKind;
  offset: number;
  bytes: number;
  /** XXH64 of these bytes, 16 hexadecimal digits. */
  xxh64: string;
}

/** Digest of the contents of a RAM block after the stream was loaded. */
export interface BlockDigest {
  name: string;
  usedLength: number;
  xxh64: string;
}

/** Digests of the parts of a stream, to find out later whether the stream is unchanged. */
export interface Manifest {
  format: 'qemu-file-manifest';
  version: 1;
  machine: string | null;
  /** Bytes of the stream and of anything that follows it. */
  bytes: number;
  /** XXH64 of these bytes, 16 hexadecimal digits. */
  xxh64: string;
  sections: SectionDigest[];
  ram: { pageSize: number; blocks: BlockDigest[] } | null;
}

/** Name of the sections that hold pages. */
const RAM = 'ram';

const XXH64 = /^[0-9a-f]{16}$/;
const KINDS: ReadonlySet<unknown> = new Set<SectionKind>(['start', 'part', 'end', 'full']);

/**
 * Parse a manifest.
 *
 * @param text - JSON.
 * @throws {SyntaxError} If `text` is not JSON.
 * @throws {TypeError} If it is not a manifest of version 1.
 */
export function parseManifest(text: string): Manifest {
  const value = JSON.parse(text) as Partial<Manifest> | null;
  const wrong = (what: string): never => {
    throw new TypeError(`not a qemu-file manifest: ${what}`);
  };
  if (typeof value !== 'object' || value === null) return wrong('not an object');
  if (value.format !== 'qemu-file-manifest') wrong('"format" is not "qemu-file-manifest"');
  if (value.version !== 1) wrong(`"version" is ${String(value.version)}, not 1`);
  if (!Number.isSafeInteger(value.bytes)) wrong('"bytes" is not a number of bytes');
  if (!XXH64.test(String(value.xxh64))) wrong('"xxh64" is not a digest');
  if (!Array.isArray(value.sections)) wrong('"sections" is not a list');
  for (const section of value.sections as Partial<SectionDigest>[]) {
    const fits =
      typeof section?.name === 'string' &&
      KINDS.has(section.kind) &&
      Number.isSafeInteger(section.offset) &&
      Number.isSafeInteger(section.bytes) &&
      XXH64.test(String(section.xxh64));
    if (!fits) wrong('"sections" has an entry that is not a section');
  }
  if (value.ram !== null) {
    const blocks = value.ram?.blocks;
    if (!Array.isArray(blocks)) return wrong('"ram" has no list of blocks');
    for (const block of blocks as Partial<BlockDigest>[]) {
      const fits = typeof block?.name === 'string' && XXH64.test(String(block.xxh64));
      if (!fits) wrong('"ram.blocks" has an entry that is not a block');
    }
  }
  return value as Manifest;
}

/**
 * Compare the manifest of a stream with the expected one.
 *
 * @returns One `corrupt` error for each difference, the most specific first: sections in the order of the
 *   stream, then RAM blocks, then the whole stream. Empty if the stream matches.
 */
export function compareManifests(expected: Manifest, found: Manifest): MigrationStreamError[] {
  const faults: MigrationStreamError[] = [];
  const fault = (reason: string, position?: number, section?: SectionDigest): void => {
    faults.push(new MigrationStreamError('corrupt', printable(reason), { position, section }));
  };
  const count = Math.max(expected.sections.length, found.sections.length);
  for (let index = 0; index < count; index++) {
    const [want, have] = [expected.sections[index], found.sections[index]];
    if (have === undefined || want === undefined) {
      const [less, more] = [found.sections.length, expected.sections.length];
      const reason = `the stream has ${less} sections; the manifest lists ${more}`;
      fault(reason, have?.offset ?? found.bytes, have);
      break;
    }
    const same = want.name === have.name && want.kind === have.kind && want.bytes === have.bytes;
    if (!same || want.offset !== have.offset) {
      const listed = `"${want.name}" (${want.kind}, ${want.bytes} bytes at ${want.offset})`;
      fault(`the manifest lists section ${index + 1} as ${listed}`, have.offset, have);
      break;
    }
    if (want.xxh64 !== have.xxh64) {
      fault(`XXH64 ${have.xxh64}; the manifest lists ${want.xxh64}`, have.offset, have);
    }
  }
  faults.push(...compareBlocks(expected, found));
  if (expected.bytes !== found.bytes) {
    const reason = `the stream has ${found.bytes} bytes; the manifest lists ${expected.bytes}`;
    fault(reason, Math.min(expected.bytes, found.bytes));
  }
  if (expected.xxh64 !== found.xxh64) {
    const digests = `XXH64 ${found.xxh64}; the manifest lists ${expected.xxh64}`;
    fault(`the stream as a whole differs: ${digests}`);
  }
  return faults;
}

/**
 * Compare what the guests of two streams consist of: their sections beside RAM, in any place, and their RAM blocks.
 *
 * @returns One `corrupt` error for each difference; empty if the guests are the same, however the streams are laid out.
 */
export function compareContents(expected: Manifest, found: Manifest): MigrationStreamError[] {
  const faults: MigrationStreamError[] = [];
  const have = new Map(sectionsBesideRam(found));
  for (const [place, want] of sectionsBesideRam(expected)) {
    const section = have.get(place);
    have.delete(place);
    if (section === undefined) {
      const reason = `the stream lacks a section of the manifest: "${want.name}" ${want.instanceId} (${want.kind})`;
      faults.push(new MigrationStreamError('corrupt', printable(reason), {}));
    } else if (section.xxh64 !== want.xxh64 || section.bytes !== want.bytes) {
      const reason = `XXH64 ${section.xxh64}; the manifest lists ${want.xxh64}`;
      faults.push(
        new MigrationStreamError('corrupt', printable(reason), {
          position: section.offset,
          section,
        }),
      );
    }
  }
  for (const section of have.values()) {
    const reason = 'the manifest does not list this section';
    faults.push(new MigrationStreamError('corrupt', reason, { position: section.offset, section }));
  }
  return [...faults, ...compareBlocks(expected, found)];
}

/** Return the sections that hold no pages, each with a text that is the same in another layout of the stream. */
function sectionsBesideRam({ sections }: Manifest): [string, SectionDigest][] {
  const counts = new Map<string, number>();
  return sections
    .filter(({ name }) => name !== RAM)
    .map((section) => {
      const { name, instanceId, kind } = section;
      const place = JSON.stringify([name, instanceId, kind]);
      const count = counts.get(place) ?? 0;
      counts.set(place, count + 1);
      return [`${place}${count}`, section];
    });
}

function compareBlocks(expected: Manifest, found: Manifest): MigrationStreamError[] {
  const reasons: string[] = [];
  const blocks = new Map(found.ram?.blocks.map((block) => [block.name, block]));
  for (const want of expected.ram?.blocks ?? []) {
    const have = blocks.get(want.name);
    if (have === undefined) reasons.push(`RAM block "${want.name}" is missing`);
    else if (have.xxh64 !== want.xxh64) {
      const digests = `XXH64 ${have.xxh64}; the manifest lists ${want.xxh64}`;
      reasons.push(`the contents of RAM block "${want.name}" differ: ${digests}`);
    }
  }
  return reasons.map((reason) => new MigrationStreamError('corrupt', printable(reason), {}));
}
