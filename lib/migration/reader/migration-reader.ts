import { hex } from '../../util/format.ts';
import type { VmDescription } from '../format/device-types.ts';
import { Diagnostics } from '../format/diagnostics.ts';
import type {
  Command,
  Configuration,
  MigrationEvent,
  PageVisitor,
  Section,
} from '../format/events.ts';
import { PackageInput } from '../format/package-input.ts';
import { sectionKindOf } from '../format/section-headers.ts';
import { MigrationStreamError, quoteSection } from '../format/stream-error.ts';
import { StreamInput } from '../format/stream-input.ts';
import { openSource, type StreamSource } from '../format/stream-source.ts';
import { ITEM, STREAM_MAGIC, STREAM_VERSION } from '../format/wire.ts';
import { pageSizeOfMachine } from '../ram/page-size.ts';
import { RamSections } from '../ram/ram-sections.ts';
import type { RamTable } from '../ram/ram-table.ts';
import { bufferDeviceTail } from './buffer-device-tail.ts';
import { PostcopyOrder, readCommand } from './commands.ts';
import { readConfiguration } from './configuration.ts';
import { deviceEvent, SectionReader } from './section-reader.ts';
import { SideChannels } from './side-channels.ts';
import { readEnd } from './stream-end.ts';
import { StreamState } from './stream-state.ts';

/*
 *   header [configuration] item* end [description] [trailing]
 *   item = section (START, PART, END, FULL) | command | command PACKAGED and a package of items
 *
 * The reader passes over the stream once, front to back. Device sections, which need the VM description
 * after them, are buffered first (buffer-device-tail.ts). A package is read as a stream within the stream.
 */

const SWAPPED_MAGIC = 0x4d564551;

/** Options of a `MigrationReader`. */
export interface ReaderOptions {
  /** Receives the RAM pages. */
  pages?: PageVisitor | undefined;
  /** The VM description and its offset in the stream, if it was looked up already. */
  description?: { readonly description: VmDescription; readonly offset: number } | undefined;
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
  /** Whether the source waits for an answer on the return path, and will not end by itself. */
  #hasReturnPath = false;
  /** Whether the source may send more, which must not be waited for. */
  #goesOn = false;

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
      yield* this.#read(input, side, new RamSections(this.ram, side.multifd));
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
    yield await this.#header(start);
    await start.need(1, 'the first item');
    if (start.file.peekByte(0) === ITEM.CONFIGURATION) yield await this.#configure(start);
    await this.#decidePageSize();
    const known = this.#options.description;
    if (known !== undefined) await this.#state.describe(known.description, known.offset);
    const sections = new SectionReader(this.#state, ram, this.#options.fileOffset ?? 0);
    const listen = (): void => side.listen(ram);
    const input = yield* this.#items(start, sections, listen, false);
    this.#input = input;
    yield* readEnd(input, this.#state, sections, this.#goesOn);
  }

  async #header(input: StreamInput): Promise<MigrationEvent> {
    const offset = input.position;
    await input.need(8, 'the header');
    const magic = input.be32();
    if (magic !== STREAM_MAGIC) {
      const found = magic.toString(16).padStart(8, '0');
      const hint = magic === SWAPPED_MAGIC ? '; its bytes are swapped in words of four' : '';
      const reason = `it begins with ${found}, not with 5145564d ("QEVM") as a migration stream does${hint}`;
      throw input.error('not-a-stream', reason, offset);
    }
    const version = input.be32();
    if (version !== STREAM_VERSION) {
      throw input.error('unsupported', `stream version ${version}, not 3`, offset + 4);
    }
    return { type: 'header', offset, version };
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
      description?.description.page_size ??
      pageSizeOfMachine(this.configuration?.machine ?? '');
    if (size !== null) await this.ram.setPageSize(size, 0);
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
      this.ram.nextRound();
      this.ram.hasRounds = false;
    } else if (command.name === 'PACKAGED') {
      if (inPackage) throw input.error('corrupt', 'PACKAGED inside a postcopy package', offset);
    } else if (command.name === 'UNKNOWN') {
      this.#diagnostics.warn(`unknown command ${item.number} was skipped`, offset);
    }
    return command;
  }

  async #advise(pageSize: number, input: StreamInput, offset: number): Promise<void> {
    const { ram } = this;
    if (!ram.pageSizeKnown) return ram.setPageSize(pageSize, offset);
    if (ram.pageSize === pageSize) return;
    const reason = `POSTCOPY_ADVISE has a target page size of ${pageSize}, but the stream has pages of ${ram.pageSize} bytes`;
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

  async *#bufferTail(input: StreamInput): AsyncGenerator<MigrationEvent, StreamInput> {
    const state = this.#state;
    const tail = await bufferDeviceTail(input, state.footers !== false, this.#hasReturnPath);
    state.isSearched = true;
    this.#goesOn = tail.isOpen;
    if (tail.description !== null) {
      for (const device of await state.describe(tail.description, tail.descriptionAt)) {
        yield deviceEvent(device);
      }
    }
    return tail.input;
  }
}

/** Return the error of a byte that does not begin an item. */
function notAnItem(
  input: StreamInput,
  type: number,
  previous: Section | null,
): MigrationStreamError {
  const at = input.position - 1;
  const after = previous === null ? '' : ` after section ${quoteSection(previous)}`;
  const reason = `byte ${hex(type, 2)}${after} does not begin an item`;
  if (type === ITEM.SUBSECTION || type === ITEM.FOOTER) {
    return input.error(
      'corrupt',
      `${reason}: the previous section's body was probably read too short`,
      at,
    );
  }
  if (type === STREAM_MAGIC >>> 24) {
    return input.error('corrupt', `${reason}: a second stream may begin here`, at);
  }
  return input.error('corrupt', reason, at);
}
