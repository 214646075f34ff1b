import { callBackend } from '../contract/backend-result.ts';
import {
  RAM_CONTROL_HOOK,
  RAM_SAVE_CONTROL_DELAYED,
  RAM_SAVE_CONTROL_NOT_SUPP,
} from '../contract/constants.ts';
import { codeOf, errnoOf, QemuFileError, toQemuFileError } from '../contract/errors.ts';
import type { MaybePromise, QemuFileOps } from '../contract/ops.ts';
import type { QemuFileOptions } from './options.ts';
import { QemuFilePosition } from './positions.ts';
import type { BandwidthBudget } from './put/bandwidth-budget.ts';
import type { BytesSent, QemuFileHooks, QemuFileRamHook } from './ram-hooks.ts';

/**
 * QEMU's migration channel as a stream: a buffered, big-endian, rate-limited, error-latching byte
 * channel over a table of transport operations. A `Duplex` of readable-stream with a put half and a get
 * half, each as far as the backend has it.
 *
 * @example
 * ```js
 * import { QemuFile } from 'qemu-file';
 * import { memoryOps } from 'qemu-file/adapters';
 *
 * const file = new QemuFile(memoryOps());
 * file.putBe32(0x5145564d);
 * await file.flush();
 * console.log((await file.readBe32()).toString(16)); // 5145564d
 * ```
 *
 * @see QEMU `QEMUFile`, `qemu_fopen_ops`
 */
export class QemuFile extends QemuFilePosition {
  #hooks: QemuFileHooks | null = null;
  readonly #options: QemuFileOptions;

  /**
   * Makes a file; nothing is called on the backend yet.
   *
   * @param ops - The backend. An empty table makes a file that only stages, for `putQemuFile`.
   * @param options - See `QemuFileOptions`; all have defaults.
   * @throws TypeError if `ops` is no object; RangeError for a size that is not a positive integer.
   */
  constructor(ops: QemuFileOps, options: QemuFileOptions = {}) {
    super(ops, options);
    this.#options = options;
  }

  /**
   * Tells whether a mode is neither `'rb'` nor `'wb'`. @see QEMU `qemu_file_mode_is_not_valid`
   *
   * @returns True for anything else, as in QEMU.
   */
  static modeIsNotValid(mode: unknown): boolean {
    return mode !== 'rb' && mode !== 'wb';
  }

  /**
   * Gives the error of the first of two files that has one. @see QEMU `qemu_file_get_error_obj_any`
   *
   * @param first - A file, or nothing.
   * @param second - A file, or nothing.
   */
  static firstError(
    first: QemuFile | null | undefined,
    second: QemuFile | null | undefined,
  ): QemuFileError | null {
    return first?.error ?? second?.error ?? null;
  }

  /** The latched error as a negative errno, 0 while there is none. @see QEMU `qemu_file_get_error` */
  getError(): number {
    return this.error?.errno ?? 0;
  }

  /**
   * Latches an error, unless one is latched already. @see QEMU `qemu_file_set_error`, `qemu_file_set_error_obj`
   *
   * @param error - A negative errno, 0 (changes nothing), or an error object.
   * @param cause - An error to keep as the `cause` of an errno.
   * @throws RangeError for a positive number.
   */
  setError(error: number | Error, cause?: Error): void {
    const context = { operation: 'setError', position: this.tellFast() };
    if (typeof error !== 'number') {
      this.latch(toQemuFileError(error, context));
    } else if (!Number.isInteger(error) || error > 0) {
      throw new RangeError(`setError: ${error} is not a negative errno`);
    } else if (error < 0) {
      const reason = cause?.message ?? 'set by the user of the file';
      this.latch(
        new QemuFileError(
          codeOf(error),
          reason,
          cause === undefined ? context : { ...context, cause },
        ),
      );
    }
  }

  /**
   * Tells whether a producer should stop for now: an error is latched or the file closed, the budget of
   * the window is used up, or the transport holds the high-water mark or more. `'drain'` and `drain()` say
   * when to go on.
   *
   * @see QEMU `qemu_file_rate_limit`
   */
  rateLimitExceeded(): boolean {
    return this.destroyed || this.error !== null || this.putHalf.gates.ask();
  }

  /**
   * Sets the budget of a window that the caller runs with `resetRateLimit()`; where `maxBandwidth` is
   * set, it changes that to ten times as much. @see QEMU `qemu_file_set_rate_limit`
   *
   * @param bytesPerWindow - 0 or less is no limit.
   */
  setRateLimit(bytesPerWindow: number): void {
    if (!Number.isFinite(bytesPerWindow)) {
      throw new RangeError(`setRateLimit: ${bytesPerWindow} is not a number of bytes`);
    }
    this.putHalf.limiter.limit = bytesPerWindow;
    this.putHalf.limitChanged();
  }

  /** Bytes per window of 100 ms; 0 or less is no limit. @see QEMU `qemu_file_get_rate_limit` */
  getRateLimit(): number {
    return this.putHalf.limiter.limit;
  }

  /** Starts a new window: nothing is counted yet. @see QEMU `qemu_file_reset_rate_limit` */
  resetRateLimit(): void {
    this.putHalf.limiter.reset(this.putHalf.putPosition);
    this.putHalf.limitChanged();
  }

  /**
   * Bytes per second at which the file lets bytes leave, together with those that share its `budget`; 0 is
   * no limit. May be set at any time.
   */
  get maxBandwidth(): number {
    return this.putHalf.limiter.bandwidth;
  }

  set maxBandwidth(bytesPerSecond: number) {
    this.putHalf.limiter.setBandwidth(bytesPerSecond, this.putHalf.putPosition);
    this.putHalf.limitChanged();
  }

  /** The limit that `maxBandwidth` is of: its own one, or that given as the option `budget`. */
  get budget(): BandwidthBudget {
    return this.putHalf.limiter.budget;
  }

  /** Bytes per second that the transport took while something waited for it; 0 before the first byte. */
  get bandwidth(): number {
    return this.putHalf.limiter.measured;
  }

  /** Milliseconds during which bytes waited for `maxBandwidth` alone. */
  get limitedMs(): number {
    return this.putHalf.limiter.limitedMs;
  }

  /** XXH64 of all bytes the backend took, as 16 hexadecimal digits; null without the option `digest`. */
  get putDigest(): string | null {
    return this.putHalf.digest;
  }

  /** XXH64 of all bytes fetched from the backend, as 16 hexadecimal digits; null without the option `digest`. */
  get getDigest(): string | null {
    return this.getHalf.digest;
  }

  /** The descriptor under the backend, -1 if there is none. @see QEMU `qemu_get_fd` */
  getFd(): number {
    return this.ops.getFd?.() ?? -1;
  }

  /**
   * Says whether gets may block the whole thread until bytes are there; without effect on a backend that
   * cannot. @see QEMU `qemu_file_set_blocking`
   */
  setBlocking(blocking: boolean): void {
    if (this.ops.setBlocking === undefined) return;
    this.ops.setBlocking(blocking);
    this.getHalf.blocking = blocking;
  }

  /**
   * Gives a file in the other direction over the same transport, with its own buffers, error and
   * counters; each is closed separately, and the transport closes with the last.
   * @see QEMU `qemu_file_get_return_path`
   *
   * @param options - Of the new file. Default: those of this one, without its limit and signal.
   * @returns Null if the backend has no other direction.
   */
  getReturnPath(options?: QemuFileOptions): QemuFile | null {
    const path = this.ops.getReturnPath?.();
    if (path === null || path === undefined) return null;
    if (path instanceof QemuFile) return path;
    const { maxBandwidth, budget, signal, readable, writable, ...own } = this.#options;
    return new QemuFile(path as QemuFileOps, options ?? own);
  }

  /**
   * Ends both directions at once: latches `EIO`, then has the backend wake whatever waits; nothing is
   * flushed. @see QEMU `qemu_file_shutdown`
   *
   * @returns 0, a negative errno of the backend, or `-ENOSYS` if it cannot be shut down (then it is closed).
   */
  async shutdown(): Promise<number> {
    const reason = 'the file was shut down';
    const context = { operation: 'shutdown', position: this.tellFast() };
    const error = new QemuFileError('EIO', reason, context);
    // Latched first: what a woken read returns must not be taken for good data.
    this.latchAlone(error);
    let answer = errnoOf('ENOSYS');
    if (this.ops.shutDown !== undefined) {
      // A backend that is closed already has nothing left to shut down.
      const shut = (): MaybePromise<number | void> =>
        this.destroyed ? 0 : this.ops.shutDown?.(true, true);
      answer = await callBackend('shutDown', shut).catch(
        (failure: unknown) => toQemuFileError(failure).errno,
      );
    }
    this.destroy(error);
    return answer;
  }

  /** Sets the RAM hooks, or takes them away. @see QEMU `qemu_file_set_hooks` */
  setHooks(hooks: QemuFileHooks | null): void {
    this.#hooks = hooks;
  }

  /** Runs the hook before a part of RAM is sent, if there is one. @see QEMU `ram_control_before_iterate` */
  ramControlBeforeIterate(flags: number): void {
    this.#runHook('beforeRamIterate', this.#hooks?.beforeRamIterate, flags);
  }

  /** Runs the hook after a part of RAM was sent, if there is one. @see QEMU `ram_control_after_iterate` */
  ramControlAfterIterate(flags: number): void {
    this.#runHook('afterRamIterate', this.#hooks?.afterRamIterate, flags);
  }

  /**
   * Runs the load hook. @see QEMU `ram_control_load_hook`
   *
   * @param flags - `RAM_CONTROL_BLOCK_REG` for each listed block, `RAM_CONTROL_HOOK` for the flag in a
   *   stream: without a hook the latter latches `EINVAL`, for the stream needs one.
   * @param data - The block's name, for `RAM_CONTROL_BLOCK_REG`.
   */
  ramControlLoadHook(flags: number, data?: unknown): void {
    const hook = this.#hooks?.hookRamLoad;
    if (hook === undefined && flags === RAM_CONTROL_HOOK) {
      const reason = 'the stream has RAM that a hook transports (RDMA), and no hook is set';
      const context = { operation: 'hookRamLoad', position: this.getPosition };
      this.latch(new QemuFileError('EINVAL', reason, context));
      return;
    }
    this.#runHook('hookRamLoad', hook, flags, data);
  }

  /**
   * Has the save-page hook send a page. @see QEMU `ram_control_save_page`
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
    sent: BytesSent = { bytes: 0 },
  ): number {
    const hook = this.#hooks?.savePage;
    if (hook === undefined) return RAM_SAVE_CONTROL_NOT_SUPP;
    const answer = this.#answerOf('savePage', () => hook(this, blockOffset, offset, size, sent));
    if (answer === RAM_SAVE_CONTROL_NOT_SUPP) return answer;
    this.putHalf.limiter.discount(-size);
    if (answer === RAM_SAVE_CONTROL_DELAYED) return answer;
    if (sent.bytes > 0) this.putHalf.skipPosition(sent.bytes);
    else if (answer < 0) this.#latchErrno('savePage', answer);
    return answer;
  }

  #runHook(name: string, hook: QemuFileRamHook | undefined, flags: number, data?: unknown): void {
    if (hook === undefined) return;
    const answer = this.#answerOf(name, () => hook(this, flags, data));
    if (answer < 0) this.#latchErrno(name, answer);
  }

  /** A hook's answer; one that throws has its error latched and counts as failed. */
  #answerOf(operation: string, call: () => number): number {
    try {
      return call() ?? 0;
    } catch (failure) {
      const error = toQemuFileError(failure, { operation, position: this.tellFast() });
      this.latch(error);
      return error.errno;
    }
  }

  #latchErrno(operation: string, errno: number): void {
    const context = { operation, position: this.tellFast() };
    this.latch(new QemuFileError(codeOf(errno), 'the hook reported an error', context));
  }
}
