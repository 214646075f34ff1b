import type { QemuFile } from './qemu-file.ts';

/** A RAM hook: answers a negative errno for a failure, which is latched; anything else is ignored. */
export type QemuFileRamHook = (file: QemuFile, flags: number, data?: unknown) => number;

/** Where a save-page hook says how many bytes it really sent by its own means. */
export interface BytesSent {
  bytes: number;
}

/**
 * What a transport that moves RAM by its own means (RDMA in QEMU) does around and instead of the pages
 * in the stream. All may be absent.
 *
 * @see QEMU `QEMUFileHooks`
 */
export interface QemuFileHooks {
  /** Runs before the block list, a round, or the last round is sent. @see QEMU `before_ram_iterate` */
  beforeRamIterate?: QemuFileRamHook;
  /** Runs after it. @see QEMU `after_ram_iterate` */
  afterRamIterate?: QemuFileRamHook;
  /** Runs for each RAM block that a stream lists, and where it has `RAM_SAVE_FLAG_HOOK`. @see QEMU `hook_ram_load` */
  hookRamLoad?: QemuFileRamHook;
  /**
   * Saves a page by its own means. @see QEMU `save_page`
   *
   * @returns `RAM_SAVE_CONTROL_NOT_SUPP`: send it inline; `RAM_SAVE_CONTROL_DELAYED`: on its way; else
   *   done, with the bytes in `sent`; negative with nothing sent: a failure, latched.
   */
  savePage?: (
    file: QemuFile,
    blockOffset: number | bigint,
    offset: number | bigint,
    size: number,
    sent: BytesSent,
  ) => number;
}
