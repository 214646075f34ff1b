import type { KnownDescription } from '../devices/find-vm-description.ts';
import { Diagnostics } from '../format/diagnostics.ts';
import type { Command, Configuration, MigrationEvent, PageVisitor } from '../format/events.ts';
import { PackageInput } from '../format/package-input.ts';
import { sectionKindOf } from '../format/section-headers.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import { StreamInput } from '../format/stream-input.ts';
import { openSource, type StreamSource } from '../format/stream-source.ts';
import { isWhole } from '../format/whole-source.ts';
import { ITEM } from '../format/wire.ts';
import { pageSizeOfMachine } from '../ram/machine-page-sizes.ts';
import { RamSections } from '../ram/ram-sections.ts';
import type { RamTable } from '../ram/ram-table.ts';
import { bufferDeviceTail } from './buffer-device-tail.ts';
import { PostcopyOrder, readCommand } from './commands.ts';
import { readConfiguration } from './configuration.ts';
import { deviceEvent, SectionReader } from './section-reader.ts';
import { SideChannels } from './side-channels.ts';
import { readEnd } from './stream-end.ts';
import { notAnItem, readHeader } from './stream-start.ts';
import { StreamState } from './stream-state.ts';

/*
 *   header [configuration] item* end [description] [trailing]
 *   item = section (START, PART, END, FULL) | command | command PACKAGED and a package of items
 *
 * The reader passes over the stream once, front to back. Device sections, which need the VM description
 * after them, are buffered first (buffer-device-tail.ts). A package is read as a stream within the stream.
 */

/** Options of a `MigrationReader`. */
export interface ReaderOptions {
  /** Receives the RAM pages. */
  pages?: PageVisitor | undefined;
  /**
   * Bytes that may be the VM description, with its offset in the stream, if it was looked up at the end of the file.
   * Used if the device sections fit it: a volume may contain the rest of an older stream after this one.
   */
  description?: KnownDescription | undefined;
  /** The additional channels of the migration, recorded or live: multifd channels in any order, postcopy-preempt. */
  channels?: readonly StreamSource[] | undefined;
  /** Offset in its file of the stream's first byte; offsets in a mapped-ram file count from the file's start. Default 0. */
  fileOffset?: number | undefined;
  /** Whether the source can seek: holes of mapped-ram files are then seeked over. Default false. */
  seekable?: boolean | undefined;
  /** Bytes of a target page, if known. Default: what the stream says, or the machine type's. */
  pageSize?: number | undefined;
  /**
   * Called with each fault after which the stream can still be read, up to `LIMIT.DIAGNOSTICS` of them; the next
   * one is thrown. Without this option, the first fault is thrown.
   */
  onFault?: ((fault: MigrationStreamError) => void) | undefined;
}

/**
 * Reads a migration stream as it arrives, in constant memory. Yields its parts as events and passes its RAM
 * pages to a visitor.
 *
 * @example
 * ```js
 * const reader = new MigrationReader(createReadStream('vm.mig'), {
 *   pages: { page: (block, offset, bytes) => {}, zero: (block, offset, count) => {} },
 * });
 * for await (const event of reader) {
 *   if (event.type === 'device') console.log(event.section.name, event.state);
 * }
 * ```
 */
export class MigrationReader implements AsyncIterable<MigrationEvent> {
  readonly #source: StreamSource;
  readonly #options: ReaderOptions;
  readonly #diagnostics: Diagnostics;
  readonly #state: StreamState;
  readonly #postcopy = new PostcopyOrder();
  #input: StreamInput | null = null;
  /** Whether the source asked for a return path: if it is a QEMU, it waits for an answer and does not end by itself. */
  #hasReturnPath = false;
  /** Whether the source may send more, which must not be waited for. */
  #goesOn = false;
  #devicesAt: number | null = null;

  /**
   * @param source - A `QemuFile`, which stays open, or chunks of bytes. Its next byte is the stream's first.
   */
  constructor(source: StreamSource, options: ReaderOptions = {}) {
    this.#source = source;
    this.#options = options;
    this.#diagnostics = new Diagnostics(options.onFault);
    this.#state = new StreamState(options.pages ?? {}, this.#diagnostics);
  }

  /**
   * Read the stream. Can be called once.
   *
   * @throws {MigrationStreamError} (rejects) the faults of the stream: `EBADMSG`, `ENODATA`, `ENOTSUP` and
   *   `EPROTO`. {QemuFileError} the errors of its transport.
   * @see QEMU `qemu_loadvm_state` in migration/savevm.c
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<MigrationEvent, void> {
    const { file, close } = openSource(this.#source);
    const { channels = [], seekable, fileOffset = 0 } = this.#options;
    let failure: unknown = new Error('the caller stopped reading');
    let side: SideChannels | undefined;
    try {
      side = await SideChannels.open(channels, (error) => file.setError(error));
      const origin = seekable === true ? fileOffset : undefined;
      const input = new StreamInput(file, -file.getPosition, origin);
      yield* this.#read(input, side, new RamSections(this.#state.ram, side.multifd));
      await side.finish(this.#postcopy.state !== 'none', this.configuration?.uuid ?? null);
      yield* this.#diagnostics.takeWarnings();
    } catch (error) {
      failure = error;
      throw error;
    } finally {
      await side?.close(failure as Error);
      await close();
    }
  }

  /**
   * Offset in the stream of device sections that cannot be read, because their ends are unknown, although
   * all of RAM was read; null if there are none.
   */
  get unreadableDevicesAt(): number | null {
    return this.#devicesAt;
  }

  /** Offset in the stream of the next byte. */
  get position(): number {
    return this.#input?.position ?? 0;
  }

  /** The stream's configuration section; null until it was read, and for machine types without one. */
  get configuration(): Configuration | null {
    return this.#state.configuration;
  }

  /** The guest's RAM so far: blocks, page size, numbers of pages. */
  get ram(): RamTable {
    return this.#state.ram;
  }

  async *#read(
    start: StreamInput,
    side: SideChannels,
    ram: RamSections,
  ): AsyncGenerator<MigrationEvent, void> {
    this.#input = start;
    yield await readHeader(start);
    await start.need(1, 'the first item');
    if (start.file.peekByte(0) === ITEM.CONFIGURATION) yield await this.#configure(start);
    await this.#decidePageSize();
    const sections = new SectionReader(this.#state, ram, this.#options.fileOffset ?? 0);
    const listen = (): void => side.listen(ram);
    const input = yield* this.#items(start, sections, listen, false);
    this.#input = input;
    yield* readEnd(input, this.#state, sections, this.#goesOn);
  }

  async #configure(input: StreamInput): Promise<MigrationEvent> {
    const offset = input.position;
    input.u8();
    const configuration = await readConfiguration(input);
    this.#state.configuration = configuration;
    return { type: 'configuration', offset, bytes: input.position - offset, configuration };
  }

  async #decidePageSize(): Promise<void> {
    const { pageSize, description } = this.#options;
    const configured = this.configuration?.targetPageBits ?? null;
    const size =
      pageSize ??
      (configured === null ? undefined : 2 ** configured) ??
      pageSizeOfMachine(this.configuration?.machine ?? '') ??
      description?.description.page_size;
    if (size !== undefined) await this.#state.ram.blockTable.setPageSize(size, 0);
  }

  /** Read items up to the end mark, or the end of a package; return the input to read on with. */
  async *#items(
    start: StreamInput,
    sections: SectionReader,
    listen: () => void,
    inPackage: boolean,
  ): AsyncGenerator<MigrationEvent, StreamInput> {
    let input = start;
    for (;;) {
      this.#input = input;
      input.section = undefined;
      if (await input.atEnd()) {
        const what = inPackage ? 'the postcopy package' : 'the stream';
        throw input.error('truncated', `${what} ends without its end mark`);
      }
      const type = input.file.peekByte(0);
      const kind = sectionKindOf(type);
      if (kind === 'full' && !inPackage && this.#mustBuffer()) {
        input = yield* this.#bufferTail(input);
        continue;
      }
      if (kind === 'full' && this.#lacksDeviceEnds()) {
        await this.#skipDevices(input);
        return input;
      }
      input.u8();
      if (kind !== undefined) {
        yield* sections.read(input, kind, inPackage);
      } else if (type === ITEM.COMMAND) {
        const command = yield* this.#command(input, inPackage);
        if (command.name === 'POSTCOPY_LISTEN') listen();
        if (command.name === 'POSTCOPY_RUN' && inPackage) return input;
        if (command.name === 'PACKAGED') {
          yield* this.#package(input, command.size, sections, listen);
        }
      } else if (type === ITEM.EOF) {
        yield { type: 'end', offset: input.position - 1 };
        return input;
      } else {
        throw notAnItem(input, type, sections.previous);
      }
      yield* this.#diagnostics.takeWarnings();
    }
  }

  async *#command(input: StreamInput, inPackage: boolean): AsyncGenerator<MigrationEvent, Command> {
    const item = await readCommand(input, this.ram.blocks.length > 0 ? this.ram : null);
    const { command, offset } = item;
    yield { type: 'command', ...item };
    this.#postcopy.follow(item, input);
    if (command.name === 'OPEN_RETURN_PATH') {
      if (this.#hasReturnPath)
        this.#diagnostics.warn('OPEN_RETURN_PATH came a second time', offset);
      this.#hasReturnPath = true;
    } else if (command.name === 'POSTCOPY_ADVISE') {
      this.#state.advisedPageSizes = command.pageSizes ?? null;
      const { targetPageSize } = command;
      if (targetPageSize !== undefined) await this.#advise(targetPageSize, input, offset);
    } else if (command.name === 'POSTCOPY_LISTEN') {
      this.#state.isPostcopy = true;
      this.#state.ram.roundCounter.stop();
    } else if (command.name === 'PACKAGED') {
      if (inPackage) throw input.error('corrupt', 'PACKAGED inside a postcopy package', offset);
    } else if (command.name === 'UNKNOWN') {
      this.#diagnostics.warn(`unknown command ${item.number} was skipped`, offset);
    }
    return command;
  }

  async #advise(pageSize: number, input: StreamInput, offset: number): Promise<void> {
    const { blockTable } = this.#state.ram;
    if (!blockTable.isPageSizeKnown) return blockTable.setPageSize(pageSize, offset);
    if (blockTable.pageSize === pageSize) return;
    const reason = `POSTCOPY_ADVISE has a target page size of ${pageSize}, but the stream has pages of ${blockTable.pageSize} bytes`;
    throw input.error('corrupt', reason, offset);
  }

  async *#package(
    outer: StreamInput,
    size: number,
    sections: SectionReader,
    listen: () => void,
  ): AsyncGenerator<MigrationEvent, void> {
    const input = new PackageInput(outer, size);
    const start = outer.position;
    try {
      yield* this.#items(input, sections, listen, true);
    } catch (error) {
      if (!(error instanceof MigrationStreamError) || error.fault !== 'truncated') throw error;
      if (await input.isCut()) {
        const available = input.position - start;
        const reason = `the stream ends inside a postcopy package: ${available} of ${size} bytes`;
        throw outer.error('truncated', reason);
      }
      const { position, section, reason } = error;
      const clause = `an item exceeds the ${size} bytes of its postcopy package (${reason})`;
      throw new MigrationStreamError('corrupt', clause, { position, section });
    }
    if (input.left > 0) {
      const reason = `${input.left} bytes are left over after the end of a postcopy package`;
      throw input.error('corrupt', reason);
    }
    yield { type: 'packageEnd', offset: outer.position };
  }

  /** Return whether the next device section needs a VM description that comes later in the stream. */
  #mustBuffer(): boolean {
    const { isSearched, isPostcopy, devices, sections, configuration } = this.#state;
    if (isSearched || isPostcopy || devices.isDescribed) return false;
    // Before the end of all live sections there is too much to buffer.
    if (sections.isOpen) return false;
    return sections.hasIterables || configuration === null;
  }

  /** Return whether the ends of the device sections after RAM are unknown: no VM description, no footers. */
  #lacksDeviceEnds(): boolean {
    const { isSearched, footers, devices, ram } = this.#state;
    return isSearched && footers === false && !devices.isDescribed && ram.blocks.length > 0;
  }

  /** Report that the device sections cannot be read, and skip the rest of the stream. */
  async #skipDevices(input: StreamInput): Promise<void> {
    this.#devicesAt = input.position;
    const reason =
      'the device sections cannot be read: a stream of a machine type before 2.4 has no section footers, and ' +
      'this one has no VM description either, as is the default of pc-*-2.0 to 2.2; all of RAM was read';
    this.#diagnostics.report(input.error('unsupported', reason));
    while (!(await input.atEnd())) await input.skip(input.available, 'the device sections');
  }

  async *#bufferTail(input: StreamInput): AsyncGenerator<MigrationEvent, StreamInput> {
    const state = this.#state;
    const known = this.#options.description;
    const staysOpen = this.#hasReturnPath && !isWhole(this.#source);
    const tail = await bufferDeviceTail(input, state.footers, staysOpen, known);
    state.isSearched = true;
    this.#goesOn = tail.isOpen;
    state.footers ??= tail.hasFooters;
    // After more device sections than are buffered, there is only the description at the end of the file.
    const found = tail.found ?? (tail.isPartial ? known : undefined) ?? null;
    if (found !== null) {
      for (const device of await state.describe(found)) yield deviceEvent(device);
    }
    return tail.input;
  }
}
