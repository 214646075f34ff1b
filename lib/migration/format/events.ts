import type { DeviceDescription, DeviceState, VmDescription } from './device-types.ts';

/**
 * The type of a section item: `start`, `part` and `end` belong to a section that comes in pieces, `full` is a
 * section that comes at once.
 */
export type SectionKind = 'start' | 'part' | 'end' | 'full';

/** A section of a stream, or one piece of it. */
export interface Section {
  readonly sectionId: number;
  readonly name: string;
  readonly instanceId: number;
  readonly versionId: number;
  readonly kind: SectionKind;
  /** Offset in the stream of the type byte. */
  readonly offset: number;
  /** Bytes from the type byte to the end of the footer; 0 until the end is known. */
  bytes: number;
}

/** Number of RAM pages by how they were sent. A page that was sent twice counts twice. */
export interface PageCounts {
  /** Pages of zeros, or of one other byte repeated. */
  zero: number;
  /** Pages sent as they are. In a mapped-ram file: pages whose bit in the bitmap is set. */
  normal: number;
  /** Pages sent as XBZRLE differences to what was sent before. */
  xbzrle: number;
  /** Pages sent through zlib, one by one. */
  compressed: number;
  /** Pages, other than zero pages, that came through multifd channels. */
  multifd: number;
}

/** A RAM block of the guest, as the stream lists it. */
export interface RamBlock {
  /** Index in the list. */
  readonly index: number;
  readonly name: string;
  /** Bytes in use. */
  readonly usedLength: number;
  /** Bytes of the host's pages that back the block; null if the stream does not say. */
  readonly hostPageSize: number | null;
  /** Guest-physical address; null if the stream does not say (it does with the capability `x-ignore-shared`). */
  readonly address: bigint | null;
  /** The pages that came for the block so far. */
  readonly pages: PageCounts;
}

/**
 * Receives the RAM pages of a stream in the order in which they must be applied: the last one wins. The
 * reader calls it between events, synchronously except for `blocks`.
 */
export interface PageVisitor {
  /**
   * Called with the RAM blocks before their first page; the reader waits for the result. Called again, with
   * all blocks, when more become known (mapped-ram) or the page size turns out to be another.
   *
   * @param pageSize - Bytes of a target page.
   */
  blocks?(blocks: readonly RamBlock[], pageSize: number): void | Promise<void>;
  /**
   * Called with the contents of one page, or of several adjacent pages.
   *
   * @param offset - Byte offset in the block.
   * @param bytes - Valid until the visitor returns; the length is a multiple of the page size.
   */
  page?(block: RamBlock, offset: number, bytes: Uint8Array): void;
  /**
   * Called with the place of one page, or of several adjacent pages, before `page` is; not for pages of multifd
   * channels. The bytes of pages are skipped for a visitor that has this method and not `page`.
   *
   * @param length - Bytes of the pages.
   * @param position - Offset in the stream of the first byte; -1 if the page was not sent as it is, but compressed or
   *   as one repeated byte.
   */
  placed?(block: RamBlock, offset: number, length: number, position: number): void;
  /** Called for `count` adjacent pages of zeros from byte `offset` of the block. */
  zero?(block: RamBlock, offset: number, count: number): void;
  /**
   * Called with the changes of one page since it was last sent, in the form that `applyXbzrle` takes.
   *
   * @param encoded - Valid until the visitor returns.
   */
  xbzrle?(block: RamBlock, offset: number, encoded: Uint8Array): void;
  /**
   * Called, if present, instead of `page` for a page that was sent through zlib.
   *
   * @param compressed - The zlib stream; valid until the visitor returns.
   */
  compressedPage?(block: RamBlock, offset: number, compressed: Uint8Array): void;
  /** Called, if present, instead of `page` for a page of one repeated byte other than zero. */
  filledPage?(block: RamBlock, offset: number, fill: number): void;
  /**
   * Called before a page whose record names its block; other records are of the same block as the one before.
   *
   * @param position - Offset in the stream of the name's length byte.
   */
  named?(block: RamBlock, position: number): void;
  /** Called for a mark at which QEMU waits for the multifd channels. */
  multifdFlush?(): void;
  /** Called for a mark at which QEMU calls the hook of its transport (RDMA). */
  hook?(): void;
}

/** A command of a stream with its decoded payload. @see QEMU `MIG_CMD_…` in migration/savevm.c */
export type Command =
  | { readonly name: 'OPEN_RETURN_PATH' }
  | { readonly name: 'PING'; readonly value: number }
  | {
      readonly name: 'POSTCOPY_ADVISE';
      /** OR of the host page sizes of all blocks; absent where the command has no payload. */
      readonly pageSizes?: bigint;
      /** Bytes of a target page; absent where the command has no payload. */
      readonly targetPageSize?: number;
    }
  | { readonly name: 'POSTCOPY_LISTEN' }
  | { readonly name: 'POSTCOPY_RUN' }
  | {
      readonly name: 'POSTCOPY_RAM_DISCARD';
      readonly block: string;
      /** Byte ranges in the block. */
      readonly ranges: readonly { readonly start: number; readonly length: number }[];
    }
  | {
      readonly name: 'PACKAGED';
      /** Bytes of the package, which follows the command. */
      readonly size: number;
    }
  | { readonly name: 'ENABLE_COLO' }
  | { readonly name: 'POSTCOPY_RESUME' }
  | { readonly name: 'RECV_BITMAP'; readonly block: string }
  | { readonly name: 'SWITCHOVER_START' }
  | { readonly name: 'UNKNOWN' };

/** The configuration section of a stream. */
export interface Configuration {
  /** Machine type, such as `pc-i440fx-7.2`. */
  readonly machine: string;
  /** log2 of the target's page size; null if the stream does not say. */
  readonly targetPageBits: number | null;
  /** Capabilities that source and destination must share, such as `mapped-ram`. */
  readonly capabilities: readonly string[];
  /** The guest's UUID in its usual text form; null if it was not sent. */
  readonly uuid: string | null;
}

/** A device section and its state. */
export interface DeviceSection {
  readonly section: Section;
  /** Offset in the stream of the body, after the section's header. */
  readonly bodyOffset: number;
  /** The body as it was sent. */
  readonly body: Buffer;
  /** The state, decoded with the VM description; null if there is none, or it does not fit the body. */
  readonly state: DeviceState | null;
  /** The description by which the state was decoded; null if there is no state. */
  readonly description: DeviceDescription | null;
}

/** The parts of a stream, in the order of the stream. `offset` counts from its first byte. */
export type MigrationEvent =
  | { readonly type: 'header'; readonly offset: number; readonly version: number }
  | {
      readonly type: 'configuration';
      readonly offset: number;
      readonly bytes: number;
      readonly configuration: Configuration;
    }
  /** A section begins; its `bytes` are not known yet. */
  | { readonly type: 'section'; readonly offset: number; readonly section: Section }
  /** The list of RAM blocks. */
  | {
      readonly type: 'ramBlocks';
      readonly offset: number;
      readonly section: Section;
      readonly blocks: readonly RamBlock[];
      readonly pageSize: number;
    }
  /** The state of a device. */
  | ({ readonly type: 'device'; readonly offset: number } & DeviceSection)
  /** A section is complete. `footer` is its footer's offset, null in streams of old machine types without footers. */
  | {
      readonly type: 'sectionEnd';
      readonly offset: number;
      readonly section: Section;
      readonly footer: number | null;
    }
  | {
      readonly type: 'command';
      readonly offset: number;
      /** Bytes of the command, without the package that may follow it. */
      readonly bytes: number;
      readonly number: number;
      readonly command: Command;
    }
  /** The last item of a package was read. */
  | { readonly type: 'packageEnd'; readonly offset: number }
  /** The end mark. */
  | { readonly type: 'end'; readonly offset: number }
  | {
      readonly type: 'vmDescription';
      readonly offset: number;
      readonly bytes: number;
      readonly description: VmDescription;
    }
  /** Bytes after the stream, which belong to the file or volume that holds it. */
  | { readonly type: 'trailing'; readonly offset: number; readonly bytes: number }
  /** A condition that does not stop the reader. */
  | { readonly type: 'warning'; readonly offset: number; readonly message: string };
