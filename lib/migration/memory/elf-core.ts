import { printable } from '../../util/format.ts';
import type { Architecture } from './guest-map.ts';

const FILE_HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;

/** Alignment of each segment in the file. */
const ALIGNMENT_BYTES = 4096;

const ET_CORE = 4;
const PT_LOAD = 1;
const PT_NOTE = 4;
const PF_RWX = 7;
const PF_R = 4;

/** @see the ELF specification, `e_machine` */
const MACHINES: Readonly<Record<Architecture, number>> = {
  x86_64: 62,
  aarch64: 183,
  riscv64: 243,
};

/** Owner and type of the note; debuggers that ignore the owner do not know the type either. */
const NOTE_OWNER = 'qemu-file';
const NOTE_TYPE = 0x5145_4d46;

/** Longest text of a note, in characters (ASCII). */
const MAX_NOTE_BYTES = 4096;

/** Part of guest-physical address space to store in a core file. */
export interface CoreRange {
  /** Guest-physical address of the first byte. */
  readonly address: number;
  readonly length: number;
}

/** Metadata of a core file. */
export interface CoreOptions {
  /** Null writes `EM_NONE`, which few debuggers accept. */
  readonly architecture: Architecture | null;
  /** Text for a person; `readelf --notes` prints it. Characters beyond ASCII are escaped, the end is cut. */
  readonly note: string;
}

/** Layout of a core file. */
export interface CoreLayout {
  /** First bytes of the file: file header, program headers and note. */
  readonly header: Buffer;
  /** Offset in the file for the contents of each range, in the order of the ranges. */
  readonly fileOffsets: readonly number[];
  /** Size of the whole file in bytes. */
  readonly length: number;
}

/**
 * Lay out an ELF core file of guest memory. It is a 64-bit, little-endian file, whatever the mode of the
 * guest, and its addresses are guest-physical.
 *
 * @param ranges - By ascending address, without overlap, as `guestMap` returns them.
 * @returns The header bytes and where the contents of each range belong.
 * @throws {RangeError} More than 65533 ranges.
 * @see QEMU's `dump-guest-memory` for the core that QEMU itself writes
 */
export function elfCore(ranges: readonly CoreRange[], options: CoreOptions): CoreLayout {
  const count = ranges.length + 1;
  if (count >= 0xffff)
    throw new RangeError(`an ELF core holds at most 65533 ranges, not ${ranges.length}`);
  const note = noteOf(options.note);
  const noteAt = FILE_HEADER_BYTES + count * PROGRAM_HEADER_BYTES;
  const header = Buffer.alloc(noteAt + note.length);
  writeFileHeader(header, options.architecture, count);
  writeProgramHeader(header, 0, {
    type: PT_NOTE,
    flags: PF_R,
    offset: noteAt,
    address: 0,
    length: note.length,
    alignment: 4,
  });
  note.copy(header, noteAt);

  const fileOffsets: number[] = [];
  let end = header.length;
  for (const [index, { address, length }] of ranges.entries()) {
    const offset = Math.ceil(end / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
    const part = {
      type: PT_LOAD,
      flags: PF_RWX,
      offset,
      address,
      length,
      alignment: ALIGNMENT_BYTES,
    };
    writeProgramHeader(header, index + 1, part);
    fileOffsets.push(offset);
    end = offset + length;
  }
  return { header, fileOffsets, length: end };
}

function writeFileHeader(bytes: Buffer, architecture: Architecture | null, count: number): void {
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // 64-bit, little-endian, version 1
  bytes.writeUInt16LE(ET_CORE, 16);
  bytes.writeUInt16LE(architecture === null ? 0 : MACHINES[architecture], 18);
  bytes.writeUInt32LE(1, 20);
  writeWord(bytes, FILE_HEADER_BYTES, 32); // offset of the program headers
  bytes.writeUInt16LE(FILE_HEADER_BYTES, 52);
  bytes.writeUInt16LE(PROGRAM_HEADER_BYTES, 54);
  bytes.writeUInt16LE(count, 56);
}

interface ProgramHeader {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly address: number;
  readonly length: number;
  readonly alignment: number;
}

function writeProgramHeader(bytes: Buffer, index: number, header: ProgramHeader): void {
  const at = FILE_HEADER_BYTES + index * PROGRAM_HEADER_BYTES;
  bytes.writeUInt32LE(header.type, at);
  bytes.writeUInt32LE(header.flags, at + 4);
  writeWord(bytes, header.offset, at + 8);
  writeWord(bytes, header.address, at + 16); // virtual: debuggers look memory up by it
  writeWord(bytes, header.address, at + 24); // physical
  writeWord(bytes, header.length, at + 32); // in the file
  writeWord(bytes, header.type === PT_NOTE ? 0 : header.length, at + 40); // in memory
  writeWord(bytes, header.alignment, at + 48);
}

function writeWord(bytes: Buffer, value: number, at: number): void {
  bytes.writeBigUInt64LE(BigInt(value), at);
}

function noteOf(text: string): Buffer {
  const owner = Buffer.from(`${NOTE_OWNER}\0`);
  const description = Buffer.from(`${printable(text).slice(0, MAX_NOTE_BYTES)}\0`);
  const note = Buffer.alloc(12 + padded(owner.length) + padded(description.length));
  note.writeUInt32LE(owner.length, 0);
  note.writeUInt32LE(description.length, 4);
  note.writeUInt32LE(NOTE_TYPE, 8);
  owner.copy(note, 12);
  description.copy(note, 12 + padded(owner.length));
  return note;
}

function padded(size: number): number {
  return Math.ceil(size / 4) * 4;
}
