import { QemuFileError } from '../../contract/errors.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import { StreamInput } from '../format/stream-input.ts';
import { decompressed, decompressorOf } from './decompress.ts';
import { type LibvirtSave, readLibvirtSave } from './libvirt-save.ts';
import { readerOf, snapshotFile } from './qcow2-file.ts';
import { Qcow2Image, type Qcow2Snapshot, type ReadAt } from './qcow2-image.ts';
import {
  type Compression,
  type Container,
  describeContainer,
  isCompressed,
  SNIFF_SIZE,
  sniffContainer,
} from './sniff.ts';

/** What a stream can be wrapped in. */
export type ContainerName = Compression | 'libvirt' | 'qcow2';

/** How `unwrap` works. */
export interface UnwrapOptions {
  /**
   * Makes a file of what another one holds compressed, for formats that Node.js cannot read itself; closing
   * its file is to close the compressed one.
   */
  decompress?:
    | ((format: Compression) => (compressed: QemuFile) => QemuFile | Promise<QemuFile>)
    | undefined;
  /**
   * Reads at any offset of the file, for qcow2 images. Default: the file's own `getBufferAt`, if its
   * backend can seek.
   */
  readAt?: ReadAt | undefined;
  /** Name or id of the snapshot in a qcow2 image. Default: the last one that has VM state. */
  snapshot?: string | undefined;
  /**
   * Offset at which the stream, or what wraps it, begins: in the file or, if that is compressed, in what it
   * holds. A file that was opened there already is not moved. Default: the file's next byte.
   */
  offset?: number | undefined;
}

/** A migration stream taken out of whatever it was wrapped in. */
export interface Unwrapped {
  /** Its next byte is the first one of the stream. Closing it closes the file that was given. */
  file: QemuFile;
  /** The outermost wrapping; null if there is none. */
  container: ContainerName | null;
  /** All wrappings, the outermost first. */
  containers: readonly ContainerName[];
  /**
   * Offset of the stream's first byte in the file that its mapped-ram offsets count in: what was given, what
   * that holds compressed, or the VM state of a snapshot.
   */
  fileOffset: number;
  /** Whether `setOffset` and `getBufferAt` of `file` reach the bytes at those offsets. */
  seekable: boolean;
  /** What libvirt saved with it. */
  libvirt?: LibvirtSave;
  /** The snapshot whose VM state it is. */
  snapshot?: Qcow2Snapshot;
}

/** A file on the way in, and the offset of its byte 0 in the file that offsets count in. */
interface Layer {
  file: QemuFile;
  base: number;
  seekable: boolean;
}

const MAX_LAYERS = 3;
const STREAM_START: Buffer = Buffer.from('QEVM\0\0\0\x03', 'latin1');
/** How far a stream is looked for where there should be one. */
const SEARCHED = 1_048_576;
const PEEK = 32_768;

/**
 * Finds the migration stream in a file: a bare one, one in an image of libvirt's, in a snapshot of a qcow2
 * image, or compressed, also one in the other. Of a bare stream nothing is consumed.
 *
 * @param file - A file for reading; the returned one's from then on, and destroyed if this rejects.
 * @param options - How to unpack, and which stream is wanted.
 * @throws {MigrationStreamError} (rejects) `not-a-stream`, with what it looks like; `unsupported` what cannot
 *   be unpacked here; `truncated` and `corrupt` containers. Positions count in the container.
 * @throws {QemuFileError} (rejects) what the file or the decompressor fails with; `EINVAL` for a snapshot of
 *   what has none, or an offset that the file is past.
 */
export function unwrap(file: QemuFile, options: UnwrapOptions = {}): Promise<Unwrapped> {
  return orDestroy(file, new Unwrapping(options), (unwrapping) => unwrapping.run(file));
}

/**
 * Decompresses a file that may be compressed, whatever is in it: a further channel of a migration, which
 * begins with nothing that could be told.
 *
 * @param file - As for `unwrap`.
 * @param options - `decompress`.
 * @throws As `unwrap`.
 */
export function unpack(
  file: QemuFile,
  options: Pick<UnwrapOptions, 'decompress'> = {},
): Promise<QemuFile> {
  return orDestroy(file, new Unwrapping(options), (unwrapping) => unwrapping.unpack(file));
}

async function orDestroy<T>(
  file: QemuFile,
  unwrapping: Unwrapping,
  work: (unwrapping: Unwrapping) => Promise<T>,
): Promise<T> {
  try {
    return await work(unwrapping);
  } catch (error) {
    (unwrapping.innermost ?? file).destroy(error as Error);
    throw error;
  }
}

class Unwrapping {
  readonly #options: UnwrapOptions;
  readonly #containers: ContainerName[] = [];
  /** Whether the file that was given can seek: then it does not keep anybody waiting. */
  #isStored = false;
  #libvirt: LibvirtSave | undefined;
  #layer: Layer | undefined;

  constructor(options: UnwrapOptions) {
    this.#options = options;
  }

  /** The file that closes all others. */
  get innermost(): QemuFile | undefined {
    return this.#layer?.file;
  }

  async run(file: QemuFile): Promise<Unwrapped> {
    let layer = await bottomLayer(file);
    this.#layer = layer;
    this.#isStored = layer.seekable;
    let { offset } = this.#options;
    for (;;) {
      const bytes = await peekStart(layer.file);
      const container = sniffContainer(bytes);
      if (container !== null && isCompressed(container)) {
        layer = await this.#decompress(layer, container.kind);
        this.#layer = layer;
      } else if (offset !== undefined) {
        await moveTo(layer, offset);
        offset = undefined;
      } else if (container?.kind === 'libvirt') {
        await this.#enterLibvirt(layer);
      } else if (container?.kind === 'qcow2') {
        return this.#openSnapshot(layer);
      } else if (container?.kind === 'qevm') {
        return this.#found(layer);
      } else {
        throw await this.#noStream(layer, container, bytes);
      }
    }
  }

  async unpack(file: QemuFile): Promise<QemuFile> {
    let layer = await bottomLayer(file);
    this.#layer = layer;
    for (;;) {
      const container = sniffContainer(await peekStart(layer.file));
      if (container === null || !isCompressed(container)) return layer.file;
      layer = await this.#decompress(layer, container.kind);
      this.#layer = layer;
    }
  }

  #found({ file, base, seekable }: Layer): Unwrapped {
    if (this.#options.snapshot !== undefined) {
      const reason = 'a snapshot is asked for, but this is no qcow2 image';
      throw new QemuFileError('EINVAL', reason, { operation: 'unwrap' });
    }
    return {
      file,
      container: this.#containers[0] ?? null,
      containers: this.#containers,
      fileOffset: base + file.getPosition,
      seekable,
      ...(this.#libvirt && { libvirt: this.#libvirt }),
    };
  }

  async #decompress(layer: Layer, format: Compression): Promise<Layer> {
    const { file: packed, base } = layer;
    const position = base + packed.getPosition;
    if (this.#containers.length >= MAX_LAYERS) {
      const reason = `the stream is wrapped more than ${MAX_LAYERS} times`;
      throw new MigrationStreamError('unsupported', reason, { position });
    }
    const create = decompressorOf(format);
    let file: QemuFile;
    if (create !== undefined) {
      file = decompressed(packed, base, format, create);
    } else if (this.#options.decompress !== undefined) {
      file = await this.#options.decompress(format)(packed);
      // Whoever made it should have it close the other; a child process or a descriptor may depend on it.
      file.once('close', () => packed.destroy());
    } else {
      const reason = `compressed with ${format}, which cannot be read here: decompress it first`;
      throw new MigrationStreamError('unsupported', reason, { position });
    }
    this.#containers.push(format);
    return { file, base: 0, seekable: false };
  }

  async #enterLibvirt(layer: Layer): Promise<void> {
    this.#libvirt = await readLibvirtSave(layer.file, layer.base);
    this.#containers.push('libvirt');
    const { format } = this.#libvirt;
    const expected = format === 'raw' || format === 'sparse' ? 'qevm' : format;
    const bytes = await peekStart(layer.file);
    const container = sniffContainer(bytes);
    if (container?.kind === expected) return;
    const reason = `the libvirt save image says its stream is ${format}, but holds ${describe(container, bytes)}`;
    throw new MigrationStreamError(bytes.length === 0 ? 'truncated' : 'corrupt', reason, {
      position: layer.base + layer.file.getPosition,
    });
  }

  async #openSnapshot(layer: Layer): Promise<Unwrapped> {
    const start = layer.base + layer.file.getPosition;
    const readAt =
      this.#containers.length > 0
        ? undefined
        : (this.#options.readAt ?? (await readerOf(layer.file)));
    if (readAt === undefined) {
      const reason =
        'a qcow2 image can be read only from a file that can seek: not from a pipe, nor compressed';
      throw new MigrationStreamError('unsupported', reason, { position: start });
    }
    const image = await Qcow2Image.open(
      start === 0 ? readAt : (target, offset) => readAt(target, start + offset),
    );
    const snapshot = image.choose(this.#options.snapshot);
    const file = snapshotFile(await image.vmState(snapshot), layer.file);
    this.#layer = { file, base: 0, seekable: true };
    const bytes = await peekStart(file);
    const container = sniffContainer(bytes);
    if (container?.kind !== 'qevm') {
      const reason = `the VM state of the snapshot is no migration stream, but ${describe(container, bytes)}`;
      throw new MigrationStreamError('corrupt', reason, { position: 0 });
    }
    return {
      file,
      container: 'qcow2',
      containers: ['qcow2'],
      fileOffset: 0,
      seekable: true,
      snapshot,
    };
  }

  async #noStream(
    layer: Layer,
    container: Container | null,
    bytes: Uint8Array,
  ): Promise<MigrationStreamError> {
    const position = layer.base + layer.file.getPosition;
    const within = this.#containers.map((name) => `in ${name}: `).join('');
    if (bytes.length < 4 && STREAM_START.subarray(0, bytes.length).equals(bytes)) {
      const size = bytes.length === 0 ? 'empty' : `too short for a stream (${bytes.length} bytes)`;
      return new MigrationStreamError('truncated', `${within}the file is ${size}`, { position });
    }
    const what = describe(container, bytes);
    // Dumps have all of the guest's memory in them, and there may be anything in that.
    const at = container === null ? await findStream(layer.file, this.#isStored) : -1;
    const where = position + at;
    const hint = `a stream seems to begin at byte ${where}, give the offset: ,offset=${where}; `;
    const reason = `${within}${at > 0 ? hint : ''}this is no migration stream, but ${what}`;
    return new MigrationStreamError('not-a-stream', reason, { position });
  }
}

/** The file as it was given. */
async function bottomLayer(file: QemuFile): Promise<Layer> {
  try {
    // The transport's own offset lies behind what was looked ahead.
    const next = (await file.getOffset()) - file.lookedAhead;
    return { file, base: next - file.getPosition, seekable: true };
  } catch (error) {
    if ((error as QemuFileError).code !== 'ESPIPE') throw error;
    return { file, base: 0, seekable: false };
  }
}

/** The first bytes, not consumed; fewer at the end. A stream is not made to wait for more than it needs. */
async function peekStart(file: QemuFile): Promise<Uint8Array> {
  await file.fillOrEnd(4);
  if (sniffContainer(file.peekBuffer(4))?.kind !== 'qevm') await file.fillOrEnd(SNIFF_SIZE);
  return file.peekBuffer(SNIFF_SIZE);
}

async function moveTo(layer: Layer, offset: number): Promise<void> {
  const { file } = layer;
  const position = layer.base + file.getPosition;
  if (offset === position) return;
  if (!(Number.isSafeInteger(offset) && offset >= 0)) {
    throw new RangeError(`unwrap: ${offset} is not an offset in bytes`);
  }
  if (layer.seekable) {
    await file.setOffset(offset);
    layer.base = offset - file.getPosition;
  } else if (offset < position) {
    const reason = `the file is past offset ${offset}, and cannot seek`;
    throw new QemuFileError('EINVAL', reason, { operation: 'unwrap', position });
  } else {
    await new StreamInput(file, layer.base).skip(offset - position, 'what precedes the offset');
  }
}

/**
 * Looks for the start of a stream, and consumes what it has seen; -1 if there is none.
 *
 * @param waits - Whether to wait for bytes that are not there yet.
 */
async function findStream(file: QemuFile, waits: boolean): Promise<number> {
  for (let passed = 0; passed < SEARCHED; ) {
    // Whatever is wrong further on, it is not what is to be reported.
    if (waits) await file.fillOrEnd(STREAM_START.length).catch(() => 0);
    if (file.destroyed) return -1;
    const view = file.peekBuffer(Math.min(file.lookedAhead, PEEK));
    const at = Buffer.from(view.buffer, view.byteOffset, view.length).indexOf(STREAM_START);
    if (at >= 0) return passed + at;
    // The start of it may be at the end of what is there.
    const step = view.length - STREAM_START.length + 1;
    if (step <= 0) return -1;
    file.skip(step);
    passed += step;
  }
  return -1;
}

function describe(container: Container | null, bytes: Uint8Array): string {
  return bytes.length === 0 ? 'nothing' : describeContainer(container, bytes);
}
