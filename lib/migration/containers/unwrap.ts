import { QemuFileError } from '../../contract/errors.ts';
import { checkFile } from '../../qemu-file/check-file.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import { markWhole } from '../format/whole-source.ts';
import { decompressed, decompressorOf } from './decompress.ts';
import { findStream, STREAM_START } from './find-stream.ts';
import { bottomLayer, type Layer, moveTo, peekStart } from './layer.ts';
import { type LibvirtSave, readLibvirtSave } from './libvirt-save.ts';
import type { ReadAt } from './qcow2-clusters.ts';
import type { Qcow2Snapshot } from './qcow2-header.ts';
import {
  type Compression,
  type Container,
  describeContainer,
  isCompressed,
  sniffContainer,
} from './sniff.ts';

/** The containers that can be unwrapped. */
export type ContainerName = Compression | 'libvirt' | 'qcow2';

/** Options of `unwrap`. */
export interface UnwrapOptions {
  /**
   * Returns a function that opens a compressed file for reading, for formats that Node cannot decompress.
   * Closing the opened file must close the compressed one.
   */
  decompress?:
    | ((format: Compression) => (compressed: QemuFile) => QemuFile | Promise<QemuFile>)
    | undefined;
  /** Returns whether `decompress` decompresses a format, even one that Node can decompress. Default: it does not. */
  prefersDecompress?: ((format: Compression) => boolean) | undefined;
  /**
   * Reads at any offset of the file, for qcow2 images. Default: the file's `getBufferAt`, if its backend can
   * seek.
   */
  readAt?: ReadAt | undefined;
  /** Name or id of the snapshot in a qcow2 image. Default: the last one that has VM state. */
  snapshot?: string | undefined;
  /**
   * Offset in bytes at which the stream or its container begins: in the file or, if that is compressed, in the
   * decompressed data. A file that is at this offset already is not moved. Default: the file's next byte.
   */
  offset?: number | undefined;
}

/** A migration stream without its containers. */
export interface Unwrapped {
  /** A file whose next byte is the first one of the stream. Closing it closes the caller's file. */
  file: QemuFile;
  /** The outermost container; null without one. */
  container: ContainerName | null;
  /** All containers, the outermost first. */
  containers: readonly ContainerName[];
  /**
   * Offset of the stream's first byte in the file in which its mapped-ram offsets count: the caller's file, its
   * decompressed data, or the VM state of a snapshot.
   */
  fileOffset: number;
  /** Whether `setOffset` and `getBufferAt` of `file` reach the bytes at those offsets. */
  seekable: boolean;
  /** XML and cookie, if the stream comes from a save image of libvirt. */
  libvirt?: LibvirtSave;
  /** The snapshot, if the stream is its VM state. */
  snapshot?: Qcow2Snapshot;
}

const MAX_LAYERS = 3;

/**
 * Open the migration stream in a file: bare, compressed, in a save image of libvirt, in a snapshot of a qcow2
 * image, or in several of these. No byte of a bare stream is consumed.
 *
 * @param file - A file for reading. The returned file owns it; it is destroyed if this rejects.
 * @param options - How to decompress, and which stream to open.
 * @throws {MigrationStreamError} (rejects) `not-a-stream`, with what the file looks like; `unsupported`,
 *   `truncated` or `corrupt` for a container. Positions count in the container.
 * @throws {QemuFileError} (rejects) the error of the file or the decompressor; `EINVAL` if `snapshot` is given for
 *   a file that is not a qcow2 image, or if the file is past `offset` and cannot seek.
 */
export async function unwrap(file: QemuFile, options: UnwrapOptions = {}): Promise<Unwrapped> {
  checkFile('unwrap', 'file', file);
  return orDestroy(file, new Unwrapping(options), (unwrapping) => unwrapping.run(file));
}

/**
 * Open a file that may be compressed, whatever it contains: an additional channel of a migration, for example, may
 * begin with any bytes.
 *
 * @param file - As for `unwrap`.
 * @param options - `decompress`, as for `unwrap`.
 * @throws As `unwrap`.
 */
export async function unpack(
  file: QemuFile,
  options: Pick<UnwrapOptions, 'decompress'> = {},
): Promise<QemuFile> {
  checkFile('unpack', 'file', file);
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
  /** Whether the caller's file can seek; then reading it never blocks. */
  #isStored = false;
  #libvirt: LibvirtSave | undefined;
  #layer: Layer | undefined;

  constructor(options: UnwrapOptions) {
    this.#options = options;
  }

  /** The file that owns all others. */
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
      const reason = 'a snapshot was requested, but this is not a qcow2 image';
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
      const reason = `the stream is in more than ${MAX_LAYERS} containers`;
      throw new MigrationStreamError('unsupported', reason, { position });
    }
    const { decompress, prefersDecompress } = this.#options;
    const create = prefersDecompress?.(format) === true ? undefined : decompressorOf(format);
    let file: QemuFile;
    if (create !== undefined) {
      file = decompressed(packed, base, format, create);
    } else if (decompress !== undefined) {
      file = await decompress(format)(packed);
      // In case the caller's decompressor does not close it: a child process or a descriptor may depend on it.
      file.once('close', () => packed.destroy());
    } else {
      const reason = `${format}-compressed data, which this Node cannot read; decompress it first`;
      throw new MigrationStreamError('unsupported', reason, { position });
    }
    markWhole(file);
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
    const { readerOf, snapshotFile } = await import('./qcow2-file.ts');
    const { Qcow2Image } = await import('./qcow2-image.ts');
    const start = layer.base + layer.file.getPosition;
    const readAt =
      this.#containers.length > 0
        ? undefined
        : (this.#options.readAt ?? (await readerOf(layer.file)));
    if (readAt === undefined) {
      const reason =
        'a qcow2 image can be read only from a file that can seek, not from a pipe or a compressed file';
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
      const reason = `the VM state of the snapshot is not a migration stream: ${describe(container, bytes)}`;
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
    // A known container such as a dump may have any bytes in it, a stream's magic as well.
    const at = container === null ? await findStream(layer.file, this.#isStored) : -1;
    const where = position + at;
    const hint = `a stream seems to begin at byte ${where}: add ",offset=${where}"; `;
    const reason = `${within}${at > 0 ? hint : ''}not a migration stream: ${what}`;
    return new MigrationStreamError('not-a-stream', reason, { position });
  }
}

function describe(container: Container | null, bytes: Uint8Array): string {
  return bytes.length === 0 ? 'nothing' : describeContainer(container, bytes);
}
