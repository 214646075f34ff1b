import { listenSocket } from '../../adapters/index.ts';
import { abortError, QemuFileError, toQemuFileError } from '../contract/errors.ts';
import type { QemuFile } from '../qemu-file/qemu-file.ts';
import { type RelayFailure, type RelayResult, relay } from '../relay/relay.ts';
import { noop } from '../util/noop.ts';
import { checkSaveable, suppressesDescription } from './machine-checks.ts';
import { type ChangedSettings, changeSettings } from './migration-settings.ts';
import { type MigrationInfo, MigrationWatch, settledRunState } from './migration-watch.ts';
import { PrivateDirectory } from './private-directory.ts';
import type { QmpClient } from './qmp/qmp-client.ts';
import { withTimeout } from './qmp/timeout.ts';
import { SaveCheck } from './save-check.ts';
import { SaveConnection } from './save-connection.ts';
import { SAVE_SETTINGS, type SaveOptions, type SaveResult } from './save-options.ts';
import { sinkFile, type VmSink } from './sink.ts';

/*
 *   QEMU ── private unix socket ──► relay, which reads along ──► compressor ──► sink
 *    ▲                                                                           │
 *    └──────────────── "done" on the return path, once it is durable ◄───────────┘
 *
 * With its capability `return-path` a QEMU is not done before its destination says so. Here that is said
 * when the sink has been closed: a file is then synced, and has its name. Until then QEMU holds the guest,
 * and whatever fails, this process included, has it run on.
 */

/** Milliseconds that QEMU may take to end a migration that is over. */
const END_TIMEOUT_MS = 30_000;
/** Milliseconds that QEMU may take to connect to a save that has been given up. */
const CONNECT_GRACE_MS = 2000;

/**
 * Saves a guest: migrates its QEMU into a sink, as one act. Either the sink gets a whole, sound stream and is
 * closed in order, and QEMU has completed its migration; or the sink is destroyed, so that no file appears,
 * QEMU's migration is cancelled, and the guest goes on as before, running or not. QEMU completes only after the
 * sink was closed; so the guest also goes on if this process is killed. Its settings of migration are then as
 * they were, unless this process is killed or QEMU cannot be reached any more.
 *
 * QEMU connects to a socket in a private directory: it has to be the same user's, or root's.
 *
 * @param qmp - A client of the QEMU's; it stays open.
 * @param sink - A file as `openTo` makes it, or any stream of bytes; from now on `saveVm` closes or destroys it.
 *   It has to keep the stream: what another QEMU at its end says of that is not heard, so use `relay` for one.
 * @param options - See `SaveOptions`.
 * @throws {QemuFileError} (rejects) `EINVAL` for a manifest of what is not checked; `EBUSY` if a migration is under
 *   way or has been; `ENOTSUP` if QEMU cannot migrate this guest; `EIO` if its migration fails, with its own reason;
 *   `ECONNRESET` if it goes away; `ETIMEDOUT` if it does not answer; `ECANCELED` by the signal, or if somebody else
 *   cancels; what the sink fails with. {MigrationStreamError} if the stream is not sound. {QmpError} for any command
 *   that QEMU refuses.
 *
 * @example
 * ```js
 * await using qmp = await QmpClient.connect('/run/vm.qmp');
 * const { bytes } = await saveVm(qmp, await openTo('file:/var/lib/vm.mig'));
 * await qmp.execute('quit');
 * ```
 */
export async function saveVm(
  qmp: QmpClient,
  sink: VmSink,
  options: SaveOptions = {},
): Promise<SaveResult> {
  // An error that nobody listens to must not end the process: it is in what this rejects with.
  sink.on('error', noop);
  let to: QemuFile | undefined;
  try {
    to = sinkFile(sink, options.compress);
    if (options.check === false && options.manifest === true) {
      const reason = 'there is no manifest of a stream that is not checked';
      throw new QemuFileError('EINVAL', reason, { operation: 'saveVm' });
    }
    to.maxBandwidth = options.maxBandwidth ?? to.maxBandwidth;
    return await new Saving(qmp, to, options).run();
  } catch (error) {
    const failure = toQemuFileError(error, { operation: 'saveVm' });
    // What was closed in order is not undone by that.
    (to ?? sink).destroy(failure);
    await to?.close().catch(noop);
    throw failure;
  }
}

class Saving {
  readonly #qmp: QmpClient;
  readonly #to: QemuFile;
  readonly #options: SaveOptions;
  readonly #warnings: string[] = [];
  /** Ends the relay: the caller's signal does, and the loss of QEMU. */
  readonly #stop = new AbortController();
  #lost: QemuFileError | undefined;

  constructor(qmp: QmpClient, to: QemuFile, options: SaveOptions) {
    this.#qmp = qmp;
    this.#to = to;
    this.#options = options;
  }

  async run(): Promise<SaveResult> {
    const { signal, pause, check } = this.#options;
    const qmp = this.#qmp;
    this.#checkSignal();
    const before = await checkSaveable(qmp);
    const onAbort = (): void => this.#stop.abort(signal?.reason);
    signal?.addEventListener('abort', onAbort);
    let settings: ChangedSettings | undefined;
    try {
      // Only who reads along knows when to answer.
      const answers = check !== false && !(await suppressesDescription(qmp));
      settings = await changeSettings(qmp, {
        ...SAVE_SETTINGS,
        capabilities: { ...SAVE_SETTINGS.capabilities, 'return-path': answers },
      });
      if (pause === true && before.running) await qmp.execute('stop');
      const result = await this.#migrate(settings.has('return-path'));
      return { ...result, status: await this.#afterwards() };
    } catch (error) {
      await this.#runOn(before.running, toQemuFileError(error, { operation: 'saveVm' }));
      throw error;
    } finally {
      signal?.removeEventListener('abort', onAbort);
      await settings?.restore().catch((error: Error) => {
        this.#warnings.push(`QEMU's settings of migration are not as before: ${error.message}`);
      });
    }
  }

  async #migrate(answers: boolean): Promise<Omit<SaveResult, 'status'>> {
    const qmp = this.#qmp;
    await using directory = await PrivateDirectory.make(this.#options.directory);
    const path = directory.join('socket');
    await using listener = await listenSocket({ path });
    this.#checkSignal();
    await qmp.execute('migrate', { uri: `unix:${path}` });
    using watch = new MigrationWatch(qmp, this.#options.onProgress);
    watch.ended.catch((error: unknown) => {
      this.#lost = lostError(toQemuFileError(error));
      this.#stop.abort(error);
    });
    let outgoing: SaveConnection | undefined;
    try {
      outgoing = new SaveConnection(await this.#connection(listener, watch));
      await listener.close();
      const saveCheck = new SaveCheck(outgoing, watch, { ...this.#options, answers });
      const result = await relay(outgoing.file, this.#to, {
        check: (stream) => saveCheck.run(stream),
        signal: saveCheck.until(this.#stop.signal),
      });
      if (result.failure !== null) throw await this.#reason(result.failure, outgoing, watch);
      if (answers) await this.#confirm(outgoing, watch);
      await outgoing.close();
      return this.#result(result, saveCheck);
    } catch (error) {
      // First of all in order: a migration that is cancelled has not failed.
      await this.#cancel(watch, outgoing);
      await outgoing?.close(error as Error);
      throw error;
    }
  }

  /** Waits for QEMU to connect, when this is given up a little, too: see `#cancel`. */
  async #connection(
    listener: Awaited<ReturnType<typeof listenSocket>>,
    watch: MigrationWatch,
  ): ReturnType<typeof listener.accept> {
    const { signal } = this.#stop;
    const late = new AbortController();
    let timer: NodeJS.Timeout | undefined;
    const onAbort = (): void => {
      timer = setTimeout(() => late.abort(signal.reason), CONNECT_GRACE_MS);
    };
    signal.addEventListener('abort', onAbort);
    if (signal.aborted) onAbort();
    const accepted = listener.accept({ signal: late.signal });
    accepted.catch(noop);
    const ended = watch.ended.then((info) => {
      throw migrationError(info);
    });
    try {
      return await Promise.race([accepted, ended]);
    } catch (error) {
      throw this.#lost ?? (signal.aborted ? abortError(signal, 'saveVm') : error);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Tells QEMU that the sink has everything, and waits until it has completed. */
  async #confirm(outgoing: SaveConnection, watch: MigrationWatch): Promise<void> {
    try {
      await outgoing.confirm();
      const info = await this.#end(watch);
      if (info.status !== 'completed') throw migrationError(info);
    } catch (error) {
      const cause = toQemuFileError(error);
      const reason =
        `what was saved is whole, but QEMU did not complete its migration (${cause.message}); if its guest ` +
        'runs on, its disks do not belong to what was saved any more';
      throw new QemuFileError(cause.code, reason, { operation: 'saveVm', cause });
    }
  }

  /** Why a relay failed: QEMU may know it better than what came of it. */
  async #reason(
    { end, error }: RelayFailure,
    outgoing: SaveConnection,
    watch: MigrationWatch,
  ): Promise<QemuFileError> {
    if (end === null) return this.#lost ?? abortError(this.#stop.signal, 'saveVm');
    if (end !== 'from' || !outgoing.hasBroken) return error;
    try {
      const info = await this.#end(watch);
      return info.status === 'completed' ? error : migrationError(info, error);
    } catch (failure) {
      return this.#lost ?? (failure as QemuFileError);
    }
  }

  #end(watch: MigrationWatch): Promise<MigrationInfo> {
    return this.#soon(watch.ended);
  }

  #soon<T>(work: Promise<T>): Promise<T> {
    const patience = { timeoutMs: END_TIMEOUT_MS };
    const tooLate = (): string => `QEMU did not go on with its migration in ${END_TIMEOUT_MS} ms`;
    return withTimeout(work, patience, { operation: 'saveVm', tooLate });
  }

  /**
   * Cancels the migration. Not before its first bytes: QEMU 10.0 forgets that it was cancelled while it connects,
   * goes on with the migration, and may crash.
   */
  async #cancel(watch: MigrationWatch, outgoing: SaveConnection | undefined): Promise<void> {
    if (watch.end !== undefined || this.#qmp.isClosed) return;
    outgoing?.discard();
    try {
      if (outgoing !== undefined) await this.#soon(Promise.race([outgoing.begun, watch.ended]));
      await this.#qmp.execute('migrate_cancel');
      await this.#end(watch);
    } catch {
      // It will fail when its connection ends.
    }
  }

  /** After a failure: the guest runs if it did before. */
  async #runOn(wasRunning: boolean, cause: QemuFileError): Promise<void> {
    if (this.#qmp.isClosed) {
      const { signal } = this.#options;
      if (signal?.aborted !== true || cause.cause !== signal.reason) return;
      // Who gave it up would not be told otherwise that QEMU may be gone, too, as by a Ctrl-C for both.
      const reason = `${cause.message}; and QEMU cannot be reached any more`;
      throw new QemuFileError(cause.code, reason, { operation: 'saveVm', cause });
    }
    if (!wasRunning) return;
    try {
      const { status } = await settledRunState(this.#qmp);
      const wasStoppedHere = status === 'paused' && this.#options.pause === true;
      // Anything else, such as an error of its disks, is its own affair.
      if (wasStoppedHere || status === 'postmigrate') await this.#qmp.execute('cont');
    } catch (error) {
      const reason = `${cause.message}; and the guest does not run on: ${(error as Error).message}`;
      throw new QemuFileError(cause.code, reason, { operation: 'saveVm', cause });
    }
  }

  /** After a success: the guest runs if that is wanted. */
  async #afterwards(): Promise<string> {
    try {
      const { status } = await settledRunState(this.#qmp);
      if (this.#options.resume !== true) return status;
      await this.#qmp.execute('cont');
      return (await settledRunState(this.#qmp)).status;
    } catch (error) {
      // Too late to fail: what was saved is there.
      this.#warnings.push(`the guest is saved, but ${(error as Error).message}`);
      return 'unknown';
    }
  }

  #result(result: RelayResult, { manifest, warnings }: SaveCheck): Omit<SaveResult, 'status'> {
    this.#warnings.push(...warnings);
    const { forward, seconds, limitedSeconds } = result;
    return {
      bytes: forward.bytes,
      seconds,
      limitedSeconds,
      manifest,
      warnings: this.#warnings,
    };
  }

  #checkSignal(): void {
    const { signal } = this.#options;
    if (signal?.aborted) throw abortError(signal, 'saveVm');
  }
}

/** The error of a migration that did not complete, in QEMU's own words where it has some. */
function migrationError(info: MigrationInfo, cause?: Error): QemuFileError {
  const context = { operation: 'saveVm', ...(cause === undefined ? {} : { cause }) };
  if (info.status === 'cancelled') {
    return new QemuFileError('ECANCELED', 'somebody cancelled the migration in QEMU', context);
  }
  const why = info['error-desc'] ?? cause?.message ?? 'it gives no reason';
  return new QemuFileError('EIO', `QEMU's migration failed: ${why}`, context);
}

/** The error of a save whose QEMU does not answer any more. */
function lostError(cause: QemuFileError): QemuFileError {
  const reason = `QEMU cannot be reached any more while it is saved: ${cause.message}`;
  return new QemuFileError(cause.code, reason, { operation: 'saveVm', cause });
}
