import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { loadDigest } from '../../util/digest.ts';
import type { VmDescription } from '../format/device-types.ts';
import type { Configuration, MigrationEvent, RamBlock, Section } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import type { StreamSource } from '../format/stream-source.ts';
import { unknownCommand } from '../format/unknown-command.ts';
import { endsAs } from '../format/whole-source.ts';
import { LIMIT } from '../format/wire.ts';
import { combineVisitors } from '../memory/combine-visitors.ts';
import { DiscardedPages } from '../memory/discarded-pages.ts';
import { MissingPages } from '../memory/missing-pages.ts';
import type { PageStore } from '../memory/page-store.ts';
import { MigrationReader, type ReaderOptions } from '../reader/migration-reader.ts';
import { BlockDigests } from './block-digests.ts';
import { compareContents, compareManifests, type Manifest } from './manifest.ts';
import { pagesAgain } from './read-again.ts';
import { StreamDigests } from './stream-digests.ts';

/** Options of `verifyStream`, besides those of the reader. */
export interface VerifyOptions extends Omit<ReaderOptions, 'onFault'> {
  /** Continue after a fault where the stream can still be read. Default false: stop at the first. */
  all?: boolean | undefined;
  /**
   * Manifest that the stream must match; needs `digests`. A source that can seek is hashed as a whole only, and read
   * once more for the digests of its sections and blocks if that differs; any other source is hashed at once.
   */
  manifest?: Manifest | undefined;
  /**
   * Compare only what the guest consists of with `manifest`: a snapshot store lays the stream out anew. Default false.
   */
  contentsOnly?: boolean | undefined;
  /**
   * Make a manifest and compare it with `manifest`, if given. `store` returns the store that keeps the
   * contents of a block; the stores are closed at the end.
   */
  digests?: { readonly store: (block: RamBlock) => PageStore } | undefined;
  /** Aborts the hashing of RAM contents; to abort the reading, destroy the source. */
  signal?: AbortSignal | undefined;
  /** Accept a stream without a VM description, as with `-machine suppress-vmdesc=on`. Default false. */
  withoutDescription?: boolean | undefined;
  /** Called with each event of the reader. */
  onEvent?: ((event: MigrationEvent, reader: MigrationReader) => void) | undefined;
}

/** Result of a verification. */
export interface Verification {
  /** Faults in the order in which they were found; empty if the stream is valid. */
  faults: MigrationStreamError[];
  /** Notes for the user, as clauses without a full stop. */
  warnings: string[];
  /** Bytes of the stream and of anything that follows it. */
  bytes: number;
  /** The first `LIMIT.LISTED` sections; each SECTION_START, SECTION_PART and SECTION_END is one entry. */
  sections: readonly Section[];
  /** The blocks of guest memory. */
  blocks: readonly RamBlock[];
  configuration: Configuration | null;
  description: VmDescription | null;
  /** Whether the only fault is that the ends of device sections are unknown: RAM is complete. */
  isRamComplete: boolean;
  /** Null unless `digests` was given and the stream could be read to its end. */
  manifest: Manifest | null;
}

/**
 * Machine types with `suppress-vmdesc=on` by default, from QEMU 2.3 to 10.0: `default_machine_opts` in
 * hw/i386/pc_piix.c, hw/i386/pc_q35.c and hw/ppc/spapr.c. QEMU 7.2 confirms it for pc-i440fx-*: on for
 * 2.0 to 2.2, off for 1.7 and for 2.3.
 */
const SUPPRESSING_MACHINES = /^(?:xenfv(?:-\d+\.\d+)?|pc-(?:i440fx|q35)-2\.[0-2]|pseries-2\.[12])$/;

/** Return whether a machine type sends no VM description by default. */
function suppressesDescription(machine: string): boolean {
  return SUPPRESSING_MACHINES.test(machine);
}

/**
 * Check that a stream is complete and well formed, in constant memory and without QEMU.
 *
 * @param source - A source whose next byte is the first of the stream.
 * @returns The result. Faults of the stream are in it; they are not thrown.
 * @throws {QemuFileError} (rejects) An error of the transport.
 *
 * @example
 * ```js
 * const { faults } = await verifyStream(createReadStream('vm.mig'));
 * for (const fault of faults) console.error(fault.message);
 * ```
 */
export function verifyStream(
  source: StreamSource,
  options: VerifyOptions = {},
): Promise<Verification> {
  return new Verifier(options).run(source);
}

class Verifier {
  readonly #options: VerifyOptions;
  readonly #result: Verification = {
    faults: [],
    warnings: [],
    bytes: 0,
    sections: [],
    blocks: [],
    configuration: null,
    description: null,
    isRamComplete: false,
    manifest: null,
  };
  readonly #sections: Section[] = [];
  #blocks: readonly RamBlock[] | null = null;
  #isPostcopy = false;
  #end = 0;

  constructor(options: VerifyOptions) {
    this.#options = options;
  }

  async run(source: StreamSource): Promise<Verification> {
    const { digests: wanted, manifest: expected, all, onEvent } = this.#options;
    const result = this.#result;
    let digests: StreamDigests | null = null;
    let image: BlockDigests | null = null;
    let bytes = source;
    if (wanted !== undefined) {
      await loadDigest();
      const readAgain = pagesAgain(source, this.#options);
      // The digest of the whole shows whether a stream is unchanged; a second reading finds what has changed.
      const isWholeEnough = expected !== undefined && readAgain !== undefined;
      digests = new StreamDigests({ sections: !isWholeEnough });
      if (!isWholeEnough) image = new BlockDigests({ store: wanted.store, readAgain });
      bytes = digests.through(source);
      endsAs(bytes, source);
    }
    const missing = new MissingPages();
    const discarded = new DiscardedPages();
    const reader = new MigrationReader(bytes, {
      ...this.#options,
      // The digest of the whole stream needs every byte.
      seekable: digests === null && this.#options.seekable === true,
      pages: combineVisitors(
        [missing, discarded, this.#options.pages, image].filter((visitor) => visitor != null),
      ),
      ...(all === true ? { onFault: (fault) => void result.faults.push(fault) } : {}),
    });
    digests?.watch(reader);
    try {
      for await (const event of reader) {
        digests?.add(event);
        this.#note(event);
        discarded.follow(event);
        onEvent?.(event, reader);
      }
      this.#judge(reader, discarded.describe());
      // Not a fault: QEMU does not send pages that a balloon or virtio-mem gave back to the host.
      result.warnings.push(...missing.describe());
      if (digests !== null) await this.#finishManifest(source, digests, image, reader);
    } catch (error) {
      if (!(error instanceof MigrationStreamError)) throw error;
      result.isRamComplete = result.faults.length === 0 && reader.unreadableDevicesAt !== null;
      result.faults.push(error);
      if (result.isRamComplete) result.warnings.push(...missing.describe());
    } finally {
      image?.close();
      result.sections = this.#sections;
      result.configuration = reader.configuration;
    }
    return result;
  }

  #note(event: MigrationEvent): void {
    const result = this.#result;
    if (event.type === 'section') {
      if (this.#sections.length < LIMIT.LISTED) this.#sections.push(event.section);
    } else if (event.type === 'ramBlocks') {
      this.#blocks = event.blocks;
      result.blocks = event.blocks;
    } else if (event.type === 'vmDescription') {
      result.description = event.description;
      result.bytes = event.offset + event.bytes;
    } else if (event.type === 'end') {
      this.#end = event.offset;
      result.bytes = event.offset + 1;
    } else if (event.type === 'trailing') {
      result.bytes += event.bytes;
      result.warnings.push(`${event.bytes} bytes follow the stream, at byte ${event.offset}`);
    } else if (event.type === 'warning') {
      result.warnings.push(`${event.message}, at byte ${event.offset}`);
    } else if (event.type === 'command') {
      if (event.command.name === 'POSTCOPY_LISTEN') this.#isPostcopy = true;
      if (event.command.name === 'UNKNOWN') {
        this.#fault(unknownCommand(event.number, event.offset));
      }
    }
  }

  /** Record a fault after which the stream can still be read, or throw it unless `all` is set. */
  #fault(error: MigrationStreamError): void {
    if (this.#options.all !== true || this.#result.faults.length > LIMIT.DIAGNOSTICS) throw error;
    this.#result.faults.push(error);
  }

  /** Find parts that the end of the stream lacks although QEMU would load it. */
  #judge(reader: MigrationReader, discarded: string | null): void {
    const position = this.#end + 1;
    const machine = reader.configuration?.machine ?? '';
    const fault = (reason: string): void =>
      this.#fault(new MigrationStreamError('truncated', reason, { position }));
    if (this.#sections.length === 0) fault('the stream has no sections');
    const { description } = this.#result;
    const { withoutDescription } = this.#options;
    if (description === null && !this.#isPostcopy && withoutDescription !== true) {
      if (reader.configuration !== null && !suppressesDescription(machine)) {
        fault(
          'the VM description is missing: the stream was cut off after its end mark, ' +
            'unless its machine has suppress-vmdesc=on (then verify it with --no-description)',
        );
      }
    }
    if (reader.ram.usesMultifd && (this.#options.channels ?? []).length === 0) {
      fault(
        'the pages are in multifd channels, which were not given (--channel FILE for each channel)',
      );
    }
    if (discarded !== null) fault(discarded);
  }

  /** Make the manifest, unless the whole stream matches the expected one, and compare the two. */
  async #finishManifest(
    source: StreamSource,
    digests: StreamDigests,
    image: BlockDigests | null,
    reader: MigrationReader,
  ): Promise<void> {
    const { manifest: expected, signal } = this.#options;
    const result = this.#result;
    if (image !== null) {
      const { pageSize } = reader.ram;
      result.manifest = await digests.manifest(this.#blocks, pageSize, (block) =>
        image.digest(block, { signal }),
      );
    } else if (expected !== undefined && digests.matches(expected)) {
      result.manifest = expected;
      return;
    } else if (source instanceof QemuFile) {
      const { fileOffset = 0 } = this.#options;
      await source.setOffset(fileOffset);
      const again = { manifest: undefined, pages: undefined, onEvent: undefined };
      const { manifest, faults } = await verifyStream(source, { ...this.#options, ...again });
      result.manifest = manifest;
      if (manifest === null) result.faults.push(...faults);
    }
    if (result.manifest !== null) this.#compare(result.manifest);
  }

  #compare(found: Manifest): void {
    const { manifest, all, contentsOnly } = this.#options;
    if (manifest === undefined) return;
    const compare = contentsOnly === true ? compareContents : compareManifests;
    const faults = compare(manifest, found);
    this.#result.faults.push(...(all === true ? faults : faults.slice(0, 1)));
  }
}
