import { QemuFileError } from '../../contract/errors.ts';
import { checkFile } from '../../qemu-file/check-file.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { quote } from '../../util/format.ts';
import type { FoundDescription } from '../devices/find-vm-description.ts';
import type { Command, DeviceSection, MigrationEvent, RamBlock } from '../format/events.ts';
import { endsAs } from '../format/whole-source.ts';
import { ITEM } from '../format/wire.ts';
import { MigrationReader } from '../reader/migration-reader.ts';
import { encodeCommand } from '../writer/encode-command.ts';
import { counted } from '../writer/encode-integers.ts';
import { RawCopy } from './raw-copy.ts';
import { checkRenaming } from './rename-blocks.ts';

/*
 * The stream is read while it is copied: bytes go to the output by reference, as the reader passes them. Parts
 * that may be replaced are held back until their event: a list of blocks, a device section, a command, the VM
 * description. RAM records go through at once, and only names of blocks in them are replaced.
 */

/** Changes of device sections. */
export interface DeviceEdits {
  /**
   * Called with each device section.
   *
   * @returns A body of the same length to write instead; null to copy it as it is.
   * @throws Any error, which ends the copy.
   */
  edit(device: DeviceSection): Uint8Array | null;
  /**
   * Called at the end mark, before it is written.
   *
   * @throws Any error, which ends the copy.
   */
  finish(): void;
}

/** Changes that `copyStream` makes. */
export interface CopyOptions {
  /** New names of RAM blocks, by their old names. */
  renameBlocks?: ReadonlyMap<string, string> | undefined;
  /** Leave out the VM description. */
  dropDescription?: boolean | undefined;
  /** Changes device sections. */
  devices?: DeviceEdits | undefined;
  /** Bytes that may be the VM description, if it was looked up at the end of the file; as for `MigrationReader`. */
  description?: FoundDescription | undefined;
  /** Offset in its file of the stream's first byte; as for `MigrationReader`. Default 0. */
  fileOffset?: number | undefined;
}

/** Result of `copyStream`. */
export interface CopyResult {
  /** Bytes of the stream that were read, without what follows it. */
  readonly bytes: number;
  /** Bytes that follow the stream, which were not copied. */
  readonly trailingBytes: number;
  /** Conditions that do not stop the reader. */
  readonly warnings: readonly string[];
}

/**
 * Copy a stream, byte for byte except for the changes in the options. Bytes after the stream are not copied.
 *
 * @param from - Its next byte is the stream's first. It is read to its end, and stays open.
 * @param to - Receives the stream; it is flushed, not closed.
 * @throws {MigrationStreamError} (rejects) as `MigrationReader`: a stream with a fault is not copied to its end;
 *   `unsupported` for names in a mapped-ram stream.
 * @throws {QemuFileError} (rejects) `EINVAL` for a block that the stream lacks, or a new body of another length; the
 *   errors of the files.
 */
export async function copyStream(
  from: QemuFile,
  to: QemuFile,
  options: CopyOptions = {},
): Promise<CopyResult> {
  checkFile('copyStream', 'from', from);
  checkFile('copyStream', 'to', to);
  return new StreamCopy(from, to, options).run();
}

const COMMAND_HEADER_BYTES = 5;

class StreamCopy {
  readonly #to: QemuFile;
  readonly #options: CopyOptions;
  readonly #names: ReadonlyMap<string, string>;
  readonly #copy: RawCopy;
  readonly #reader: MigrationReader;
  readonly #warnings: string[] = [];
  /** Whether the reader is in a part that is copied as it comes. */
  #isFlowing = false;
  /** Offset up to which the stream is decided while nothing flows. */
  #boundary = 0;
  #end: number | null = null;
  #bytes = 0;
  #trailingBytes = 0;

  constructor(from: QemuFile, to: QemuFile, options: CopyOptions) {
    const { renameBlocks = new Map<string, string>(), description, fileOffset } = options;
    this.#to = to;
    this.#options = options;
    this.#names = renameBlocks;
    this.#copy = new RawCopy(from, to);
    const named = (block: RamBlock, position: number): void => this.#rename(block, position);
    const chunks = this.#copy.chunks(() => this.#limit());
    endsAs(chunks, from);
    const pages = renameBlocks.size > 0 ? { named } : {};
    this.#reader = new MigrationReader(chunks, { description, fileOffset, pages });
  }

  async run(): Promise<CopyResult> {
    for await (const event of this.#reader) this.#follow(event);
    this.#copy.copyTo(this.#boundary);
    await this.#to.flush();
    return {
      bytes: this.#bytes,
      trailingBytes: this.#trailingBytes,
      warnings: this.#warnings,
    };
  }

  /** Return the offset up to which the stream is decided. */
  #limit(): number {
    if (this.#end !== null) {
      const next = this.#copy.byteAt(this.#end);
      if (next !== undefined && next !== ITEM.VM_DESCRIPTION) this.#discardRest();
    }
    return this.#isFlowing ? this.#reader.position : this.#boundary;
  }

  #follow(event: MigrationEvent): void {
    switch (event.type) {
      case 'header':
        this.#boundary = this.#reader.position;
        break;
      case 'configuration':
        this.#boundary = event.offset + event.bytes;
        break;
      case 'section': {
        const { kind, name } = event.section;
        const isList = name === 'ram' && kind === 'start' && this.#names.size > 0;
        const isEdited = kind === 'full' && this.#options.devices !== undefined;
        this.#boundary = event.offset;
        this.#isFlowing = !isList && !isEdited;
        break;
      }
      case 'ramBlocks':
        if (this.#names.size > 0) this.#renameList(event.offset, event.blocks);
        this.#isFlowing = true;
        break;
      case 'device':
        this.#edit(event);
        break;
      case 'sectionEnd':
        this.#isFlowing = false;
        this.#boundary = event.offset;
        break;
      case 'command':
        this.#renameIn(event.command, event.offset, event.offset + event.bytes);
        this.#boundary = event.offset + event.bytes;
        break;
      case 'end':
        this.#options.devices?.finish();
        this.#end = event.offset + 1;
        this.#bytes = this.#end;
        this.#boundary = this.#end;
        break;
      case 'vmDescription':
        this.#end = null;
        this.#bytes = event.offset + event.bytes;
        if (this.#options.dropDescription !== true) this.#boundary = this.#bytes;
        this.#copy.copyTo(this.#boundary);
        this.#discardRest();
        break;
      case 'trailing':
        this.#trailingBytes = event.bytes;
        break;
      case 'warning':
        this.#warnings.push(`${event.message}, at byte ${event.offset}`);
        break;
      case 'packageEnd':
        break;
    }
  }

  #discardRest(): void {
    this.#copy.copyTo(this.#boundary);
    this.#end = null;
    this.#copy.discard();
  }

  #rename({ name }: RamBlock, position: number): void {
    const renamed = this.#names.get(name);
    if (renamed === undefined) return;
    this.#copy.replace(position, position + 1 + Buffer.byteLength(name), counted(renamed));
  }

  /** Replace names in the list of blocks, which the reader has just passed. */
  #renameList(offset: number, blocks: readonly RamBlock[]): void {
    if (this.#reader.configuration?.capabilities.includes('mapped-ram') === true) {
      const reason =
        'RAM blocks of a mapped-ram stream cannot be renamed as it passes: give a file, not a pipe';
      throw new QemuFileError('ENOTSUP', reason, { operation: 'copyStream', position: offset });
    }
    checkRenaming(
      blocks.map(({ name }) => name),
      this.#names,
    );
    let at = offset + 8;
    for (const block of blocks) {
      this.#rename(block, at);
      at += 1 + Buffer.byteLength(block.name) + 8;
      if (block.hostPageSize !== null) at += 8;
      if (block.address !== null) at += 8;
    }
  }

  #renameIn(command: Command, offset: number, end: number): void {
    if (command.name !== 'POSTCOPY_RAM_DISCARD' && command.name !== 'RECV_BITMAP') return;
    const block = this.#names.get(command.block);
    if (block === undefined) return;
    const { payload } = encodeCommand({ ...command, block });
    const head = this.#copy.take(offset, offset + COMMAND_HEADER_BYTES);
    head.writeUInt16BE(payload.length, 3);
    this.#copy.replace(offset, end, Buffer.concat([head, payload]));
  }

  #edit(device: DeviceSection): void {
    const body = this.#options.devices?.edit(device) ?? null;
    if (body === null) return;
    const { section, bodyOffset } = device;
    const context = { operation: 'copyStream', position: bodyOffset };
    if (bodyOffset < this.#copy.done) {
      const reason = `section ${quote(section.name)} came before the VM description was known: read the stream from a file`;
      throw new QemuFileError('ENOTSUP', reason, context);
    }
    if (body.length !== device.body.length) {
      const reason = `a body of ${body.length} bytes for ${device.body.length} of section ${quote(section.name)}`;
      throw new QemuFileError('EINVAL', reason, context);
    }
    this.#copy.replace(bodyOffset, bodyOffset + body.length, body);
  }
}
