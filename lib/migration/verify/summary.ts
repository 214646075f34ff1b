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

/** A section, as a summary lists it. */
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

/** A block of guest memory, as a summary lists it. */
export interface BlockSummary {
  name: string;
  usedLength: number;
  hostPageSize?: number;
  address?: string;
  pages: PageCounts;
  /** XXH64 of its contents in the end, 16 hexadecimal digits; if they were kept. */
  xxh64?: string;
}

/** A command, as a summary lists it: its payload's fields as far as it has any. */
export interface CommandSummary {
  offset: number;
  bytes: number;
  number: number;
  name: string;
  [field: string]: unknown;
}

/** What a stream consists of; fit for JSON, integers beyond 2^53-1 as decimal text, bytes as hexadecimal digits. */
export interface StreamSummary {
  format: {
    version: number;
    /** Bytes of the stream, what follows it excepted; of one that broke off, those of what is whole. */
    bytes: number;
    /** Bytes that follow the stream. */
    trailingBytes: number;
    /** What the stream was wrapped in. */
    container: string | null;
  };
  /** Null in streams of machine types before 2.4. */
  configuration: {
    machine: string;
    capabilities: readonly string[];
    targetPageBits?: number;
    uuid?: string;
  } | null;
  /** Null without a RAM section. */
  ram: {
    pageSize: number;
    /** Passes over the list of blocks, as far as they can be told apart. */
    rounds: number;
    perRound: PageCounts[];
    blocks: BlockSummary[];
  } | null;
  sections: SectionSummary[];
  commands: CommandSummary[];
  /**
   * By name, or `NAME/INSTANCE` where the instance is not 0; ` (section ID)` is added to the second of two
   * alike. `{ raw }` where nothing tells what the bytes are, `{ bytes }`, their number, once these are more
   * than `LIMIT.DEVICE_TAIL` in all.
   */
  devices: Record<string, unknown>;
  /** Whether the stream has a VM description. */
  vmDescription: boolean;
  warnings: string[];
}

/** The key of a device in a summary. */
export function deviceKey({ name, instanceId }: { name: string; instanceId: number }): string {
  return instanceId === 0 ? name : `${name}/${instanceId}`;
}

/** Puts a summary together from a reader's events. */
export class StreamSummarizer {
  readonly #sections: Section[] = [];
  readonly #commands: CommandSummary[] = [];
  readonly #devices = new Map<string, unknown>();
  readonly #warnings: string[] = [];
  readonly #said = new Set<string>();
  /** Of devices that are not decoded. */
  #rawBytes = 0;
  #configuration: Configuration | null = null;
  #blocks: readonly RamBlock[] | null = null;
  #version = 0;
  #bytes = 0;
  #trailing = 0;
  #described = false;

  /** Takes in the next event. */
  add(event: MigrationEvent): void {
    switch (event.type) {
      case 'header':
        this.#version = event.version;
        break;
      case 'configuration':
        this.#configuration = event.configuration;
        this.#bytes = event.offset + event.bytes;
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
        this.#bytes = event.offset + event.bytes;
        break;
      case 'end':
        this.#bytes = event.offset + 1;
        break;
      case 'vmDescription':
        this.#described = true;
        this.#bytes = event.offset + event.bytes;
        break;
      case 'trailing':
        this.#trailing = event.bytes;
        break;
      case 'warning':
        this.#warnings.push(`${event.message}, at byte ${event.offset}`);
        break;
      case 'sectionEnd':
      case 'packageEnd':
        this.#bytes = event.offset;
        break;
    }
  }

  #raw(body: Buffer): unknown {
    this.#rawBytes += body.length;
    if (this.#rawBytes <= LIMIT.DEVICE_TAIL) return { raw: body.toString('hex') };
    this.#warnOnce('there are too many bytes of devices that are not decoded: some are left out');
    return { bytes: body.length };
  }

  #warnOnce(message: string): void {
    if (this.#said.has(message)) return;
    this.#said.add(message);
    this.warn(message);
  }

  #list<T>(list: T[], item: T, what: string): void {
    if (list.length < LIMIT.LISTED) list.push(item);
    else this.#warnOnce(`only the first ${LIMIT.LISTED} ${what} are listed`);
  }

  #addDevice(section: Section, shown: unknown): void {
    const key = deviceKey(section);
    // QEMU may have two of one name and instance.
    const isTaken = this.#devices.has(key);
    this.#devices.set(isTaken ? `${key} (section ${section.sectionId})` : key, shown);
  }

  /** Adds something a person should know that no event says. */
  warn(message: string): void {
    this.#warnings.push(message);
  }

  /**
   * Gives the summary.
   *
   * @param ram - Of the reader.
   * @param container - What the stream was wrapped in.
   * @param digest - Gives the XXH64 of a block's contents, where they were kept.
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
        bytes: this.#bytes,
        trailingBytes: this.#trailing,
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
      // A name may be "__proto__": no assignment, then.
      devices: Object.fromEntries(this.#devices),
      vmDescription: this.#described,
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
