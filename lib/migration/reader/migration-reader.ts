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
import { PostcopyOrder, readCommand } from './commands.ts';
import { readConfiguration } from './configuration.ts';
import { bufferDeviceTail } from './hold-device-tail.ts';
import { deviceEvent, SectionReader } from './section-reader.ts';
import { SideChannels } from './side-channels.ts';
import { readEnd } from './stream-end.ts';
import { StreamState } from './stream-state.ts';

/*
 *   header [configuration] item* end [description] [trailing]
 *   item = section (START, PART, END, FULL) | command | command and package of items
 *
 * One pass, front to back. What cannot be read without what comes later, the device sections, is held
 * (hold.ts); a package is read as a stream within the stream.
 */

const SWAPPED_MAGIC = 0x4d564551;

/** How a stream is read. */
export interface ReaderOptions {
  /** Gets the RAM pages. */
  pages?: PageVisitor | undefined;
  /** The VM description and where it is, if it was looked up already. */
  description?: { readonly description: VmDescription; readonly offset: number } | undefined;
  /** The other channels of the migration, recorded or live: multifd, in any order, and postcopy-preempt. */
  channels?: readonly StreamSource[] | undefined;
  /** Where in its file the stream begins; offsets in a mapped-ram file count from the file's start. Default 0. */
  fileOffset?: number | undefined;
  /** Whether the source can seek: then holes of mapped-ram files are skipped. Default false. */
  seekable?: boolean | undefined;
  /** Bytes of a target page, where it is known. */
  pageSize?: number | undefined;
  /**
   * Told of faults that the stream can be read in spite of, the first `LIMIT.DIAGNOSTICS` of them: the next one
   * is thrown. Without it the first one is.
   */
  onFault?: ((fault: MigrationStreamError) => void) | undefined;
}

/**
 * Reads a migration stream as it comes, in constant memory: gives what it consists of as events, and its
 * RAM pages to a visitor.
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
  /** Whether the source waits for an answer, and will not end by itself. */
  #isAnswered = false;
  /** Whether it was not waited for. */
  #goesOn = false;

  /**
   * @param source - A `QemuFile`, which stays the caller's, or chunks of bytes; its next byte is the stream's
   *   first.
   */
  constructor(source: StreamSource, options: ReaderOptions = {}) {
    this.#source = source;
    this.#options = options;
    this.#diagnostics = new Diagnostics(options.onFault);
    this.#state = new StreamState(options.pages ?? {}, this.#diagnostics);
  }

  /**
   * Reads the stream; to be called once.
   *
   * @throws {MigrationStreamError} (rejects) whatever is wrong with the stream. {QemuFileError} what is
   *   wrong with its transport.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<MigrationEvent, void> {
    const { file, close } = openSource(this.#source);
    const { channels = [], seekable, fileOffset = 0 } = this.#options;
    let failure: unknown = new Error('the reading was given up');
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

  /** Offset in the stream of the next byte that is to be read. */
  get position(): number {
    return this.#input?.position ?? 0;
  }

  /** What a stream's configuration said; null before, and for machine types without one. */
  get configuration(): Configuration | null {
    return this.#state.configuration;
  }

  /** What is known about RAM: blocks, page size, and how much of what came. */
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
      const hint = magic === SWAPPED_MAGIC ? ': its bytes are swapped in words of four' : '';
      const reason = `it begins with ${found}, a migration stream with 5145564d ("QEVM")${hint}`;
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

  /** Reads items up to the end mark, or the end of a package; gives the input to go on with. */
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
        const what = inPackage ? 'the package' : 'the stream';
        throw input.error('truncated', `${what} ends without its end mark`);
      }
      const type = input.file.peekByte(0);
      const kind = sectionKindOf(type);
      if (kind === 'full' && !inPackage && this.#mustHold()) {
        input = yield* this.#hold(input);
        continue;
      }
      input.u8();
      if (kind !== undefined) {
        yield* sections.read(input, kind, inPackage);
      } else if (type === ITEM.COMMAND) {
        const command = yield* this.#command(input, inPackage);
        if (command.name === 'POSTCOPY_LISTEN') listen();
        if (command.name === 'POSTCOPY_RUN' && inPackage) return input;
        if (command.name === 'PACKAGED')
          yield* this.#package(input, command.size, sections, listen);
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
      if (this.#isAnswered)
        this.#diagnostics.warn('the return path is opened a second time', offset);
      this.#isAnswered = true;
    } else if (command.name === 'POSTCOPY_ADVISE') {
      this.#state.advisedPageSizes = command.pageSizes ?? null;
      const { targetPageSize } = command;
      if (targetPageSize !== undefined) await this.#advise(targetPageSize, input, offset);
    } else if (command.name === 'POSTCOPY_LISTEN') {
      this.#state.isPostcopy = true;
      this.ram.nextRound();
      this.ram.hasRounds = false;
    } else if (command.name === 'PACKAGED') {
      if (inPackage) throw input.error('corrupt', 'a package in a package', offset);
    } else if (command.name === 'UNKNOWN') {
      this.#diagnostics.warn(`command ${item.number} is not known; it was skipped`, offset);
    }
    return command;
  }

  async #advise(pageSize: number, input: StreamInput, offset: number): Promise<void> {
    const { ram } = this;
    if (!ram.pageSizeKnown) return ram.setPageSize(pageSize, offset);
    if (ram.pageSize === pageSize) return;
    const reason = `POSTCOPY_ADVISE gives a target page size of ${pageSize}, the stream has pages of ${ram.pageSize}`;
    throw input.error('corrupt', reason, offset);
  }

  async *#package(
    outer: StreamInput,
    size: number,
    sections: SectionReader,
    listen: () => void,
  ): AsyncGenerator<MigrationEvent, void> {
    const input = new PackageInput(outer, size);
    const begun = outer.position;
    try {
      yield* this.#items(input, sections, listen, true);
    } catch (error) {
      if (!(error instanceof MigrationStreamError) || error.fault !== 'truncated') throw error;
      if (await input.isCut()) {
        const there = input.position - begun;
        const reason = `the stream ends inside a package: ${there} of ${size} bytes`;
        throw outer.error('truncated', reason);
      }
      const { position, section, reason } = error;
      const clause = `an item goes beyond the ${size} bytes of its package (${reason})`;
      throw new MigrationStreamError('corrupt', clause, { position, section });
    }
    if (input.left > 0) {
      const reason = `${input.left} bytes of a package are left over behind its end`;
      throw input.error('corrupt', reason);
    }
    yield { type: 'packageEnd', offset: outer.position };
  }

  /** Whether a device section is at hand that only a description which comes later can tell the end of. */
  #mustHold(): boolean {
    const { isSearched, isPostcopy, devices, sections, configuration } = this.#state;
    if (isSearched || isPostcopy || devices.isDescribed) return false;
    // Before all RAM has come there is too much to hold.
    if (sections.isOpen) return false;
    return sections.hasIterables || configuration === null;
  }

  async *#hold(input: StreamInput): AsyncGenerator<MigrationEvent, StreamInput> {
    const state = this.#state;
    const held = await bufferDeviceTail(input, state.footers !== false, this.#isAnswered);
    state.isSearched = true;
    this.#goesOn = held.isOpen;
    if (held.description !== null) {
      for (const device of await state.describe(held.description, held.descriptionAt)) {
        yield deviceEvent(device);
      }
    }
    return held.input;
  }
}

/** The error of a byte where an item should begin. */
function notAnItem(
  input: StreamInput,
  type: number,
  previous: Section | null,
): MigrationStreamError {
  const at = input.position - 1;
  const before = previous === null ? '' : `, after section ${quoteSection(previous)}`;
  const reason = `byte 0x${type.toString(16)} begins no item${before}`;
  if (type === ITEM.SUBSECTION || type === ITEM.FOOTER) {
    return input.error('corrupt', `${reason}: the body of that was taken for too short`, at);
  }
  if (type === STREAM_MAGIC >>> 24) {
    return input.error('corrupt', `${reason}: does a second stream begin here?`, at);
  }
  return input.error('corrupt', reason, at);
}
