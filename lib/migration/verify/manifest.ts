import { printable } from '../../util/format.ts';
import type { SectionKind } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';

/** Digests of one section. */
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

/** Digest of what a RAM block holds when the stream has been loaded. */
export interface BlockDigest {
  name: string;
  usedLength: number;
  xxh64: string;
}

/** What a stream is made of, in digests: for finding out later whether it is still that. */
export interface Manifest {
  format: 'qemu-file-manifest';
  version: 1;
  machine: string | null;
  /** Bytes of the whole stream, with what follows it. */
  bytes: number;
  /** XXH64 of all of these. */
  xxh64: string;
  sections: SectionDigest[];
  ram: { pageSize: number; blocks: BlockDigest[] } | null;
}

const XXH64 = /^[0-9a-f]{16}$/;
const KINDS: ReadonlySet<unknown> = new Set<SectionKind>(['start', 'part', 'end', 'full']);

/**
 * Reads a manifest.
 *
 * @param text - JSON.
 * @throws SyntaxError for what is no JSON, TypeError for what is no manifest.
 */
export function parseManifest(text: string): Manifest {
  const value = JSON.parse(text) as Partial<Manifest> | null;
  const wrong = (what: string): never => {
    throw new TypeError(`it is no manifest of qemu-file: ${what}`);
  };
  if (typeof value !== 'object' || value === null) return wrong('not an object');
  if (value.format !== 'qemu-file-manifest') wrong('"format" is not "qemu-file-manifest"');
  if (value.version !== 1) wrong(`"version" is ${String(value.version)}, and only 1 is known`);
  if (!Number.isSafeInteger(value.bytes)) wrong('"bytes" is no number of bytes');
  if (!XXH64.test(String(value.xxh64))) wrong('"xxh64" is no digest');
  if (!Array.isArray(value.sections)) wrong('"sections" is no list');
  for (const section of value.sections as Partial<SectionDigest>[]) {
    const fits =
      typeof section?.name === 'string' &&
      KINDS.has(section.kind) &&
      Number.isSafeInteger(section.offset) &&
      Number.isSafeInteger(section.bytes) &&
      XXH64.test(String(section.xxh64));
    if (!fits) wrong('an entry of "sections" is none');
  }
  if (value.ram !== null) {
    const blocks = value.ram?.blocks;
    if (!Array.isArray(blocks)) return wrong('"ram" has no list of blocks');
    for (const block of blocks as Partial<BlockDigest>[]) {
      const fits = typeof block?.name === 'string' && XXH64.test(String(block.xxh64));
      if (!fits) wrong('an entry of "ram.blocks" is none');
    }
  }
  return value as Manifest;
}

/**
 * Says in which ways a stream is not what a manifest says, the most telling first: sections in the order
 * of the stream, then RAM blocks, then the whole.
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
      fault(`it has ${less} sections, by its manifest ${more}`, have?.offset ?? found.bytes, have);
      break;
    }
    const same = want.name === have.name && want.kind === have.kind && want.bytes === have.bytes;
    if (!same || want.offset !== have.offset) {
      const said = `"${want.name}" (${want.kind}, ${want.bytes} bytes at ${want.offset})`;
      fault(`section ${index + 1} is, by the manifest, ${said}`, have.offset, have);
      break;
    }
    if (want.xxh64 !== have.xxh64) {
      fault(`its XXH64 is ${have.xxh64}, by the manifest ${want.xxh64}`, have.offset, have);
    }
  }
  const blocks = new Map(found.ram?.blocks.map((block) => [block.name, block]));
  for (const want of expected.ram?.blocks ?? []) {
    const have = blocks.get(want.name);
    if (have === undefined) fault(`RAM block "${want.name}" is missing`);
    else if (have.xxh64 !== want.xxh64) {
      const digests = `XXH64 ${have.xxh64}, by the manifest ${want.xxh64}`;
      fault(`RAM block "${want.name}" ends up with other contents: ${digests}`);
    }
  }
  if (expected.bytes !== found.bytes) {
    const reason = `it has ${found.bytes} bytes, by its manifest ${expected.bytes}`;
    fault(reason, Math.min(expected.bytes, found.bytes));
  }
  if (expected.xxh64 !== found.xxh64) {
    fault(`the XXH64 of the whole is ${found.xxh64}, by the manifest ${expected.xxh64}`);
  }
  return faults;
}
