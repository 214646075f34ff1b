import { connectSocket, parseUri, type SocketTarget, socketOps } from '../../../adapters/index.ts';
import { abortError, QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { onAbort } from '../../contract/wait-for.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { MigrationWriter } from '../../migration/writer/migration-writer.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import { checkWaiting } from '../machine-checks.ts';
import { type ChangedSettings, changeSettings } from '../migration-settings.ts';
import { MigrationWatch, queryMigration, settledRunState } from '../migration-watch.ts';
import { PrivateDirectory } from '../private-directory.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { QmpError } from '../qmp/qmp-error.ts';
import type { QmpEvent } from '../qmp/qmp-events.ts';
import { startIncoming } from '../restore/start-incoming.ts';
import { checkLazy, type LazyDestination } from './check-lazy.ts';
import type { LazyRestoreOptions, LazyRestoreResult } from './lazy-options.ts';
import { ReturnPathListener } from './return-path-listener.ts';
import { savedRunState } from './saved-run-state.ts';
import { SimplePageServer } from './simple-page-server.ts';
import { writeClosing, writeOpening } from './write-opening.ts';

const OPERATION = 'restoreLazily';
/** Milliseconds that QEMU may take to answer the first command. */
const ANSWER_TIMEOUT_MS = 30_000;
const PROGRESS_MS = 250;

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
  try {
    return await new LazyRestore(qmp, guest, options).run();
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
  #connectedAt = 0;
  #resumeMs: number | null = null;

  constructor(qmp: QmpClient, guest: SavedGuest, options: LazyRestoreOptions) {
    this.#qmp = qmp;
    this.#guest = guest;
    this.#options = options;
  }

  async run(): Promise<LazyRestoreResult> {
    const { resume, keepPaused, check, signal } = this.#options;
    if (resume === true && keepPaused === true) {
      throw lazyError('EINVAL', '`resume` and `keepPaused` exclude each other');
    }
    if (signal?.aborted) throw abortError(signal, OPERATION);
    await checkWaiting(this.#qmp);
    const destination = await checkLazy(this.#qmp, this.#guest, check !== false);
    this.#warnings.push(...destination.warnings);
    const settings = await this.#changeSettings();
    try {
      await this.#setRunState();
      if (signal?.aborted) throw abortError(signal, OPERATION);
      return await this.#connectAndServe(destination);
    } finally {
      await this.#restoreSettings(settings);
    }
  }

  async #changeSettings(): Promise<ChangedSettings> {
    try {
      return await changeSettings(this.#qmp, {
        capabilities: {
          events: true,
          'postcopy-ram': true,
          'postcopy-preempt': false,
          'x-colo': false,
        },
        parameters: this.#options.tls === undefined ? { 'tls-creds': '' } : {},
      });
    } catch (error) {
      if (!(error instanceof QmpError)) throw error;
      throw lazyError('ENOTSUP', `QEMU refuses postcopy: ${error.description}`, error);
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
    await using directory = await PrivateDirectory.create(this.#options.directory);
    const address = this.#options.address ?? `unix:${directory.join('socket')}`;
    await startIncoming(this.#qmp, address);
    this.#qmp.on('event', this.#onEvent);
    try {
      return await this.#serve(destination, targetOf(address));
    } finally {
      this.#qmp.off('event', this.#onEvent);
    }
  }

  async #serve(
    { memory, basePageSize }: LazyDestination,
    target: SocketTarget,
  ): Promise<LazyRestoreResult> {
    const { signal, tls, onProgress } = this.#options;
    const file = new QemuFile(socketOps(await connectSocket(target, { signal, tls })));
    this.#connectedAt = performance.now();
    const stopFollowing = onAbort(signal, () => {
      file.destroy(abortError(signal as AbortSignal, OPERATION));
    });
    const { hasFooters } = this.#guest;
    const writer = new MigrationWriter(file, { hasFooters, pageSize: memory.pageSize });
    const server = new SimplePageServer(this.#guest, memory, writer);
    const listener = new ReturnPathListener(file, memory, server);
    const progress = setInterval(() => {
      onProgress?.({ resumeMs: this.#resumeMs, bytes: server.bytes, total: server.total });
    }, PROGRESS_MS);
    try {
      writeOpening(this.#guest, memory, basePageSize, writer);
      await file.flush();
      await listener.pong(1, { timeoutMs: ANSWER_TIMEOUT_MS });
      await Promise.race([server.run(), listener.shut.then(endedEarly)]);
      writeClosing(this.#guest, writer);
      await file.flush();
      const value = await listener.shut;
      if (value !== 0) {
        throw lazyError('EIO', `QEMU reports that it could not load the guest (SHUT ${value})`);
      }
      const completeMs = this.#sinceConnection();
      const bytes = writer.position;
      await file.close().catch(noop);
      return {
        bytes,
        startMs: this.#connectedAt - this.#calledAt,
        resumeMs: this.#resumeMs,
        completeMs,
        requests: server.requests,
        status: await this.#finalRunState(),
        warnings: this.#warnings,
      };
    } catch (error) {
      const failure = toQemuFileError(error, { operation: OPERATION });
      file.destroy(failure);
      throw await this.#failed(failure, listener.hasStarted);
    } finally {
      clearInterval(progress);
      stopFollowing();
      await file.close().catch(noop);
    }
  }

  /** Return the error of a restore that failed, with what became of the guest. */
  async #failed(error: QemuFileError, hasStarted: boolean): Promise<QemuFileError> {
    if (hasStarted) {
      const reason =
        `${error.reason}; the guest keeps what has arrived and waits for the rest: continue with ` +
        '"qemu-file restore --lazy --recover"';
      return lazyError(error.code, reason, error);
    }
    // QEMU cannot load another stream.
    const info = await queryMigration(this.#qmp, { timeoutMs: 2000 }).catch(() => undefined);
    if (!this.#qmp.isClosed) await this.#qmp.execute('quit', {}, { timeoutMs: 2000 }).catch(noop);
    const said = info?.['error-desc'];
    return said === undefined
      ? error
      : lazyError('EIO', `QEMU did not load the guest: ${said}`, error);
  }

  readonly #onEvent = ({ event }: QmpEvent): void => {
    if (event === 'RESUME' && this.#resumeMs === null) this.#resumeMs = this.#sinceConnection();
  };

  async #finalRunState(): Promise<string> {
    using watch = new MigrationWatch(this.#qmp);
    await watch.ended;
    return (await settledRunState(this.#qmp)).status;
  }

  async #restoreSettings(settings: ChangedSettings): Promise<void> {
    if (this.#qmp.isClosed) return;
    try {
      await settings.restore();
    } catch (error) {
      const { message } = error as Error;
      this.#warnings.push(`could not restore QEMU's migration settings: ${message}`);
    }
  }

  #sinceConnection(): number {
    return performance.now() - this.#connectedAt;
  }
}

function targetOf(address: string): SocketTarget {
  const uri = parseUri(address);
  if (uri.scheme === 'tcp') return { host: uri.host, port: uri.port };
  if (uri.scheme === 'unix') return { path: uri.path };
  throw lazyError(
    'EINVAL',
    `${address}: postcopy needs a connection that goes both ways; give tcp: or unix:`,
  );
}

function endedEarly(value: number): never {
  throw lazyError(
    'EIO',
    `QEMU ended the migration (SHUT ${value}) before all of the guest's memory had arrived`,
  );
}

function lazyError(code: string, reason: string, cause?: Error): QemuFileError {
  return new QemuFileError(code, reason, { operation: OPERATION, cause });
}
