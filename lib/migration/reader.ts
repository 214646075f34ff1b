import { PostcopyOrder, readCommand } from './commands.ts';
import { readConfiguration } from './configuration.ts';
import { DeviceSections } from './device-sections.ts';
import type {
  Command,
  Configuration,
  DeviceSection,
  MigrationEvent,
  PageVisitor,
  Section,
  SectionKind,
} from './events.ts';
import { ForeignSections } from './foreign-section.ts';
import { type Held, holdRest } from './hold.ts';
import { StreamInput } from './input.ts';
import { PackageInput } from './package-input.ts';
import { pageSizeOfMachine } from './page-size.ts';
import { RamSections } from './ram-section.ts';
import { RamTable } from './ram-table.ts';
import { Sections, sectionKindOf } from './section-header.ts';
import { SideChannels } from './side-channels.ts';
import { inputOf, type StreamSource } from './source.ts';
import { MigrationStreamError, quoteSection } from './stream-error.ts';
import { parseVmDescription, type VmDescription } from './vm-description.ts';
import { ITEM, LIMIT, STREAM_MAGIC, STREAM_VERSION } from './wire.ts';

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
   * Told of faults that the stream can be read in spite of, the first `LIMIT.REMARKS` of them: the next one
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
  readonly #report: (fault: MigrationStreamError) => void;
  readonly #warnings: MigrationEvent[] = [];
  #remarks = 0;
  readonly #sections = new Sections();
  readonly #devices: DeviceSections;
  readonly #foreign = new ForeignSections((message, offset) => this.#warn(message, offset));
  readonly #postcopy = new PostcopyOrder();
  /** What is known about RAM: blocks, page size, and how much of what came. */
  readonly ram: RamTable;

  #input: StreamInput | null = null;
  #ram: RamSections | null = null;
  #side: SideChannels | null = null;
  #configuration: Configuration | null = null;
  #footers: boolean | null = null;
  #answered = false;
  #advisedPageSizes: bigint | null = null;
  #descriptionAt: number | null = null;
  #held: Held | null = null;
  #previous: Section | null = null;
  #isPostcopy = false;
  #saidScan = false;

  /**
   * @param source - A `QemuFile`, which stays the caller's, or chunks of bytes; its next byte is the stream's
   *   first.
   */
  constructor(source: StreamSource, options: ReaderOptions = {}) {
    this.#source = source;
    this.#options = options;
    const { onFault } = options;
    let faults = 0;
    this.#report = (fault) => {
      if (onFault === undefined || ++faults > LIMIT.REMARKS) throw fault;
      onFault(fault);
    };
    const warn = (message: string, offset: number): void => this.#warn(message, offset);
    this.#devices = new DeviceSections(this.#sections, this.#report, warn);
    this.ram = new RamTable(options.pages ?? {}, this.#report, warn);
  }

  /**
   * Reads the stream; to be called once.
   *
   * @throws {MigrationStreamError} (rejects) whatever is wrong with the stream. {QemuFileError} what is
   *   wrong with its transport.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<MigrationEvent, void> {
    const { file, close } = inputOf(this.#source);
    let failure: unknown = new Error('the reading was given up');
    try {
      const { channels = [] } = this.#options;
      this.#side = await SideChannels.open(channels, (error) => file.setError(error));
      this.#ram = new RamSections(this.ram, this.#side.multifd);
      const { seekable, fileOffset = 0 } = this.#options;
      const origin = seekable === true ? fileOffset : undefined;
      this.#input = new StreamInput(file, -file.getPosition, origin);
      yield* this.#read(this.#input);
      await this.#side.finish(this.#postcopy.state !== 'none', this.#configuration?.uuid ?? null);
      yield* this.#takeWarnings();
    } catch (error) {
      failure = error;
      throw error;
    } finally {
      await this.#side?.close(failure as Error);
      await close();
    }
  }

  /** Offset in the stream of the next byte that is to be read. */
  get position(): number {
    return this.#input?.position ?? 0;
  }

  /** What a stream's configuration said; null before, and for machine types without one. */
  get configuration(): Configuration | null {
    return this.#configuration;
  }

  async *#read(start: StreamInput): AsyncGenerator<MigrationEvent, void> {
    yield await this.#header(start);
    await start.need(1, 'the first item');
    if (start.file.peekByte(0) === ITEM.CONFIGURATION) yield await this.#configure(start);
    await this.#decidePageSize();
    const known = this.#options.description;
    if (known !== undefined) await this.#describe(known.description, known.offset);
    const input = yield* this.#items(start, false);
    yield* this.#afterEnd(input);
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
    this.#configuration = configuration;
    return { type: 'configuration', offset, bytes: input.position - offset, configuration };
  }

  async #decidePageSize(): Promise<void> {
    const { pageSize, description } = this.#options;
    const configured = this.#configuration?.targetPageBits ?? null;
    const size =
      pageSize ??
      (configured === null ? undefined : 2 ** configured) ??
      description?.description.page_size ??
      pageSizeOfMachine(this.#configuration?.machine ?? '');
    if (size !== null) await this.ram.setPageSize(size, 0);
  }

  /** Reads items up to the end mark, or the end of a package; gives the input to go on with. */
  async *#items(
    start: StreamInput,
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
        yield* this.#section(input, kind, inPackage);
      } else if (type === ITEM.COMMAND) {
        const command = yield* this.#command(input, inPackage);
        if (command.name === 'POSTCOPY_RUN' && inPackage) return input;
      } else if (type === ITEM.EOF) {
        yield { type: 'end', offset: input.position - 1 };
        return input;
      } else {
        throw this.#notAnItem(input, type);
      }
      yield* this.#takeWarnings();
    }
  }

  #notAnItem(input: StreamInput, type: number): MigrationStreamError {
    const at = input.position - 1;
    const previous = this.#previous;
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

  async *#section(
    input: StreamInput,
    kind: SectionKind,
    inPackage: boolean,
  ): AsyncGenerator<MigrationEvent, void> {
    const section = await this.#sections.read(input, kind);
    this.#previous = section;
    input.section = section;
    yield { type: 'section', offset: section.offset, section };
    if (section.name === 'ram' && kind !== 'full') {
      const { capabilities = [] } = this.#configuration ?? {};
      yield* (this.#ram as RamSections).read(input, section, {
        advisedPageSizes: this.#advisedPageSizes,
        ignoreShared: capabilities.includes('x-ignore-shared'),
        isMapped: capabilities.includes('mapped-ram'),
        fileOffset: this.#options.fileOffset ?? 0,
      });
    } else if (!(await this.#skipForeign(input, section))) {
      if (kind !== 'full') {
        const reason = `what comes in pieces as ${quoteSection(section)} is not known, and cannot be skipped`;
        throw input.error('unsupported', reason, section.offset);
      }
      const footers = this.#footers ?? this.#configuration !== null;
      const keep = !inPackage && this.#held === null;
      const device = await this.#devices.read(input, section, footers, keep);
      if (device !== null) yield deviceEvent(device);
      yield* this.#sayScan(section.offset);
    }
    const footer = await this.#footer(input, section);
    section.bytes = input.position - section.offset;
    yield { type: 'sectionEnd', offset: input.position, section, footer };
  }

  async #skipForeign(input: StreamInput, section: Section): Promise<boolean> {
    const { name, kind, versionId } = section;
    // Where it is described, its length is known for certain.
    if (kind === 'full' && this.#devices.isExpected(section)) return false;
    return (await this.#foreign.skip(name, kind, versionId, input)) !== null;
  }

  *#sayScan(offset: number): Generator<MigrationEvent, void> {
    if (!this.#devices.hasScanned || this.#saidScan) return;
    this.#saidScan = true;
    const message =
      'there is no VM description: the ends of device sections were found by looking for footers, ' +
      'and their state is not decoded';
    yield { type: 'warning', offset, message };
  }

  /** Reads a section's footer; gives its offset, null in a stream without them. */
  async #footer(input: StreamInput, section: Section): Promise<number | null> {
    const at = input.position;
    await input.need(1, 'a footer');
    const isFooter = input.file.peekByte(0) === ITEM.FOOTER;
    this.#footers ??= isFooter;
    if (!this.#footers && !isFooter) return null;
    if (this.#footers !== isFooter) {
      const wrong = isFooter ? 'a footer, where others have none' : 'no footer behind its body';
      throw input.error('corrupt', `${wrong}: bytes are missing, or were taken for others`, at);
    }
    await input.need(5, 'a footer');
    input.u8();
    const sectionId = input.be32();
    if (sectionId !== section.sectionId) {
      const reason = `a footer of section ${sectionId}, not ${section.sectionId}`;
      this.#report(input.error('corrupt', reason, at + 1));
    }
    return at;
  }

  async *#command(input: StreamInput, inPackage: boolean): AsyncGenerator<MigrationEvent, Command> {
    const item = await readCommand(input, this.ram.blocks.length > 0 ? this.ram : null);
    const { command, offset } = item;
    yield { type: 'command', ...item };
    this.#postcopy.follow(item, input);
    if (command.name === 'OPEN_RETURN_PATH') {
      if (this.#answered) this.#warn('the return path is opened a second time', offset);
      this.#answered = true;
    } else if (command.name === 'POSTCOPY_ADVISE') {
      this.#advisedPageSizes = command.pageSizes ?? null;
      const { targetPageSize } = command;
      if (targetPageSize !== undefined) await this.#advise(targetPageSize, input, offset);
    } else if (command.name === 'POSTCOPY_LISTEN') {
      this.#isPostcopy = true;
      this.ram.nextRound();
      this.ram.hasRounds = false;
      this.#side?.listen(this.#ram as RamSections);
    } else if (command.name === 'PACKAGED') {
      if (inPackage) throw input.error('corrupt', 'a package in a package', offset);
      yield* this.#package(input, command.size);
    } else if (command.name === 'UNKNOWN') {
      this.#warn(`command ${item.number} is not known; it was skipped`, offset);
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

  async *#package(outer: StreamInput, size: number): AsyncGenerator<MigrationEvent, void> {
    const input = new PackageInput(outer, size);
    const begun = outer.position;
    try {
      yield* this.#items(input, true);
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
    if (this.#held !== null || this.#isPostcopy || this.#devices.isDescribed) return false;
    // Before all RAM has come there is too much to hold.
    if (this.#sections.isOpen) return false;
    return this.#sections.hasIterables || this.#configuration === null;
  }

  async *#hold(input: StreamInput): AsyncGenerator<MigrationEvent, StreamInput> {
    const held = await holdRest(input, this.#footers !== false, this.#answered);
    this.#held = held;
    if (held.description !== null) {
      for (const device of await this.#describe(held.description, held.descriptionAt)) {
        yield deviceEvent(device);
      }
    }
    return held.input;
  }

  async #describe(
    description: VmDescription,
    offset: number | null,
  ): Promise<Iterable<DeviceSection>> {
    this.#descriptionAt = offset;
    if (!this.ram.pageSizeKnown) await this.ram.setPageSize(description.page_size, offset ?? 0);
    return this.#devices.describe(description);
  }

  /** What comes behind the end mark. */
  async *#afterEnd(input: StreamInput): AsyncGenerator<MigrationEvent, void> {
    this.#input = input;
    input.section = undefined;
    const end = input.position;
    if (this.#sections.isOpen) {
      throw input.error('corrupt', 'an end mark before the end of all sections', end - 1);
    }
    const described = this.#descriptionAt;
    if (described !== null && described !== end) {
      const reason = `an end mark ${described - end} bytes before the VM description`;
      throw input.error('corrupt', reason, end - 1);
    }
    if (!(await input.atEnd()) && input.file.peekByte(0) === ITEM.VM_DESCRIPTION) {
      yield* this.#description(input);
    }
    for (const device of this.#devices.takeUndecoded()) yield deviceEvent(device);
    yield* this.#sayScan(end);
    if (this.#held?.isOpen === true) return;
    const offset = input.position;
    while (!(await input.atEnd())) await input.skip(input.available, 'what follows the stream');
    const bytes = input.position - offset;
    if (bytes > 0) yield { type: 'trailing', offset, bytes };
  }

  async *#description(input: StreamInput): AsyncGenerator<MigrationEvent, void> {
    const offset = input.position;
    input.u8();
    await input.need(4, 'the VM description');
    const size = input.be32();
    if (size > LIMIT.DESCRIPTION) {
      const reason = `a VM description of ${size} bytes, more than ${LIMIT.DESCRIPTION}`;
      throw input.error('unsupported', reason, offset + 1);
    }
    const text = await input.bytes(size, 'the VM description');
    let description: VmDescription;
    try {
      description = parseVmDescription(text, offset + 5);
    } catch (error) {
      if (!(error instanceof MigrationStreamError)) throw error;
      // The devices themselves are complete.
      this.#report(error);
      return;
    }
    yield { type: 'vmDescription', offset, bytes: 5 + size, description };
    if (!this.#devices.isDescribed) {
      for (const device of await this.#describe(description, offset)) yield deviceEvent(device);
    }
    if (this.ram.pageSizeKnown && this.ram.pageSize !== description.page_size) {
      const reason = `the VM description says pages of ${description.page_size} bytes, RAM has ${this.ram.pageSize}`;
      this.#report(input.error('corrupt', reason, offset));
    }
    for (const name of this.#devices.missing()) {
      const reason = `the VM description has ${name}, and no such section came`;
      this.#report(input.error('corrupt', reason, offset));
    }
  }

  #warn(message: string, offset: number): void {
    this.#remarks += 1;
    if (this.#remarks > LIMIT.REMARKS) return;
    this.#warnings.push({ type: 'warning', offset, message });
    if (this.#remarks < LIMIT.REMARKS) return;
    this.#warnings.push({ type: 'warning', offset, message: 'further warnings are left out' });
  }

  *#takeWarnings(): Generator<MigrationEvent, void> {
    yield* this.#warnings.splice(0);
  }
}

function deviceEvent(device: DeviceSection): MigrationEvent {
  return { type: 'device', offset: device.section.offset, ...device };
}
