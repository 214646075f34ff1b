import {
  RAM_CONTROL_HOOK,
  RAM_SAVE_CONTROL_DELAYED,
  RAM_SAVE_CONTROL_NOT_SUPP,
} from '../contract/constants.ts';
import { codeOf, QemuFileError, toQemuFileError } from '../contract/errors.ts';
import type { PutHalf } from './put/put-half.ts';

/*
 * RAM hooks: callbacks of a transport that moves RAM by its own means, such as QEMU's RDMA up to QEMU 8.
 * No backend of this package has any; a caller can set its own.
 */

/**
 * A RAM hook of a file of type `F`.
 *
 * @param flags - `RAM_CONTROL_…`.
 * @param data - The block's name, for `RAM_CONTROL_BLOCK_REG`.
 * @returns A negative errno for a failure, which is latched; any other number is ignored.
 */
export type RamHook<F> = (file: F, flags: number, data?: unknown) => number;

/** Receives from a save-page hook how many bytes the hook sent by its own means. */
export interface BytesSent {
  bytes: number;
}

/**
 * The hooks of a transport that moves RAM by its own means around, and instead of, the pages in the
 * stream. All may be absent.
 *
 * @see QEMU `QEMUFileHooks`
 */
export interface RamHookTable<F> {
  /** Runs before the block list, a round, or the last round is sent. @see QEMU `before_ram_iterate` */
  beforeRamIterate?: RamHook<F>;
  /** Runs after the block list, a round, or the last round was sent. @see QEMU `after_ram_iterate` */
  afterRamIterate?: RamHook<F>;
  /** Runs for each RAM block that a stream lists, and for each `RAM_SAVE_FLAG_HOOK`. @see QEMU `hook_ram_load` */
  hookRamLoad?: RamHook<F>;
  /**
   * Saves a page by its own means. @see QEMU `save_page`
   *
   * @returns `RAM_SAVE_CONTROL_NOT_SUPP` to have the caller send it inline; `RAM_SAVE_CONTROL_DELAYED` if it
   *   is on its way; else it was sent, with the bytes in `sent`. A negative number with nothing sent is a
   *   failure, which is latched.
   */
  savePage?: (
    file: F,
    blockOffset: number | bigint,
    offset: number | bigint,
    size: number,
    sent: BytesSent,
  ) => number;
}

/** The RAM hooks of a `QemuFile`. */
export interface RamControl {
  /** Run the hook before a part of RAM is sent, if there is one. @see QEMU `ram_control_before_iterate` */
  ramControlBeforeIterate(flags: number): void;

  /** Run the hook after a part of RAM was sent, if there is one. @see QEMU `ram_control_after_iterate` */
  ramControlAfterIterate(flags: number): void;

  /**
   * Run the load hook. @see QEMU `ram_control_load_hook`
   *
   * @param flags - `RAM_CONTROL_BLOCK_REG` for each listed block, `RAM_CONTROL_HOOK` for the flag in a
   *   stream. Without a hook the latter latches `EINVAL`, because the stream needs one.
   * @param data - The block's name, for `RAM_CONTROL_BLOCK_REG`.
   */
  ramControlLoadHook(flags: number, data?: unknown): void;

  /**
   * Send a page through the save-page hook. @see QEMU `ram_control_save_page`
   *
   * @param blockOffset - Offset of the block in the source's address space.
   * @param offset - Offset of the page in the block.
   * @param size - Bytes of the page; they count against the rate limit unless the hook does not support it.
   * @param sent - Receives how many bytes the hook sent.
   * @returns The hook's answer, `RAM_SAVE_CONTROL_NOT_SUPP` without a hook.
   */
  ramControlSavePage(
    blockOffset: number | bigint,
    offset: number | bigint,
    size: number,
    sent?: BytesSent,
  ): number;
}

/** The file that runs hooks. */
export interface RamHooksHost {
  tellFast(): number;
  readonly getPosition: number;
}

/** Runs the hooks of one file; see `RamControl`. */
export class RamHooks<F extends RamHooksHost> {
  table: RamHookTable<F> | null = null;
  readonly #file: F;
  readonly #putHalf: PutHalf;
  readonly #latch: (error: QemuFileError) => void;

  constructor(file: F, putHalf: PutHalf, latch: (error: QemuFileError) => void) {
    this.#file = file;
    this.#putHalf = putHalf;
    this.#latch = latch;
  }

  beforeIterate(flags: number): void {
    this.#run('beforeRamIterate', this.table?.beforeRamIterate, flags);
  }

  afterIterate(flags: number): void {
    this.#run('afterRamIterate', this.table?.afterRamIterate, flags);
  }

  load(flags: number, data: unknown): void {
    const hook = this.table?.hookRamLoad;
    if (hook === undefined && flags === RAM_CONTROL_HOOK) {
      const reason = 'the stream has RAM that a hook transports (RDMA), and no hook is set';
      const context = { operation: 'hookRamLoad', position: this.#file.getPosition };
      this.#latch(new QemuFileError('EINVAL', reason, context));
      return;
    }
    this.#run('hookRamLoad', hook, flags, data);
  }

  savePage(
    blockOffset: number | bigint,
    offset: number | bigint,
    size: number,
    sent: BytesSent,
  ): number {
    const hook = this.table?.savePage;
    if (hook === undefined) return RAM_SAVE_CONTROL_NOT_SUPP;
    const file = this.#file;
    const answer = this.#call('savePage', () => hook(file, blockOffset, offset, size, sent));
    if (answer === RAM_SAVE_CONTROL_NOT_SUPP) return answer;
    this.#putHalf.limiter.discount(-size);
    if (answer === RAM_SAVE_CONTROL_DELAYED) return answer;
    if (sent.bytes > 0) this.#putHalf.skipPosition(sent.bytes);
    else if (answer < 0) this.#latchErrno('savePage', answer);
    return answer;
  }

  #run(name: string, hook: RamHook<F> | undefined, flags: number, data?: unknown): void {
    if (hook === undefined) return;
    const answer = this.#call(name, () => hook(this.#file, flags, data));
    if (answer < 0) this.#latchErrno(name, answer);
  }

  /** Return a hook's answer. An error that it throws is latched and returned as an errno. */
  #call(operation: string, call: () => number): number {
    try {
      return call() ?? 0;
    } catch (failure) {
      const error = toQemuFileError(failure, { operation, position: this.#file.tellFast() });
      this.#latch(error);
      return error.errno;
    }
  }

  #latchErrno(operation: string, errno: number): void {
    const context = { operation, position: this.#file.tellFast() };
    this.#latch(new QemuFileError(codeOf(errno), 'the hook reported an error', context));
  }
}
