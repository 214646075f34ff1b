import {
  RAM_CONTROL_FINISH,
  RAM_CONTROL_ROUND,
  RAM_CONTROL_SETUP,
} from '../../contract/constants.ts';
import { checkFile } from '../../qemu-file/check-file.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { DeviceDescription, VmDescription } from '../format/device-types.ts';
import type { Configuration, SectionKind } from '../format/events.ts';
import { COMMAND, ITEM, LIMIT, STREAM_MAGIC, STREAM_VERSION } from '../format/wire.ts';
import { BegunSections, type SectionHeader } from './begun-sections.ts';
import { encodeCommand, type RawCommand, type WritableCommand } from './encode-command.ts';
import { encodeConfiguration } from './encode-configuration.ts';
import { be32 } from './encode-integers.ts';
import { PackageBuffer } from './package-buffer.ts';
import { RamWriter } from './ram-writer.ts';
import { writeError } from './write-error.ts';
import { describeSections, descriptionText, type WrittenSection } from './written-sections.ts';

/*
 *   header [configuration] item* end [description]
 *   item = section (START, PART, END, FULL) | command | command PACKAGED and a package of items
 *
 * Each call writes one of these. A call that does not fit the calls before it throws, with nothing written. The
 * file is longer than others because the class has a method for each item of a stream.
 */

/** Options of a `MigrationWriter`. */
export interface WriterOptions {
  /** Whether sections end with footers; machine types before 2.4 have none. Default true. */
  hasFooters?: boolean | undefined;
  /** Bytes of a target page. Default 4096. */
  pageSize?: number | undefined;
  /** Sections whose START an earlier connection carried: the stream continues it (postcopy recovery). */
  started?: readonly SectionHeader[] | undefined;
}

const DEFAULT_PAGE_SIZE = 4096;

const ITEMS: Readonly<Record<SectionKind, number>> = {
  start: ITEM.SECTION_START,
  part: ITEM.SECTION_PART,
  end: ITEM.SECTION_END,
  full: ITEM.SECTION_FULL,
};

const RAM_CONTROL = {
  start: RAM_CONTROL_SETUP,
  part: RAM_CONTROL_ROUND,
  end: RAM_CONTROL_FINISH,
} as const;

/** How far a stream has been written. */
type Progress = 'empty' | 'header' | 'configured' | 'items' | 'ended' | 'described';

/**
 * Writes a migration stream that QEMU loads, part by part, to a `QemuFile`. The caller waits for the file
 * (`rateLimitExceeded`, `drain`), flushes and closes it.
 *
 * @example
 * ```js
 * const writer = new MigrationWriter(file);
 * writer.header();
 * writer.configuration({ machine: 'pc-i440fx-7.2', targetPageBits: null, capabilities: [], uuid: null });
 * const ram = { sectionId: 2, name: 'ram', instanceId: 0, versionId: 4 };
 * writer.beginSection({ kind: 'start', ...ram });
 * writer.ram.listBlocks([{ name: 'pc.ram', usedLength: 4096, hostPageSize: null, address: null }]);
 * writer.endSection();
 * writer.beginSection({ kind: 'end', ...ram });
 * writer.ram.zero(0, 0);
 * writer.endSection();
 * writer.end();
 * ```
 *
 * @see QEMU `qemu_savevm_state_…` in migration/savevm.c
 */
export class MigrationWriter {
  /** Writes the records of the `ram` section that is open. */
  readonly ram: RamWriter;
  readonly #outer: QemuFile;
  readonly #hasFooters: boolean;
  /** Position of the file when the stream began. */
  readonly #start: number;
  #file: QemuFile;
  #package: PackageBuffer | null = null;
  #progress: Progress = 'empty';
  #section: SectionHeader | null = null;
  /** Whether the open section is one whose records `ram` writes. */
  #isRam = false;
  readonly #sections: BegunSections;
  readonly #written: WrittenSection[] = [];
  #bodyBytes = 0;

  /** @param file - The file to write to; its next byte is the stream's first. */
  constructor(file: QemuFile, options: WriterOptions = {}) {
    checkFile('MigrationWriter', 'file', file);
    const { hasFooters = true, pageSize = DEFAULT_PAGE_SIZE, started = [] } = options;
    this.#outer = file;
    this.#file = file;
    this.#hasFooters = hasFooters;
    this.#sections = new BegunSections(started);
    this.#start = file.tellFast();
    this.ram = new RamWriter({ file, pageSize, base: -this.#start });
  }

  /** The file that the stream is written to. */
  get file(): QemuFile {
    return this.#outer;
  }

  /** Offset in the stream of the next byte. A package counts when it is complete. */
  get position(): number {
    return this.#outer.tellFast() - this.#start;
  }

  /**
   * Write the header.
   *
   * @throws {QemuFileError} `EINVAL` if something was written already.
   */
  header(): void {
    this.#advance('header', ['empty'], 'header');
    this.#file.putBe32(STREAM_MAGIC);
    this.#file.putBe32(STREAM_VERSION);
  }

  /**
   * Write the configuration section, which machine types before 2.4 do not have.
   *
   * @param configuration - Its contents, or the whole section as it was sent, from its type byte.
   * @throws {QemuFileError} `EINVAL` if it does not follow the header, or does not fit.
   */
  configuration(configuration: Configuration | Uint8Array): void {
    const isRaw = configuration instanceof Uint8Array;
    if (isRaw && configuration[0] !== ITEM.CONFIGURATION) {
      throw this.#error('configuration', 'these bytes are not a configuration section');
    }
    const bytes = isRaw
      ? configuration
      : this.#encoded('configuration', () => encodeConfiguration(configuration));
    this.#advance('configuration', ['header'], 'configured');
    this.#file.putBuffer(bytes);
  }

  /**
   * Begin a section, or a piece of one.
   *
   * @param section - Its kind and id; the name, instance and version are written for START and FULL.
   * @throws {QemuFileError} `EINVAL` while a section is open, for a START or FULL whose id was used, and for a
   *   PART or END without its START.
   */
  beginSection(section: SectionHeader): void {
    const operation = 'beginSection';
    this.#checkItem(operation);
    const refusal = this.#sections.begin(section);
    if (refusal !== undefined) throw this.#error(operation, refusal, section);
    const { kind, sectionId, name, instanceId, versionId } = section;
    const file = this.#file;
    file.putByte(ITEMS[kind]);
    file.putBe32(sectionId);
    if (kind === 'start' || kind === 'full') {
      file.putCountedString(name);
      file.putBe32(instanceId);
      file.putBe32(versionId);
    }
    this.#section = section;
    this.#bodyBytes = 0;
    if (name !== 'ram' || kind === 'full') return;
    this.#isRam = true;
    this.ram.open(section);
    if (kind !== 'start') file.ramControlBeforeIterate(RAM_CONTROL[kind]);
  }

  /**
   * Write bytes of the open section's body, copied. The records of a `ram` section may be written in this way:
   * all of them, with their end mark.
   *
   * @param bytes - Any number of bytes; a body may be written in several calls.
   * @throws {QemuFileError} `EINVAL` if no section is open.
   */
  body(bytes: Uint8Array): void {
    if (this.#section === null) throw this.#error('body', 'no section is open');
    if (this.#isRam) {
      this.#isRam = false;
      this.ram.close();
    }
    this.#bodyBytes += bytes.length;
    this.#file.putBuffer(bytes);
  }

  /**
   * End the open section: write its footer, and before it the end mark of RAM records.
   *
   * @param description - For a FULL section: how the VM description is to describe its body. Default: as so
   *   many bytes.
   * @throws {QemuFileError} `EINVAL` if no section is open.
   */
  endSection(description?: DeviceDescription): void {
    const section = this.#section;
    if (section === null) throw this.#error('endSection', 'no section is open');
    const { kind, sectionId, name, instanceId } = section;
    const file = this.#file;
    if (this.#isRam) {
      const control = RAM_CONTROL[kind as keyof typeof RAM_CONTROL];
      // QEMU calls both hooks of the setup after the list of blocks.
      if (kind === 'start') file.ramControlBeforeIterate(control);
      file.ramControlAfterIterate(control);
      this.ram.endOfSection();
      this.ram.close();
      this.#isRam = false;
    }
    if (this.#hasFooters) {
      file.putByte(ITEM.FOOTER);
      file.putBe32(sectionId);
    }
    if (kind === 'full') {
      this.#written.push({ name, instanceId, bytes: this.#bodyBytes, description });
    }
    this.#section = null;
  }

  /**
   * Write a whole section.
   *
   * @param section - Its header.
   * @param body - The bytes between header and footer; copied.
   * @param description - As in `endSection`.
   * @throws {QemuFileError} `EINVAL` as `beginSection`.
   */
  section(section: SectionHeader, body: Uint8Array, description?: DeviceDescription): void {
    this.beginSection(section);
    this.body(body);
    this.endSection(description);
  }

  /**
   * Write a command.
   *
   * @param command - The command; for one that has no name, its number and its payload.
   * @throws {QemuFileError} `EINVAL` while a section is open, and for a value that does not fit.
   */
  command(command: WritableCommand | RawCommand): void {
    this.#checkItem('command');
    const { number, payload } =
      'payload' in command ? command : this.#encoded('command', () => encodeCommand(command));
    if (number < 1 || number > 0xffff || payload.length > 0xffff) {
      throw this.#error('command', `command ${number} with ${payload.length} bytes of payload`);
    }
    this.#putCommand(number, payload);
  }

  /**
   * Begin a postcopy package: the items up to `endPackage` are kept in memory and written together.
   *
   * @throws {QemuFileError} `EINVAL` while a section or a package is open.
   */
  beginPackage(): void {
    this.#checkItem('beginPackage');
    if (this.#package !== null) throw this.#error('beginPackage', 'a package is open');
    this.#package = new PackageBuffer();
    this.#file = this.#package.file;
  }

  /**
   * Write the package: the command PACKAGED and the items.
   *
   * @throws {QemuFileError} `EINVAL` without a package, while a section is open, and for a package that is too
   *   large.
   */
  endPackage(): void {
    this.#checkItem('endPackage');
    if (this.#package === null) throw this.#error('endPackage', 'no package is open');
    const items = this.#package.take();
    this.#package = null;
    this.#file = this.#outer;
    if (items.length > LIMIT.PACKAGE) {
      throw this.#error(
        'endPackage',
        `a package of ${items.length} bytes, at most ${LIMIT.PACKAGE}`,
      );
    }
    this.#putCommand(COMMAND.PACKAGED, be32(items.length));
    this.#file.putBuffer(items);
  }

  /**
   * Write the end mark.
   *
   * @throws {QemuFileError} `EINVAL` while a section or a package is open.
   */
  end(): void {
    this.#checkItem('end');
    if (this.#package !== null) throw this.#error('end', 'a package is open');
    this.#progress = 'ended';
    this.#file.putByte(ITEM.EOF);
  }

  /**
   * Write the VM description.
   *
   * @param description - Its text as it was sent, or its contents. Default: a description of the FULL sections
   *   that were written.
   * @throws {QemuFileError} `EINVAL` if it does not follow the end mark, or is too long.
   */
  vmDescription(description: VmDescription | Uint8Array = this.describe()): void {
    const text =
      description instanceof Uint8Array ? description : Buffer.from(descriptionText(description));
    if (text.length > LIMIT.DESCRIPTION) {
      const reason = `a VM description of ${text.length} bytes, at most ${LIMIT.DESCRIPTION}`;
      throw this.#error('vmDescription', reason);
    }
    this.#advance('vmDescription', ['ended'], 'described');
    this.#file.putByte(ITEM.VM_DESCRIPTION);
    this.#file.putBe32(text.length);
    this.#file.putBuffer(text);
  }

  /** Return a description of the FULL sections that were written so far. */
  describe(): VmDescription {
    return describeSections(this.#written, this.ram.pageSize);
  }

  #putCommand(number: number, payload: Uint8Array): void {
    const file = this.#file;
    file.putByte(ITEM.COMMAND);
    file.putBe16(number);
    file.putBe16(payload.length);
    file.putBuffer(payload);
  }

  #advance(operation: string, from: readonly Progress[], to: Progress): void {
    if (this.#section !== null) throw this.#error(operation, 'the section is open');
    if (!from.includes(this.#progress)) {
      throw this.#error(operation, `it cannot follow here: ${AFTER[this.#progress]}`);
    }
    this.#progress = to;
  }

  /** Check that an item may begin here. A stream may continue another after its header (postcopy recovery). */
  #checkItem(operation: string): void {
    this.#advance(operation, ['empty', 'header', 'configured', 'items'], 'items');
  }

  #encoded<T>(operation: string, encode: () => T): T {
    try {
      return encode();
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw this.#error(operation, error.message);
    }
  }

  #error(operation: string, reason: string, section: SectionHeader | null = this.#section): Error {
    return writeError(`MigrationWriter.${operation}`, reason, this.position, section);
  }
}

const AFTER: Readonly<Record<Progress, string>> = {
  empty: 'the header has not been written',
  header: 'the header was written',
  configured: 'the configuration was written',
  items: 'sections or commands were written',
  ended: 'the end mark was written',
  described: 'the VM description was written',
};
