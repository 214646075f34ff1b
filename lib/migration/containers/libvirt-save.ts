import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { MigrationStreamError, type StreamFault } from '../format/stream-error.ts';
import { StreamInput } from '../format/stream-input.ts';
import type { Compression } from './sniff.ts';

/** How the stream in an image of libvirt's is stored; `sparse` is a stream with the capability mapped-ram. */
export type LibvirtFormat = 'raw' | Compression | 'sparse';

/** The header of an image of libvirt's. */
export interface LibvirtHeader {
  readonly byteOrder: 'little' | 'big';
  readonly version: number;
  /** Bytes of text and padding between the header and the stream. */
  readonly dataLength: number;
  /** Offset of the cookie in these; 0 if there is none. */
  readonly cookieOffset: number;
  /** Whether the guest is to run after it was restored. */
  readonly wasRunning: boolean;
  readonly format: LibvirtFormat;
}

/** What an image of libvirt's says besides the stream. */
export interface LibvirtSave {
  /** The domain's definition. */
  readonly xml: string;
  /** What libvirt keeps with it, as XML; null if there is nothing. */
  readonly cookie: string | null;
  readonly wasRunning: boolean;
  readonly format: LibvirtFormat;
}

/** Bytes of the header. */
export const LIBVIRT_HEADER_SIZE = 92;

const COMPLETE = 'LibvirtQemudSave';
const PARTIAL = 'LibvirtQemudPart';
const NEWEST_VERSION = 2;
const MAX_DATA = 67_108_864;

/** By number, which libvirt never uses again. */
const FORMATS: readonly LibvirtFormat[] = ['raw', 'gzip', 'bzip2', 'xz', 'lzop', 'zstd', 'sparse'];

const UTF8 = new TextDecoder('utf-8');

/**
 * Takes the header apart. Its integers are in the byte order of the host that wrote it.
 *
 * @param bytes - At least `LIBVIRT_HEADER_SIZE`.
 * @param position - Offset of the first in the file, for errors.
 * @throws {MigrationStreamError} `truncated` for an image that was never completed, `unsupported` for a
 *   version or format that is not known, `corrupt` for what cannot be.
 */
export function parseLibvirtHeader(bytes: Uint8Array, position = 0): LibvirtHeader {
  const fault = (kind: StreamFault, reason: string, at: number): MigrationStreamError =>
    new MigrationStreamError(kind, reason, { position: position + at });
  const magic = Buffer.from(bytes.subarray(0, 16)).toString('latin1');
  if (magic === PARTIAL) {
    const reason = `the libvirt save image was never completed (it begins with ${PARTIAL}): saving the guest was interrupted`;
    throw fault('truncated', reason, 0);
  }
  if (magic !== COMPLETE) throw fault('corrupt', 'this is no libvirt save image', 0);
  const view = new DataView(bytes.buffer, bytes.byteOffset, LIBVIRT_HEADER_SIZE);
  // A version in the wrong byte order is a large number.
  const isLittle = view.getUint32(16, true) <= NEWEST_VERSION;
  const u32 = (at: number): number => view.getUint32(at, isLittle);
  const version = u32(16);
  if (version < 1 || version > NEWEST_VERSION) {
    throw fault('unsupported', `a libvirt save image of version ${version}; known are 1 and 2`, 16);
  }
  const dataLength = u32(20);
  if (dataLength === 0) throw fault('corrupt', 'the libvirt save image has no domain XML', 20);
  if (dataLength > MAX_DATA) {
    const reason = `the libvirt save image has ${dataLength} bytes of domain XML; at most ${MAX_DATA} can be`;
    throw fault('corrupt', reason, 20);
  }
  const cookieOffset = u32(32);
  if (cookieOffset > dataLength) {
    const reason = `the cookie of the libvirt save image is at ${cookieOffset} of ${dataLength} bytes`;
    throw fault('corrupt', reason, 32);
  }
  // Version 1 has no such field.
  const number = version === 1 ? 0 : u32(28);
  const format = FORMATS[number];
  if (format === undefined) {
    const reason = `a libvirt save image of format ${number}; known are 0 to ${FORMATS.length - 1}`;
    throw fault('unsupported', reason, 28);
  }
  return {
    byteOrder: isLittle ? 'little' : 'big',
    version,
    dataLength,
    cookieOffset,
    wasRunning: u32(24) !== 0,
    format,
  };
}

/**
 * Reads all that stands before the stream; the file's next byte is then the first one of the stream,
 * compressed or not.
 *
 * @param file - Its next byte is the first one of the image.
 * @param base - Offset of its byte 0, for errors.
 * @throws {MigrationStreamError} (rejects) as `parseLibvirtHeader`, and `truncated` where the file ends.
 */
export async function readLibvirtSave(file: QemuFile, base = 0): Promise<LibvirtSave> {
  const input = new StreamInput(file, base);
  const start = input.position;
  const header = await input.bytes(LIBVIRT_HEADER_SIZE, 'the header of the libvirt save image');
  const { dataLength, cookieOffset, wasRunning, format } = parseLibvirtHeader(header, start);
  const data = await input.bytes(dataLength, 'the domain XML of the libvirt save image');
  const xml = textOf(data.subarray(0, cookieOffset === 0 ? dataLength : cookieOffset));
  const cookie = cookieOffset === 0 ? '' : textOf(data.subarray(cookieOffset));
  return { xml, cookie: cookie === '' ? null : cookie, wasRunning, format };
}

/** Text up to its NUL. */
function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return UTF8.decode(end < 0 ? bytes : bytes.subarray(0, end));
}
