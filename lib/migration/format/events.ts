import type { DeviceState, VmDescription } from './device-types.ts';

/** How a section came: `start`, `part` and `end` of one that comes in pieces, or all at once. */
export type SectionKind = 'start' | 'part' | 'end' | 'full';

/** A section of a stream. */
export interface Section {
  readonly sectionId: number;
  readonly name: string;
  readonly instanceId: number;
  readonly versionId: number;
  readonly kind: SectionKind;
  /** Offset in the stream of its type byte. */
  readonly offset: number;
  /** Bytes from the type byte to the end of the footer; 0 until that is known. */
  bytes: number;
}

/** RAM records by what they carried; a page that was sent again counts again. */
export interface PageCounts {
  /** Pages of zeros, or of another byte 256 … times. */
  zero: number;
  /** Pages sent as they are; for mapped-ram pages whose bit in the bitmap is set. */
  normal: number;
  /** Pages sent as what changed in them. */
  xbzrle: number;
  /** Pages sent through zlib, one by one. */
  compressed: number;
  /** Pages, not of zeros, that came through multifd channels. */
  multifd: number;
}

/** A block of guest memory that a stream lists. */
export interface RamBlock {
  /** Place in the list. */
  readonly index: number;
  readonly name: string;
  /** Bytes in use. */
  readonly usedLength: number;
  /** Size of the host's pages under it in bytes, where the stream says so. */
  readonly hostPageSize: number | null;
  /** Guest-physical address, where the stream says so (capability `x-ignore-shared`). */
  readonly address: bigint | null;
  /** What came for it so far. */
  readonly pages: PageCounts;
}

/**
 * Gets the RAM pages of a stream, in the order in which they are to be applied: the last one wins. Called
 * in between the events of the reader; all but `blocks` at once, without promises.
 */
export interface PageVisitor {
  /**
   * The blocks, before their first page; waited for. Called again, with all of them, when more become known
   * (mapped-ram) or the page size turns out to be another.
   */
  blocks?(blocks: readonly RamBlock[], pageSize: number): void | Promise<void>;
  /**
   * Contents of one page, or of several that follow each other.
   *
   * @param offset - In bytes, inside the block.
   * @param bytes - Valid until the visitor returns; the length is a multiple of the page size.
   */
  page?(block: RamBlock, offset: number, bytes: Uint8Array): void;
  /** `count` pages of zeros from `offset` on. */
  zero?(block: RamBlock, offset: number, count: number): void;
  /** What changed in a page since it was last sent, as `applyXbzrle` takes it; valid until the visitor returns. */
  xbzrle?(block: RamBlock, offset: number, encoded: Uint8Array): void;
}

/** A command in a stream, its payload taken apart. */
export type Command =
  | { readonly name: 'OPEN_RETURN_PATH' }
  | { readonly name: 'PING'; readonly value: number }
  | {
      readonly name: 'POSTCOPY_ADVISE';
      /** OR of the host page sizes of all blocks, and the target's page size, where they are given. */
      readonly pageSizes?: bigint;
      readonly targetPageSize?: number;
    }
  | { readonly name: 'POSTCOPY_LISTEN' }
  | { readonly name: 'POSTCOPY_RUN' }
  | {
      readonly name: 'POSTCOPY_RAM_DISCARD';
      readonly block: string;
      /** In bytes, inside the block. */
      readonly ranges: readonly { readonly start: number; readonly length: number }[];
    }
  | {
      readonly name: 'PACKAGED';
      /** Bytes of items that follow. */
      readonly size: number;
    }
  | { readonly name: 'ENABLE_COLO' }
  | { readonly name: 'POSTCOPY_RESUME' }
  | { readonly name: 'RECV_BITMAP'; readonly block: string }
  | { readonly name: 'SWITCHOVER_START' }
  | { readonly name: 'UNKNOWN' };

/** What a stream's configuration says. */
export interface Configuration {
  /** Machine type, such as `pc-i440fx-7.2`. */
  readonly machine: string;
  /** log2 of the target's page size, where the stream says so. */
  readonly targetPageBits: number | null;
  /** Capabilities that both ends must have, such as `mapped-ram`. */
  readonly capabilities: readonly string[];
  /** The guest's UUID in its usual form, where it is sent. */
  readonly uuid: string | null;
}

/** How a device section's state was found. */
export interface DeviceSection {
  readonly section: Section;
  /** Offset in the stream of the body, behind the section's header. */
  readonly bodyOffset: number;
  /** The body as it was sent. */
  readonly body: Buffer;
  /** Decoded by the VM description; null if there is none, or it does not fit. */
  readonly state: DeviceState | null;
}

/** What the reader says of a stream, in the order of the stream; `offset` counts from its first byte. */
export type MigrationEvent =
  | { readonly type: 'header'; readonly offset: number; readonly version: number }
  | {
      readonly type: 'configuration';
      readonly offset: number;
      readonly bytes: number;
      readonly configuration: Configuration;
    }
  /** A section begins; `bytes` of it is not known yet. */
  | { readonly type: 'section'; readonly offset: number; readonly section: Section }
  /** The list of blocks of guest memory. */
  | {
      readonly type: 'ramBlocks';
      readonly offset: number;
      readonly section: Section;
      readonly blocks: readonly RamBlock[];
      readonly pageSize: number;
    }
  /** The state of a device. */
  | ({ readonly type: 'device'; readonly offset: number } & DeviceSection)
  /** A section is complete; `footer` is null in streams of old machine types, which have none. */
  | {
      readonly type: 'sectionEnd';
      readonly offset: number;
      readonly section: Section;
      readonly footer: number | null;
    }
  | {
      readonly type: 'command';
      readonly offset: number;
      /** Bytes of the command, without a package behind it. */
      readonly bytes: number;
      readonly number: number;
      readonly command: Command;
    }
  /** The items of a package are over. */
  | { readonly type: 'packageEnd'; readonly offset: number }
  /** The end mark. */
  | { readonly type: 'end'; readonly offset: number }
  | {
      readonly type: 'vmDescription';
      readonly offset: number;
      readonly bytes: number;
      readonly description: VmDescription;
    }
  /** Bytes that belong to whatever wraps the stream. */
  | { readonly type: 'trailing'; readonly offset: number; readonly bytes: number }
  /** Something a person should know; the stream can be read all the same. */
  | { readonly type: 'warning'; readonly offset: number; readonly message: string };
