import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { MigrationStreamError, type StreamFault } from '../format/stream-error.ts';
import { StreamInput } from '../format/stream-input.ts';
import type { Compression } from './sniff.ts';

/** How libvirt has stored the stream in a save image; `sparse` is a stream with the capability mapped-ram. */
export type LibvirtFormat = 'raw' | Compression | 'sparse';

/** The header of a save image of libvirt. */
export interface LibvirtHeader {
  readonly byteOrder: 'little' | 'big';
  readonly version: number;
  /** Bytes of XML, cookie and padding between the header and the stream. */
  readonly dataLength: number;
  /** Offset of the cookie in those bytes; 0 without one. */
  readonly cookieOffset: number;
  /** Whether the guest was running, and will run again after it is restored. */
  readonly wasRunning: boolean;
  readonly format: LibvirtFormat;
}

/** Parts of a save image of libvirt beside the stream. */
export interface LibvirtSave {
  /** The definition of the domain, as XML. */
  readonly xml: string;
  /** The cookie in which libvirt keeps private state, as XML; null without one. */
  readonly cookie: string | null;
  readonly wasRunning: boolean;
  readonly format: LibvirtFormat;
}

/** Bytes of the header. */
export const LIBVIRT_HEADER_BYTES = 92;

const COMPLETE_MAGIC = 'LibvirtQemudSave';
const PARTIAL_MAGIC = 'LibvirtQemudPart';
const NEWEST_VERSION = 2;
/** Most bytes of XML, cookie and padding. */
const MAX_DATA_BYTES = 67_108_864;

/** By number. libvirt never uses a number again. */
const FORMATS: readonly LibvirtFormat[] = ['raw', 'gzip', 'bzip2', 'xz', 'lzop', 'zstd', 'sparse'];

const UTF8 = new TextDecoder('utf-8');

/**
 * Parse the header. Its integers are in the byte order of the host that wrote it.
 *
 * @param bytes - At least `LIBVIRT_HEADER_BYTES`.
 * @param position - Offset of the header in the file, for errors.
 * @throws {MigrationStreamError} `truncated` for a save that was not finished, `unsupported` for an unknown
 *   version or format, `corrupt` for impossible lengths and offsets.
 */
export function parseLibvirtHeader(bytes: Uint8Array, position = 0): LibvirtHeader {
  const fault = (kind: StreamFault, reason: string, at: number): MigrationStreamError =>
    new MigrationStreamError(kind, reason, { position: position + at });
  const magic = Buffer.from(bytes.subarray(0, 16)).toString('latin1');
  if (magic === PARTIAL_MAGIC) {
    const reason = `the libvirt save image is incomplete (it begins with ${PARTIAL_MAGIC}): the save was interrupted`;
    throw fault('truncated', reason, 0);
  }
  if (magic !== COMPLETE_MAGIC) throw fault('corrupt', 'not a libvirt save image', 0);
  const view = new DataView(bytes.buffer, bytes.byteOffset, LIBVIRT_HEADER_BYTES);
  // In the wrong byte order, a version is a large number.
  const isLittle = view.getUint32(16, true) <= NEWEST_VERSION;
  const u32 = (at: number): number => view.getUint32(at, isLittle);
  const version = u32(16);
  if (version < 1 || version > NEWEST_VERSION) {
    throw fault('unsupported', `libvirt save image of version ${version}, not 1 or 2`, 16);
  }
  const dataLength = u32(20);
  if (dataLength === 0) throw fault('corrupt', 'the libvirt save image has no domain XML', 20);
  if (dataLength > MAX_DATA_BYTES) {
    const reason = `the libvirt save image has ${dataLength} bytes of domain XML, at most ${MAX_DATA_BYTES}`;
    throw fault('corrupt', reason, 20);
  }
  const cookieOffset = u32(32);
  if (cookieOffset > dataLength) {
    const reason = `the cookie of the libvirt save image is at ${cookieOffset} of ${dataLength} bytes`;
    throw fault('corrupt', reason, 32);
  }
  // Version 1 lacks the field.
  const number = version === 1 ? 0 : u32(28);
  const format = FORMATS[number];
  if (format === undefined) {
    const reason = `libvirt save image of format ${number}, not 0 to ${FORMATS.length - 1}`;
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
 * Read everything before the stream. The file's next byte is then the first one of the stream, which may be
 * compressed.
 *
 * @param file - Its next byte is the first one of the image.
 * @param base - Offset of the file's byte 0, for errors.
 * @throws {MigrationStreamError} (rejects) as `parseLibvirtHeader`; `truncated` where the file ends.
 */
export async function readLibvirtSave(file: QemuFile, base = 0): Promise<LibvirtSave> {
  const input = new StreamInput(file, base);
  const start = input.position;
  const header = await input.bytes(LIBVIRT_HEADER_BYTES, 'the header of the libvirt save image');
  const { dataLength, cookieOffset, wasRunning, format } = parseLibvirtHeader(header, start);
  const data = await input.bytes(dataLength, 'the domain XML of the libvirt save image');
  const xml = textOf(data.subarray(0, cookieOffset === 0 ? dataLength : cookieOffset));
  const cookie = cookieOffset === 0 ? '' : textOf(data.subarray(cookieOffset));
  return { xml, cookie: cookie === '' ? null : cookie, wasRunning, format };
}

/** Return the text up to its NUL. */
function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return UTF8.decode(end < 0 ? bytes : bytes.subarray(0, end));
}
