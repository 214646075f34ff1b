import { type Listener, listenSocket } from '../../../adapters/socket/listen/listen.ts';
import { checkMethods } from '../../contract/argument-error.ts';
import { channels } from '../../contract/diagnostics-channels.ts';
import { abortError, QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { onAbort, waitForPromise } from '../../contract/wait-for.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { relay } from '../../relay/relay.ts';
import type { RelayFailure, RelayResult } from '../../relay/relay-types.ts';
import { noop } from '../../util/noop.ts';
import { checkSaveable, suppressesDescription } from '../machine-checks.ts';
import { type ChangedSettings, changeSettings } from '../migration-settings.ts';
import { type MigrationInfo, MigrationWatch } from '../migration-watch.ts';
import { PrivateDirectory } from '../private-directory.ts';
import { publishSteps } from '../publish.ts';
import { checkQmp } from '../qmp/check-qmp.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { resumeAfterFailure, runStateAfterSave } from './guest-run-state.ts';
import { mappedRamSink } from './mapped-ram-sink.ts';
import { SaveCheck } from './save-check.ts';
import { SaveConnection } from './save-connection.ts';
import { migrationError, notCompletedError, unreachableError } from './save-errors.ts';
import { optionProblem, SAVE_SETTINGS, type SaveOptions, type SaveResult } from './save-options.ts';
import { sinkFile, type VmSink } from './sink.ts';

/*
 *   QEMU ── private unix socket ──► relay, with a check ──► compressor ──► sink
 *    ▲                                                                      │
 *    └────────── SHUT 0 on the return path, once the sink is durable ◄──────┘
 *
 * With its capability `return-path`, QEMU does not complete a migration before the destination confirms it.
 * Here the confirmation is sent after the sink was closed: a file is then synced and has its name. Until then
 * QEMU keeps the guest, and resumes it if anything fails, this process included.
 */

/** Milliseconds that QEMU may take to end a migration whose stream has ended. */
const END_TIMEOUT_MS = 30_000;
/** Milliseconds that QEMU may still take to connect after the save was aborted. */
const CONNECT_GRACE_MS = 2000;

/**
 * Save a guest: migrate its QEMU into a sink, all or nothing. Either the sink receives the whole, sound stream and
 * is closed, and QEMU completes its migration; or the sink is destroyed (so that no file appears), QEMU's
 * migration is cancelled, and the guest continues as before, running or stopped. QEMU completes only after the
 * sink was closed, so the guest also continues if this process is killed. The migration settings of QEMU are set
 * back, unless this process is killed or QEMU cannot be reached any more.
 *
 * QEMU connects to a socket in a private directory, so it must run as the same user or as root.
 *
 * @param qmp - A client of the QEMU; it stays open.
 * @param sink - A file as `openTo` returns it, or any Writable; `saveVm` closes or destroys it. The sink must
 *   store the stream: if it leads to another QEMU, the answer of that QEMU is not read, so use `relay` instead.
 * @param options - See `SaveOptions`.
 * @returns Bytes, seconds, run state, manifest, index and warnings; see `SaveResult`.
 * @throws {QemuFileError} (rejects) `EINVAL` for a manifest or an index without the check, or an index of a compressed
 *   stream, or these with the layout mapped-ram; `ESPIPE` for that layout if the sink cannot seek; `EBUSY` if the run state does not
 *   allow a save or a migration is in progress; `ENOTSUP` if QEMU cannot migrate this guest; `EIO` if its migration
 *   fails, with its own reason; `ECONNRESET` if QEMU ends; `ETIMEDOUT` if it does not answer; `ECANCELED` if the
 *   signal aborts or another client cancels; the error of the sink. {MigrationStreamError} if the stream is not
 *   sound. {QmpError} for a command that QEMU refuses.
 *
 * @example
 * ```js
 * await using qmp = await QmpClient.connect('/run/vm.qmp');
 * const { bytes } = await saveVm(qmp, await openTo('file:/var/lib/vm.mig'));
 * await qmp.execute('quit');
 * ```
 */
export function saveVm(
  qmp: QmpClient,
  sink: VmSink,
  options: SaveOptions = {},
): Promise<SaveResult> {
  return publishSteps(channels.vmSave, options, (observed) => saveInto(qmp, sink, observed));
}

const SINK = { methods: ['on', 'write', 'destroy'], allowed: 'a QemuFile or a Writable' };

async function saveInto(qmp: QmpClient, sink: VmSink, options: SaveOptions): Promise<SaveResult> {
  checkQmp('saveVm', qmp);
  checkMethods('saveVm', 'sink', SINK, sink);
  // `saveVm` rejects with the error of the sink; without a listener it would end the process.
  sink.on('error', noop);
  let to: QemuFile | undefined;
  try {
    to = await sinkFile(sink, options.compress);
    const problem = optionProblem(options);
    if (problem !== null) throw new QemuFileError('EINVAL', problem, { operation: 'saveVm' });
    if (options.layout === 'mapped-ram') to = mappedRamSink(to);
    to.maxBandwidth = options.maxBandwidth ?? to.maxBandwidth;
    return await new Save(qmp, to, options).run();
  } catch (error) {
    const failure = toQemuFileError(error, { operation: 'saveVm' });
    // This does not undo a sink that was already closed.
    (to ?? sink).destroy(failure);
    await to?.close().catch(noop);
    throw failure;
  }
}

class Save {
  readonly #qmp: QmpClient;
  readonly #to: QemuFile;
  readonly #options: SaveOptions;
  readonly #warnings: string[] = [];
  /** Ends the relay; aborts with the caller's signal and when QEMU cannot be reached any more. */
  readonly #stop = new AbortController();
  #unreachable: QemuFileError | undefined;

  constructor(qmp: QmpClient, to: QemuFile, options: SaveOptions) {
    this.#qmp = qmp;
    this.#to = to;
    this.#options = options;
  }

  async run(): Promise<SaveResult> {
    const { signal, pause, check, index, layout } = this.#options;
    const qmp = this.#qmp;
    this.#checkSignal();
    const before = await checkSaveable(qmp);
    const stopFollowing = onAbort(signal, () => this.#stop.abort(signal?.reason));
    let settings: ChangedSettings | undefined;
    try {
      // Only the check of a stream with a VM description knows when to confirm it.
      const canConfirm = check !== false && !(await suppressesDescription(qmp));
      settings = await changeSettings(qmp, {
        ...SAVE_SETTINGS,
        capabilities: {
          ...SAVE_SETTINGS.capabilities,
          'return-path': canConfirm,
          ...(index === true || layout === 'mapped-ram' ? { xbzrle: false } : {}),
        },
      });
      if (pause === true && before.running) await qmp.execute('stop');
      const result = await this.#migrate(settings.has('return-path'));
      return { ...result, status: await runStateAfterSave(qmp, this.#options, this.#warnings) };
    } catch (error) {
      const cause = toQemuFileError(error, { operation: 'saveVm' });
      await resumeAfterFailure(qmp, this.#options, before.running, cause);
      throw error;
    } finally {
      stopFollowing();
      await settings?.restore().catch((error: Error) => {
        this.#warnings.push(`could not restore QEMU's migration settings: ${error.message}`);
      });
    }
  }

  async #migrate(hasReturnPath: boolean): Promise<Omit<SaveResult, 'status'>> {
    const qmp = this.#qmp;
    await using directory = PrivateDirectory.create(this.#options.directory);
    const path = directory.join('socket');
    await using listener = await listenSocket({ path });
    this.#checkSignal();
    await qmp.execute('migrate', { uri: `unix:${path}` });
    using watch = new MigrationWatch(qmp, this.#options.onProgress);
    watch.ended.catch((error: unknown) => {
      this.#unreachable = unreachableError(toQemuFileError(error));
      this.#stop.abort(error);
    });
    let connection: SaveConnection | undefined;
    try {
      connection = new SaveConnection(await this.#accept(listener, watch));
      await listener.close();
      const saveCheck = new SaveCheck(connection, watch, this.#to, {
        ...this.#options,
        hasReturnPath,
      });
      const result = await relay(connection.file, this.#to, {
        check: (stream) => saveCheck.run(stream),
        signal: saveCheck.untilAccepted(this.#stop.signal),
      });
      if (result.failure !== null) throw await this.#rootCause(result.failure, connection, watch);
      if (hasReturnPath) await this.#confirm(connection, watch);
      await connection.close();
      return this.#result(result, saveCheck);
    } catch (error) {
      // Cancel before the connection is closed: a cancelled migration has not failed.
      await this.#cancel(watch, connection);
      await connection?.close(error as Error);
      throw error;
    }
  }

  /** Wait for QEMU to connect, and a moment longer if the save is aborted: see `#cancel`. */
  async #accept(listener: Listener, watch: MigrationWatch): ReturnType<Listener['accept']> {
    const { signal } = this.#stop;
    const grace = new AbortController();
    let timer: NodeJS.Timeout | undefined;
    const startGrace = (): void => {
      timer = setTimeout(() => grace.abort(signal.reason), CONNECT_GRACE_MS);
    };
    const stopFollowing = onAbort(signal, startGrace);
    if (signal.aborted) startGrace();
    const accepted = listener.accept({ signal: grace.signal });
    accepted.catch(noop);
    const ended = watch.ended.then((info) => {
      throw migrationError(info);
    });
    try {
      return await Promise.race([accepted, ended]);
    } catch (error) {
      throw this.#unreachable ?? (signal.aborted ? abortError(signal, 'saveVm') : error);
    } finally {
      clearTimeout(timer);
      stopFollowing();
    }
  }

  /** Confirm to QEMU that the sink has stored the stream, and wait until QEMU completes its migration. */
  async #confirm(connection: SaveConnection, watch: MigrationWatch): Promise<void> {
    try {
      await connection.sendShut();
      const info = await this.#waitForEnd(watch.ended);
      if (info.status !== 'completed') throw migrationError(info);
    } catch (error) {
      throw notCompletedError(toQemuFileError(error));
    }
  }

  /** Return why a relay failed. If QEMU's migration failed first, that is the cause. */
  async #rootCause(
    { end, error }: RelayFailure,
    connection: SaveConnection,
    watch: MigrationWatch,
  ): Promise<QemuFileError> {
    if (end === null) return this.#unreachable ?? abortError(this.#stop.signal, 'saveVm');
    if (end !== 'from' || !connection.isClosed) return error;
    try {
      const info = await this.#waitForEnd(watch.ended);
      return info.status === 'completed' ? error : migrationError(info, error);
    } catch (failure) {
      return this.#unreachable ?? (failure as QemuFileError);
    }
  }

  #waitForEnd<T = MigrationInfo>(end: Promise<T>): Promise<T> {
    const timeoutReason = (): string =>
      `QEMU did not continue its migration within ${END_TIMEOUT_MS} ms`;
    return waitForPromise(end, { timeoutMs: END_TIMEOUT_MS, operation: 'saveVm', timeoutReason });
  }

  /**
   * Cancel the migration, but not before its first bytes: a QEMU 10.0 that is cancelled while it connects
   * forgets that, continues the migration, and may crash.
   */
  async #cancel(watch: MigrationWatch, connection: SaveConnection | undefined): Promise<void> {
    if (watch.end !== undefined || this.#qmp.isClosed) return;
    connection?.discard();
    try {
      if (connection !== undefined) {
        await this.#waitForEnd(Promise.race([connection.started, watch.ended]));
      }
      await this.#qmp.execute('migrate_cancel');
      await this.#waitForEnd(watch.ended);
    } catch {
      // The migration fails when its connection is closed.
    }
  }

  #result(
    result: RelayResult,
    { manifest, index, warnings }: SaveCheck,
  ): Omit<SaveResult, 'status'> {
    this.#warnings.push(...warnings);
    const { forward, seconds, limitedSeconds } = result;
    return {
      bytes: forward.bytes,
      seconds,
      limitedSeconds,
      manifest,
      index,
      warnings: this.#warnings,
    };
  }

  #checkSignal(): void {
    const { signal } = this.#options;
    if (signal?.aborted) throw abortError(signal, 'saveVm');
  }
}
