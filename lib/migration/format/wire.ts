/** The first 4 bytes of a stream, `QEVM`. */
export const STREAM_MAGIC = 0x5145564d;
/** The first 4 bytes of a multifd channel, and of each of its packets. */
export const MULTIFD_MAGIC = 0x11223344;
/** The version of the stream format. */
export const STREAM_VERSION = 3;

/** The byte that begins an item of a stream. @see QEMU `QEMU_VM_…` in migration/savevm.h */
export const ITEM = {
  EOF: 0x00,
  SECTION_START: 0x01,
  SECTION_PART: 0x02,
  SECTION_END: 0x03,
  SECTION_FULL: 0x04,
  SUBSECTION: 0x05,
  VM_DESCRIPTION: 0x06,
  CONFIGURATION: 0x07,
  COMMAND: 0x08,
  FOOTER: 0x7e,
} as const;

/** Flags in the low bits of a RAM word. @see QEMU `RAM_SAVE_FLAG_…` in migration/ram.c */
export const RAM_FLAG = {
  ZERO: 0x002,
  MEM_SIZE: 0x004,
  PAGE: 0x008,
  EOS: 0x010,
  CONTINUE: 0x020,
  XBZRLE: 0x040,
  HOOK: 0x080,
  COMPRESS_PAGE: 0x100,
  MULTIFD_FLUSH: 0x200,
} as const;

/** Numbers of the commands of a stream. @see QEMU `MIG_CMD_…` in migration/savevm.c */
export const COMMAND = {
  OPEN_RETURN_PATH: 1,
  PING: 2,
  POSTCOPY_ADVISE: 3,
  POSTCOPY_LISTEN: 4,
  POSTCOPY_RUN: 5,
  POSTCOPY_RAM_DISCARD: 6,
  PACKAGED: 7,
  ENABLE_COLO: 8,
  POSTCOPY_RESUME: 9,
  RECV_BITMAP: 10,
  SWITCHOVER_START: 11,
} as const;

/** Types of the messages on a return path. @see QEMU `MIG_RP_MSG_…` in migration/migration.h */
export const RETURN_MESSAGE = {
  SHUT: 1,
  PONG: 2,
  REQ_PAGES_ID: 3,
  REQ_PAGES: 4,
  RECV_BITMAP: 5,
  RESUME_ACK: 6,
  SWITCHOVER_ACK: 7,
} as const;

/** Limits beyond which a stream is refused, so that a hostile stream cannot decide what is allocated. */
export const LIMIT = {
  /** Longest machine name, in bytes. */
  MACHINE_NAME: 4096,
  /** Capabilities in the configuration. */
  CAPABILITIES: 64,
  /** RAM blocks in one list. */
  BLOCKS: 4096,
  /** Sections in one stream. */
  SECTIONS: 65_536,
  /** Bytes of a VM description. */
  DESCRIPTION: 67_108_864,
  /**
   * Bytes of device sections that are buffered until the VM description arrives, where it cannot be looked up;
   * also of one device section whose end is found by its footer.
   */
  DEVICE_TAIL: 67_108_864,
  /** Bytes of one body of a live section of unknown layout, whose end is found by its footer. */
  UNKNOWN_BODY: 1_073_741_824,
  /** Bytes of a postcopy package. */
  PACKAGE: 1_073_741_824,
  /** Levels of structures in a description. */
  NESTING: 64,
  /** Bytes of all RAM blocks. */
  RAM: 1_125_899_906_842_624,
  /** Multifd channels of one migration. */
  CHANNELS: 255,
  /** Warnings that are reported, and faults after which reading goes on. */
  DIAGNOSTICS: 1000,
  /** Sections, pieces of them, and commands that a summary lists; a stream may have more. */
  LISTED: 262_144,
} as const;
