import { abortError, QemuFileError } from '../../contract/errors.ts';
import type { LivePageSource } from '../page-source/live-page-source.ts';
import type { PageSource } from '../page-source/page-source.ts';
import type { SectionHeader } from '../writer/begun-sections.ts';
import type { MigrationWriter } from '../writer/migration-writer.ts';
import { PageRun } from './page-run.ts';
import { PageSender, type SentPageCounts } from './page-sender.ts';
import { PendingPages } from './pending-pages.ts';
import { XbzrleCache } from './xbzrle-cache.ts';
import { SCAN_STEP_BYTES } from './zero-scan.ts';

/*
 *   setup()     START   the list of blocks
 *   iterate()   PART    pages, until the time is up or all have been sent; then what changed meanwhile
 *      …                once the rest can be sent within the downtime limit, the caller stops the guest
 *   complete()  END     the rest
 */

/** Longest time in which pages of one PART are sent. @see QEMU `MAX_WAIT` */
const PART_MS = 50;
/** Bytes of a page record besides its page. */
const WORD_BYTES = 8;
/** @see QEMU `DEFAULT_MIGRATE_SET_DOWNTIME` */
const DOWNTIME_LIMIT_MS = 300;

/** Options of a `RamSaver`. */
export interface RamSaverOptions {
  /** Id, instance and version of the `ram` section. Default: id 2, instance 0, version 4, as in most streams. */
  section?: Omit<SectionHeader, 'kind' | 'name'> | undefined;
  /** Milliseconds that the last round may take, by estimate. Default 300, as in QEMU. */
  downtimeLimitMs?: number | undefined;
  /** Bytes of the XBZRLE cache, for pages that change little from round to round. Default 0: no XBZRLE. */
  xbzrleCacheBytes?: number | undefined;
  /** Ends the work with `ECANCELED`. */
  signal?: AbortSignal | undefined;
}

/** How far a `RamSaver` is. */
export interface RamSaverProgress {
  /** Number of the round, from 1 on; a round begins when the source has reported what changed. */
  readonly round: number;
  /** Bytes of the pages that have still to be sent, as far as the source has reported them. */
  readonly remainingBytes: number;
  /** Milliseconds that it takes to send them at the measured bandwidth; Infinity before there is a measurement. */
  readonly expectedDowntimeMs: number;
  /** Whether less had changed at the last report than at the one before: if not, more rounds may not help. */
  readonly isShrinking: boolean;
  /** Numbers of pages so far. */
  readonly pages: SentPageCounts;
}

/**
 * Sends guest memory as the `ram` section of a migration: all of it, then round after round what changed
 * meanwhile, until the rest is small.
 *
 * @example
 * ```js
 * const saver = new RamSaver(writer, source, { downtimeLimitMs: 100 });
 * await saver.setup();
 * while (!(await saver.iterate()));
 * stopTheGuest();
 * await saver.complete();
 * ```
 *
 * @see QEMU `savevm_ram_handlers` in migration/ram.c
 */
export class RamSaver {
  readonly #writer: MigrationWriter;
  readonly #source: PageSource | LivePageSource;
  readonly #section: Omit<SectionHeader, 'kind'>;
  readonly #downtimeLimitMs: number;
  readonly #signal: AbortSignal | undefined;
  readonly #pageSize: number;
  readonly #pending: PendingPages;
  readonly #run: PageRun;
  readonly #sender: PageSender;
  #state: 'new' | 'iterating' | 'complete' = 'new';
  #changedPages: number;
  #isShrinking = true;

  /**
   * @param writer - Writes the stream; its page size must be that of the source.
   * @param source - The memory. Rounds after the first need a `LivePageSource`.
   * @param options - Limits and what to send.
   * @throws {QemuFileError} `EINVAL` for a page size that is not the writer's, and for a cache smaller than a page.
   */
  constructor(
    writer: MigrationWriter,
    source: PageSource | LivePageSource,
    options: RamSaverOptions = {},
  ) {
    const { section, downtimeLimitMs = DOWNTIME_LIMIT_MS, xbzrleCacheBytes = 0, signal } = options;
    const { pageSize } = source;
    if (pageSize !== writer.ram.pageSize || pageSize % SCAN_STEP_BYTES !== 0) {
      const reason = `the source has pages of ${pageSize} bytes, the writer of ${writer.ram.pageSize}`;
      throw new QemuFileError('EINVAL', reason, { operation: 'RamSaver' });
    }
    this.#writer = writer;
    this.#source = source;
    this.#section = { sectionId: 2, instanceId: 0, versionId: 4, ...section, name: 'ram' };
    this.#downtimeLimitMs = downtimeLimitMs;
    this.#signal = signal;
    this.#pageSize = pageSize;
    this.#pending = new PendingPages(source);
    this.#changedPages = this.#pending.count;
    this.#run = new PageRun(source);
    const cache = xbzrleCacheBytes === 0 ? null : new XbzrleCache(xbzrleCacheBytes, pageSize);
    this.#sender = new PageSender(writer, source, this.#run, cache);
  }

  /** How far the work is. */
  get progress(): RamSaverProgress {
    const remainingBytes = this.#remainingBytes;
    const { bandwidth } = this.#writer.file;
    return {
      round: this.#sender.round,
      remainingBytes,
      expectedDowntimeMs: remainingBytes === 0 ? 0 : (remainingBytes * 1000) / bandwidth,
      isShrinking: this.#isShrinking,
      pages: this.#sender.pages,
    };
  }

  /**
   * Write the START of the section: the list of blocks. Other sections that iterate may be started before
   * and after it.
   *
   * @throws {QemuFileError} (rejects) `EINVAL` for a second call and for blocks that QEMU refuses; the errors of
   *   the file; `ECANCELED`.
   * @see QEMU `ram_save_setup`
   */
  async setup(): Promise<void> {
    this.#advance('setup', 'new', 'iterating');
    this.#writer.beginSection({ ...this.#section, kind: 'start' });
    // QEMU expects host page sizes and addresses in the list only with postcopy and x-ignore-shared.
    const blocks = this.#source.blocks.map(({ name, usedLength }) => {
      return { name, usedLength, hostPageSize: null, address: null };
    });
    this.#writer.ram.listBlocks(blocks);
    this.#writer.endSection();
    await this.#ready();
  }

  /**
   * Write a PART of the section: pages, for about 50 ms or until all have been sent.
   *
   * @returns Whether the rest, which the source has reported meanwhile, can be sent within the downtime limit. A
   *   caller may stop the guest earlier, as for memory that changes faster than it is sent.
   * @throws {QemuFileError} (rejects) `EINVAL` before `setup` and after `complete`; the errors of the source and
   *   of the file; `ECANCELED`.
   * @see QEMU `ram_save_iterate`, `ram_state_pending_exact`
   */
  async iterate(): Promise<boolean> {
    this.#advance('iterate', 'iterating', 'iterating');
    if (this.#pending.count > 0) {
      this.#writer.beginSection({ ...this.#section, kind: 'part' });
      await this.#sendPages(performance.now() + PART_MS);
      this.#writer.endSection();
    }
    if (!this.#fitsDowntime) return false;
    await this.#addDirty();
    return this.#fitsDowntime;
  }

  /**
   * Write the END of the section: the rest of the memory, without `maxBandwidth`. The guest must have been
   * stopped.
   *
   * @throws {QemuFileError} (rejects) as `iterate`.
   * @see QEMU `ram_save_complete`
   */
  async complete(): Promise<void> {
    this.#advance('complete', 'iterating', 'complete');
    const { file } = this.#writer;
    const { maxBandwidth } = file;
    await this.#addDirty();
    this.#writer.beginSection({ ...this.#section, kind: 'end' });
    // As in QEMU, the limit does not apply any more, because the guest stands still.
    if (maxBandwidth > 0) file.maxBandwidth = 0;
    try {
      await this.#sendPages(Infinity);
    } finally {
      if (maxBandwidth > 0) file.maxBandwidth = maxBandwidth;
    }
    this.#writer.endSection();
  }

  get #remainingBytes(): number {
    return this.#pending.count * (this.#pageSize + WORD_BYTES);
  }

  get #fitsDowntime(): boolean {
    const bytesPerSecond = this.#writer.file.bandwidth;
    return this.#remainingBytes <= (bytesPerSecond * this.#downtimeLimitMs) / 1000;
  }

  /** Begin a round: learn what changed. */
  async #addDirty(): Promise<void> {
    const left = this.#pending.count;
    await this.#pending.addDirty();
    const changed = this.#pending.count - left;
    this.#isShrinking = changed === 0 || changed < this.#changedPages;
    this.#changedPages = changed;
    if (changed > 0) this.#sender.round++;
  }

  /** Send pages until a time, or until none is left. */
  async #sendPages(untilMs: number): Promise<void> {
    const pending = this.#pending;
    const sender = this.#sender;
    // The XBZRLE cache must hold what was sent, whatever a thread of the program writes meanwhile.
    const mustCopy = sender.usesCache;
    while (pending.take(this.#run.maxPages(mustCopy))) {
      const { block, page, run } = pending;
      let isZero = !pending.mayHoldData;
      if (!isZero) {
        const reading = this.#run.load(block, page, run, mustCopy);
        if (reading !== undefined) await reading;
        isZero = this.#run.isZeroRun;
      }
      if (isZero) sender.sendZeros(block, page, run);
      else sender.sendRun(block, page, run);
      const draining = this.#ready();
      if (draining !== undefined) await draining;
      if (performance.now() >= untilMs) return;
    }
  }

  /** Return a promise if the file must drain before it takes more. */
  #ready(): Promise<void> | undefined {
    const signal = this.#signal;
    if (signal?.aborted) throw abortError(signal, 'RamSaver');
    const { file } = this.#writer;
    return file.rateLimitExceeded() ? file.drain({ signal }) : undefined;
  }

  #advance(operation: string, from: string, to: 'iterating' | 'complete'): void {
    if (this.#state !== from) {
      const reason = `it cannot follow in the state "${this.#state}"`;
      throw new QemuFileError('EINVAL', reason, { operation: `RamSaver.${operation}` });
    }
    this.#state = to;
  }
}
