import { abortError, type QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { checkGuest } from '../../migration/saved-guest/check-guest.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { noop } from '../../util/noop.ts';
import {
  type ChangedSettings,
  changeSettings,
  type KnownSettings,
  restoreSettings,
} from '../migration-settings.ts';
import { queryMigration } from '../migration-watch.ts';
import { PrivateDirectory } from '../private-directory.ts';
import { checkQmp } from '../qmp/check-qmp.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { QmpError } from '../qmp/qmp-error.ts';
import type { QmpEvent } from '../qmp/qmp-events.ts';
import { startIncoming } from '../restore/start-incoming.ts';
import {
  type AskedDestination,
  askDestination,
  checkLazy,
  type LazyDestination,
} from './check-lazy.ts';
import type { DestinationMemory } from './destination-memory.ts';
import { finishLazily } from './finish-lazily.ts';
import type { LazyRestoreOptions, LazyRestoreResult } from './lazy-options.ts';
import { checkAddress, lazyError, PostcopySource, waitingGuest } from './postcopy-source.ts';
import { publishLazily } from './publish-lazily.ts';
import { START_PING } from './return-path-listener.ts';
import { savedRunState } from './saved-run-state.ts';
import { FIRST_PING, writeOpening } from './write-opening.ts';

const OPERATION = 'restoreLazily';
/** Milliseconds that QEMU may take to answer the first command. */
const PONG_LIMITS = { timeoutMs: 30_000 } as const;
/** What QEMU may take to notice a broken connection. */
const LIMITS = { timeoutMs: 5000 } as const;
/** What to do where the kernel denies QEMU the page faults of its guest. */
const USERFAULTFD =
  '; its host must allow it userfaultfd: "sysctl vm.unprivileged_userfaultfd=1", or from QEMU 8.0 on give its user ' +
  'access to /dev/userfaultfd (its group), or restore without --lazy';
/** The capability with which QEMU counts how long the guest waits for pages. */
const COUNTING = { 'postcopy-blocktime': true } as const;
/** QEMU's word for a guest that waits for the rest of its memory. */
const PAUSED = 'postcopy-paused';

/**
 * Restore a guest that runs before its memory has arrived: be the source of a postcopy migration to a QEMU that was
 * started with `-incoming defer`. Pages that the guest touches are sent at once, the others after them. QEMU is told
 * that the memory is complete only when every page with data was sent.
 *
 * @param qmp - A client of the QEMU; it stays open.
 * @param guest - The guest, as `openSavedGuest` returns it; it stays open.
 * @param options - See `LazyRestoreOptions`.
 * @returns When the guest ran, when its memory was complete, and what was asked for; see `LazyRestoreResult`.
 * @throws {QemuFileError} (rejects) `ENOTSUP` if this QEMU, its host or this guest allows no postcopy, with what to
 *   change: nothing was sent then; `EINVAL` if QEMU does not wait for a migration or the guest does not fit it; `EBUSY` if
 *   QEMU waits for another migration; `EIO` if QEMU does not load the guest; `ECONNRESET` if the connection breaks;
 *   `ECANCELED` if the signal aborts; the error of the guest's pages. If the guest ran already, it stays, and the
 *   message says so.
 * @see QEMU `postcopy_start` in migration/migration.c
 *
 * @example
 * ```js
 * await using qmp = await QmpClient.connect('/run/vm.qmp');
 * const guest = await openSavedGuest(await unwrap(await openFrom('file:/var/lib/vm.mig')));
 * const { resumeMs, completeMs } = await restoreLazily(qmp, guest);
 * await guest.close();
 * ```
 */
export async function restoreLazily(
  qmp: QmpClient,
  guest: SavedGuest,
  options: LazyRestoreOptions = {},
): Promise<LazyRestoreResult> {
  checkQmp('restoreLazily', qmp);
  checkGuest('restoreLazily', 'guest', guest);
  return restoreLazilyInto(qmp, guest, options);
}

/**
 * Restore a guest as `restoreLazily` does.
 *
 * @param asked - What the QEMU was asked before, while the guest was opened. Default: it is asked now.
 */
export async function restoreLazilyInto(
  qmp: QmpClient,
  guest: SavedGuest,
  options: LazyRestoreOptions,
  asked?: AskedDestination,
): Promise<LazyRestoreResult> {
  try {
    return await publishLazily(options, (observed) =>
      new LazyRestore(qmp, guest, observed).run(asked),
    );
  } catch (error) {
    throw toQemuFileError(error, { operation: OPERATION });
  }
}

class LazyRestore {
  readonly #qmp: QmpClient;
  readonly #guest: SavedGuest;
  readonly #options: LazyRestoreOptions;
  readonly #warnings: string[] = [];
  readonly #calledAt = performance.now();
  /** Whether the guest has begun to run, and waits for memory that this restore does not send. */
  #isWaiting = false;
  /** Number of QEMU's events before the migration. */
  #eventsBefore = 0;

  constructor(qmp: QmpClient, guest: SavedGuest, options: LazyRestoreOptions) {
    this.#qmp = qmp;
    this.#guest = guest;
    this.#options = options;
  }

  async run(asked: AskedDestination | undefined): Promise<LazyRestoreResult> {
    const { resume, keepPaused, check, signal } = this.#options;
    if (resume === true && keepPaused === true) {
      throw lazyError('EINVAL', '`resume` and `keepPaused` exclude each other');
    }
    checkAddress(this.#options.address);
    if (signal?.aborted) throw abortError(signal, OPERATION);
    this.#guest.pages.readAhead?.(this.#options.prefetch ?? []);
    const answers = asked ?? askDestination(this.#qmp);
    await answers.waiting;
    const destination = await checkLazy(answers, this.#guest, check !== false);
    this.#warnings.push(...destination.warnings);
    const settings = await this.#changeSettings(destination.settings);
    try {
      await this.#setRunState();
      if (signal?.aborted) throw abortError(signal, OPERATION);
      return await this.#connectAndServe(destination);
    } finally {
      // A guest that waits for the rest of its memory needs them, and its QEMU may not answer.
      if (!this.#isWaiting) await restoreSettings(this.#qmp, settings, this.#warnings);
    }
  }

  async #changeSettings(known: Required<KnownSettings>): Promise<ChangedSettings> {
    const { preempt = false, tls } = this.#options;
    if (preempt && known.capabilities['postcopy-preempt'] === undefined) {
      const reason =
        'this QEMU does not have the capability postcopy-preempt; use QEMU 7.1 or later';
      throw lazyError('ENOTSUP', reason);
    }
    const capabilities = {
      events: true,
      'postcopy-ram': true,
      'postcopy-preempt': preempt,
      'x-colo': false,
    };
    const parameters = tls === undefined ? { 'tls-creds': '' } : {};
    try {
      const counting = { ...capabilities, ...COUNTING };
      return await changeSettings(this.#qmp, { capabilities: counting, parameters }, known).catch(
        (error: unknown) => {
          if (!(error instanceof QmpError)) throw error;
          // The kernel may not support this counting. The restore works without it.
          return changeSettings(this.#qmp, { capabilities, parameters }, known);
        },
      );
    } catch (error) {
      if (!(error instanceof QmpError)) throw error;
      const advice = /userfault|not supported|postcopy-ram/i.test(error.description)
        ? USERFAULTFD
        : '';
      throw lazyError('ENOTSUP', `QEMU refuses postcopy: ${error.description}${advice}`, error);
    }
  }

  /** Decide whether the guest runs. While QEMU waits for its guest, `stop` and `cont` only set that. */
  async #setRunState(): Promise<void> {
    const { resume, keepPaused } = this.#options;
    const wasStopped = savedRunState(this.#guest) === 'stopped';
    if (keepPaused === true || (wasStopped && resume !== true)) await this.#qmp.execute('stop');
    else if (resume === true) await this.#qmp.execute('cont');
  }

  async #connectAndServe(destination: LazyDestination): Promise<LazyRestoreResult> {
    const { memory } = destination;
    await using directory = PrivateDirectory.create(this.#options.directory);
    const address = this.#options.address ?? `unix:${directory.join('socket')}`;
    this.#eventsBefore = this.#qmp.eventCount;
    await startIncoming(this.#qmp, address);
    await using source = await this.#connect(address, memory);
    const onEvent = ({ event }: QmpEvent): void => {
      if (event === 'RESUME') source.resumeMs ??= source.elapsedMs;
    };
    this.#qmp.on('event', onEvent);
    try {
      return await this.#serve(destination, source);
    } finally {
      this.#qmp.off('event', onEvent);
    }
  }

  async #connect(address: string, memory: DestinationMemory): Promise<PostcopySource> {
    try {
      return await PostcopySource.connect({
        address,
        guest: this.#guest,
        memory,
        options: this.#options,
        isRecovery: false,
        endsPreempt: this.#isBefore8,
      });
    } catch (error) {
      // QEMU listens for a source, and cannot be made to listen for another.
      await this.#qmp.execute('quit', {}, LIMITS).catch(noop);
      const { code, reason } = toQemuFileError(error, { operation: OPERATION });
      throw lazyError(code, `${reason}; no guest runs, and QEMU was ended`, error as Error);
    }
  }

  async #serve(
    { basePageSize, memory }: LazyDestination,
    source: PostcopySource,
  ): Promise<LazyRestoreResult> {
    const { writer, listener } = source;
    const { preempt = false } = this.#options;
    try {
      // QEMU 7.2 takes the second connection for the preempt channel only if it is there before its own answer.
      if (preempt && this.#isBefore8) await source.openPreemptChannel();
      writeOpening(this.#guest, memory, basePageSize, writer);
      const flushed = writer.file.flush();
      if (preempt && !this.#isBefore8) {
        await listener.pong(FIRST_PING, PONG_LIMITS);
        await source.openPreemptChannel();
      }
      const hostPageSizes = memory.blocks.map(({ hostPageSize }) => hostPageSize);
      source.startServing(hostPageSizes, listener.pong(START_PING));
      await flushed;
      await listener.pong(FIRST_PING, PONG_LIMITS);
      await source.serveToEnd();
    } catch (error) {
      const failure = toQemuFileError(error, { operation: OPERATION });
      source.break(failure);
      throw await this.#failed(failure, source);
    }
    const startMs = source.connectedAt - this.#calledAt;
    return finishLazily(this.#qmp, source, { startMs, warnings: this.#warnings });
  }

  /** Return the error of a restore that failed, with what became of the guest. */
  async #failed(error: QemuFileError, source: PostcopySource): Promise<QemuFileError> {
    const outcome = await this.#outcome();
    if (outcome === PAUSED || outcome === null) {
      this.#isWaiting = true;
      return waitingGuest(error);
    }
    if (this.#qmp.isClosed) {
      const when = source.listener.hasStarted ? 'while the guest ran' : 'before the guest ran';
      const reason = `QEMU ended ${when}: ${error.reason}; see its standard error for the reason`;
      return lazyError('EIO', reason, error);
    }
    const info = await queryMigration(this.#qmp, LIMITS).catch(noop);
    // QEMU cannot load another stream.
    await this.#qmp.execute('quit', {}, LIMITS).catch(noop);
    const said = info?.['error-desc'];
    const reason = `${error.reason}${said === undefined ? '' : `; QEMU reports: ${said}`}; no guest runs, and QEMU was ended`;
    return lazyError(error.code, reason, error);
  }

  /**
   * Wait until QEMU has noticed that the connection broke. Only its event is certain to come: its main thread may
   * wait for a page, and does not answer then.
   *
   * @returns QEMU's word for the state of the migration; null if it does not say.
   */
  async #outcome(): Promise<string | null> {
    try {
      const { data } = await this.#qmp.waitForEvent('MIGRATION', {
        since: this.#eventsBefore,
        matches: ({ data: { status } }) => status === PAUSED || status === 'failed',
        ...LIMITS,
      });
      return String(data.status);
    } catch {
      return this.#qmp.isClosed ? 'failed' : null;
    }
  }

  get #isBefore8(): boolean {
    return this.#qmp.greeting.version.major < 8;
  }
}
