import { loadDigest } from '../../util/digest.ts';
import type { VmDescription } from '../format/device-types.ts';
import type { Configuration, MigrationEvent, RamBlock, Section } from '../format/events.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import type { StreamSource } from '../format/stream-source.ts';
import { LIMIT } from '../format/wire.ts';
import { combineVisitors } from '../memory/combine-visitors.ts';
import { MissingPages } from '../memory/missing-pages.ts';
import type { PageStore } from '../memory/page-store.ts';
import { RamImage } from '../memory/ram-image.ts';
import { MigrationReader, type ReaderOptions } from '../reader/migration-reader.ts';
import { compareManifests, type Manifest } from './manifest.ts';
import { StreamDigests } from './stream-digests.ts';

/** How a stream is verified. */
export interface VerifyOptions extends Omit<ReaderOptions, 'onFault'> {
  /** Goes on after the first fault, where the stream can be read in spite of it. Default false. */
  all?: boolean | undefined;
  /** What the stream must be like. */
  manifest?: Manifest | undefined;
  /**
   * Makes a manifest, and compares with the one given; the stores keep the RAM for that, and are closed at
   * the end.
   */
  digests?: { readonly store: (block: RamBlock) => PageStore } | undefined;
  /** Ends the digesting of what RAM holds, which takes its time; to end the reading, destroy the source. */
  signal?: AbortSignal | undefined;
  /** Accepts a stream without a VM description, as of a machine with `suppress-vmdesc=on`. Default false. */
  withoutDescription?: boolean | undefined;
  /** Gets the events of the reader, too. */
  onEvent?: ((event: MigrationEvent, reader: MigrationReader) => void) | undefined;
}

/** What came of a verification. */
export interface Verification {
  /** What is wrong, in the order in which it was met; none if all is well. */
  faults: MigrationStreamError[];
  /** What a person should know. */
  warnings: string[];
  /** Bytes of the stream, and of what follows it. */
  bytes: number;
  /** Those that come in pieces once for each piece; the first `LIMIT.LISTED` of all. */
  sections: readonly Section[];
  /** The blocks of guest memory. */
  blocks: readonly RamBlock[];
  configuration: Configuration | null;
  description: VmDescription | null;
  /** Null unless it was asked for and the stream could be read to its end. */
  manifest: Manifest | null;
}

/** Machine types that do without a description by themselves: `suppress-vmdesc` was their default. */
function suppressesDescription(machine: string): boolean {
  const [, major, minor] = /-(\d+)\.(\d+)$/.exec(machine) ?? [];
  if (machine === 'xenfv') return true;
  if (major === undefined) return false;
  return Number(major) < 2 || (Number(major) === 2 && Number(minor) <= 2);
}

/**
 * Reads a whole stream for nothing but to see whether it is whole and well formed, in constant memory; no
 * QEMU is needed.
 *
 * @param source - Its next byte is the stream's first.
 * @returns What is wrong with the stream, in there and not thrown.
 * @throws {QemuFileError} (rejects) what is wrong with its transport.
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
    const { digests: wanted, all, onEvent } = this.#options;
    const result = this.#result;
    let digests: StreamDigests | null = null;
    let image: RamImage | null = null;
    let bytes = source;
    if (wanted !== undefined) {
      await loadDigest();
      digests = new StreamDigests();
      image = new RamImage({ store: wanted.store });
      bytes = digests.through(source);
    }
    const missing = new MissingPages();
    const reader = new MigrationReader(bytes, {
      ...this.#options,
      // A digest of the whole needs every byte.
      seekable: digests === null && this.#options.seekable === true,
      pages: combineVisitors(
        [missing, this.#options.pages, image].filter((visitor) => visitor != null),
      ),
      ...(all === true ? { onFault: (fault) => void result.faults.push(fault) } : {}),
    });
    digests?.watch(reader);
    try {
      for await (const event of reader) {
        digests?.add(event);
        this.#note(event);
        onEvent?.(event, reader);
      }
      this.#judge(reader);
      // No fault: memory that a guest has handed back to its host is not sent.
      result.warnings.push(...missing.clauses());
      if (digests !== null && image !== null) {
        const kept = image;
        const { pageSize } = reader.ram;
        result.manifest = await digests.manifest(this.#blocks, pageSize, (block) =>
          kept.digest(block, { signal: this.#options.signal }),
        );
        this.#compare(result.manifest);
      }
    } catch (error) {
      if (!(error instanceof MigrationStreamError)) throw error;
      result.faults.push(error);
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
        const reason = `command ${event.number} is not known, and no QEMU would go on after it`;
        this.#fault(
          new MigrationStreamError('unsupported', reason, { position: event.offset + 1 }),
        );
      }
    }
  }

  /** Takes note of a fault that the stream can be read in spite of; throws it if that shall be the end. */
  #fault(error: MigrationStreamError): void {
    if (this.#options.all !== true || this.#result.faults.length > LIMIT.DIAGNOSTICS) throw error;
    this.#result.faults.push(error);
  }

  /** What is missing at the end, although QEMU itself would not miss it. */
  #judge(reader: MigrationReader): void {
    const position = this.#end + 1;
    const machine = reader.configuration?.machine ?? '';
    const fault = (reason: string): void =>
      this.#fault(new MigrationStreamError('truncated', reason, { position }));
    if (this.#sections.length === 0) fault('there is not one section');
    const { description } = this.#result;
    const { withoutDescription } = this.#options;
    if (description === null && !this.#isPostcopy && withoutDescription !== true) {
      if (reader.configuration !== null && !suppressesDescription(machine)) {
        fault(
          'the VM description is missing: the stream was cut off behind its end mark, ' +
            'unless its machine has suppress-vmdesc=on',
        );
      }
    }
    if (reader.ram.usesMultifd && (this.#options.channels ?? []).length === 0) {
      fault('its pages are in multifd channels, which were not given');
    }
  }

  #compare(found: Manifest): void {
    const { manifest, all } = this.#options;
    if (manifest === undefined) return;
    const faults = compareManifests(manifest, found);
    this.#result.faults.push(...(all === true ? faults : faults.slice(0, 1)));
  }
}
