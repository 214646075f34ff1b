import { stateToJson } from '../devices/state-decoder.ts';
import type {
  Command,
  Configuration,
  MigrationEvent,
  PageCounts,
  RamBlock,
  Section,
  SectionKind,
} from '../format/events.ts';
import { LIMIT } from '../format/wire.ts';
import type { RamTable } from '../ram/ram-table.ts';

/** A section in a summary. */
export interface SectionSummary {
  sectionId: number;
  name: string;
  instanceId: number;
  versionId: number;
  kind: SectionKind;
  /** Offset in the stream of its type byte. */
  offset: number;
  /** From the type byte to the end of the footer. */
  bytes: number;
}

/** A block of guest memory in a summary. */
export interface BlockSummary {
  name: string;
  usedLength: number;
  hostPageSize?: number;
  address?: string;
  pages: PageCounts;
  /** XXH64 of its final contents, 16 hexadecimal digits; absent if they were not kept. */
  xxh64?: string;
}

/** A command in a summary, with the fields of its payload. */
export interface CommandSummary {
  offset: number;
  bytes: number;
  number: number;
  name: string;
  [field: string]: unknown;
}

/**
 * Contents of a stream, ready for `JSON.stringify`: integers beyond 2^53-1 are decimal text, bytes are
 * hexadecimal digits.
 */
export interface StreamSummary {
  format: {
    version: number;
    /** Bytes of the stream without trailing bytes; of a truncated stream, up to the last complete item. */
    bytes: number;
    /** Bytes that follow the stream. */
    trailingBytes: number;
    /** Format that the stream was wrapped in; null if it was not wrapped. */
    container: string | null;
  };
  /** Null if the stream has no configuration, as with machine types before 2.4. */
  configuration: {
    machine: string;
    capabilities: readonly string[];
    targetPageBits?: number;
    uuid?: string;
  } | null;
  /** Null if the stream has no RAM section. */
  ram: {
    pageSize: number;
    /** Passes over the list of blocks, as far as the stream shows them. */
    rounds: number;
    perRound: PageCounts[];
    blocks: BlockSummary[];
  } | null;
  sections: SectionSummary[];
  commands: CommandSummary[];
  /**
   * Device state by name, or `NAME/INSTANCE` if the instance is not 0. If two have the same key, the second
   * gets ` (section ID)` added. A state that no VM description covers is `{ raw }`, or `{ bytes }` (a count)
   * once the raw bytes exceed `LIMIT.DEVICE_TAIL` in total.
   */
  devices: Record<string, unknown>;
  /** Whether the stream has a VM description. */
  vmDescription: boolean;
  warnings: string[];
}

/** Return the key of a device in a summary: its name, or `NAME/INSTANCE` if the instance is not 0. */
export function deviceKey({ name, instanceId }: { name: string; instanceId: number }): string {
  return instanceId === 0 ? name : `${name}/${instanceId}`;
}

/** Builds a summary from the events of a reader. */
export class StreamSummarizer {
  readonly #sections: Section[] = [];
  readonly #commands: CommandSummary[] = [];
  readonly #devices = new Map<string, unknown>();
  readonly #warnings: string[] = [];
  readonly #warned = new Set<string>();
  /** Bytes of devices that were not decoded. */
  #rawBytes = 0;
  #configuration: Configuration | null = null;
  #blocks: readonly RamBlock[] | null = null;
  #version = 0;
  #streamBytes = 0;
  #trailingBytes = 0;
  #hasDescription = false;

  /** Process the reader's next event. */
  add(event: MigrationEvent): void {
    switch (event.type) {
      case 'header':
        this.#version = event.version;
        break;
      case 'configuration':
        this.#configuration = event.configuration;
        this.#streamBytes = event.offset + event.bytes;
        break;
      case 'section':
        this.#list(this.#sections, event.section, 'sections');
        break;
      case 'ramBlocks':
        this.#blocks = event.blocks;
        break;
      case 'device': {
        const { section, state, body } = event;
        this.#addDevice(section, state === null ? this.#raw(body) : stateToJson(state));
        break;
      }
      case 'command':
        this.#list(this.#commands, commandSummary(event), 'commands');
        this.#streamBytes = event.offset + event.bytes;
        break;
      case 'end':
        this.#streamBytes = event.offset + 1;
        break;
      case 'vmDescription':
        this.#hasDescription = true;
        this.#streamBytes = event.offset + event.bytes;
        break;
      case 'trailing':
        this.#trailingBytes = event.bytes;
        break;
      case 'warning':
        this.#warnings.push(`${event.message}, at byte ${event.offset}`);
        break;
      case 'sectionEnd':
      case 'packageEnd':
        this.#streamBytes = event.offset;
        break;
    }
  }

  #raw(body: Buffer): unknown {
    this.#rawBytes += body.length;
    if (this.#rawBytes <= LIMIT.DEVICE_TAIL) return { raw: body.toString('hex') };
    this.#warnOnce(
      'the bytes of devices that were not decoded exceed the limit: only the sizes of the rest are listed',
    );
    return { bytes: body.length };
  }

  #warnOnce(message: string): void {
    if (this.#warned.has(message)) return;
    this.#warned.add(message);
    this.warn(message);
  }

  #list<T>(list: T[], item: T, what: string): void {
    if (list.length < LIMIT.LISTED) list.push(item);
    else this.#warnOnce(`only the first ${LIMIT.LISTED} ${what} are listed`);
  }

  #addDevice(section: Section, shown: unknown): void {
    const key = deviceKey(section);
    // QEMU may register two devices with the same name and instance.
    const isTaken = this.#devices.has(key);
    this.#devices.set(isTaken ? `${key} (section ${section.sectionId})` : key, shown);
  }

  /** Add a warning that is not among the events. */
  warn(message: string): void {
    this.#warnings.push(message);
  }

  /**
   * Return the summary.
   *
   * @param ram - The RAM table of the reader.
   * @param container - Format that the stream was wrapped in; null if it was not wrapped.
   * @param digest - Returns the XXH64 of a block's contents, or undefined if they were not kept.
   */
  summary(
    ram: RamTable,
    container: string | null,
    digest?: (block: RamBlock) => string | undefined,
  ): StreamSummary {
    const perRound = ram.rounds();
    return {
      format: {
        version: this.#version,
        bytes: this.#streamBytes,
        trailingBytes: this.#trailingBytes,
        container,
      },
      configuration: configurationSummary(this.#configuration),
      ram:
        this.#blocks === null
          ? null
          : {
              pageSize: ram.pageSize,
              rounds: perRound.length,
              perRound,
              blocks: this.#blocks.map((block) => blockSummary(block, digest?.(block))),
            },
      sections: this.#sections.map((section) => ({ ...section })),
      commands: this.#commands,
      // Object.fromEntries, because assigning to a name "__proto__" would not add a key.
      devices: Object.fromEntries(this.#devices),
      vmDescription: this.#hasDescription,
      warnings: this.#warnings,
    };
  }
}

function configurationSummary(configuration: Configuration | null): StreamSummary['configuration'] {
  if (configuration === null) return null;
  const { machine, capabilities, targetPageBits, uuid } = configuration;
  return {
    machine,
    capabilities,
    ...(targetPageBits === null ? {} : { targetPageBits }),
    ...(uuid === null ? {} : { uuid }),
  };
}

function blockSummary(block: RamBlock, xxh64: string | undefined): BlockSummary {
  const { name, usedLength, hostPageSize, address, pages } = block;
  return {
    name,
    usedLength,
    ...(hostPageSize === null ? {} : { hostPageSize }),
    ...(address === null ? {} : { address: `0x${address.toString(16)}` }),
    pages: { ...pages },
    ...(xxh64 === undefined ? {} : { xxh64 }),
  };
}

function commandSummary({
  offset,
  bytes,
  number,
  command,
}: {
  offset: number;
  bytes: number;
  number: number;
  command: Command;
}): CommandSummary {
  const shown: CommandSummary = { offset, bytes, number, name: command.name };
  for (const [key, value] of Object.entries(command)) {
    shown[key] = typeof value === 'bigint' ? value.toString() : value;
  }
  return shown;
}
