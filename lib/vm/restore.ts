import { readlink } from 'node:fs/promises';
import { connectSocket, socketOps } from '../../adapters/index.ts';
import { abortError, QemuFileError, toQemuFileError } from '../contract/errors.ts';
import type { Unwrapped } from '../migration/containers/unwrap.ts';
import { verifyStream } from '../migration/verify/verify.ts';
import { QemuFile } from '../qemu-file/qemu-file.ts';
import { type RelayFailure, relay } from '../relay/relay.ts';
import { noop } from '../util/noop.ts';
import { checkMachine, checkWaiting } from './machine-checks.ts';
import { type ChangedSettings, changeSettings } from './migration-settings.ts';
import {
  type MigrationInfo,
  type MigrationProgress,
  MigrationWatch,
  settledRunState,
} from './migration-watch.ts';
import { PrivateDirectory } from './private-directory.ts';
import type { QmpClient } from './qmp/qmp-client.ts';
import { QmpError } from './qmp/qmp-error.ts';
import { MAX_MS, withTimeout } from './qmp/timeout.ts';
import { type OpenSource, openRestoreSource } from './restore-source.ts';

/** How `restoreVm` works. */
export interface RestoreOptions {
  /** Bytes of the stream per second, at most. Default 0: no limit. */
  maxBandwidth?: number | undefined;
  /** Name or id of a snapshot in a qcow2 image. Default: the last one that has VM state. */
  snapshot?: string | undefined;
  /** Has the guest run, also if it was saved while it was stopped, or QEMU was started with `-S`. */
  resume?: boolean | undefined;
  /** Leaves the guest stopped, also if it ran when it was saved. */
  keepPaused?: boolean | undefined;
  /** False: leaves it to QEMU alone to judge the stream. Default true. */
  check?: boolean | undefined;
  /** Where the private directory of the socket is made. Default: the system's directory of temporary files. */
  directory?: string | undefined;
  /** Told now and then how far QEMU is. */
  onProgress?: ((progress: MigrationProgress) => void) | undefined;
  /** Gives up; QEMU's migration fails then. */
  signal?: AbortSignal | undefined;
}

/** What came of a restore. */
export interface RestoreResult {
  /** Bytes of the stream, unpacked; null for a mapped-ram file, which QEMU reads itself. */
  bytes: number | null;
  seconds: number;
  limitedSeconds: number;
  /** The run state that QEMU is in now: `running`, `paused` … */
  status: string;
  /** What a person should know. */
  warnings: string[];
}

const CAPABILITIES: Readonly<Record<string, boolean>> = {
  events: true,
  // All comes in one channel, and as it is.
  multifd: false,
  'postcopy-preempt': false,
  'x-colo': false,
};

/** Milliseconds that QEMU may take to end a migration that has broken off. */
const END_TIMEOUT_MS = 30_000;

/**
 * Restores a guest: has a QEMU that was started with `-incoming defer` load a stream, as one act. Either QEMU
 * has loaded all of it, or this rejects and no guest runs: a QEMU whose migration failed cannot be given another
 * one, and ends, as it does by itself.
 *
 * The guest runs afterwards if it ran when it was saved, unless QEMU was started with `-S`; see `resume` and
 * `keepPaused`.
 *
 * @param qmp - A client of the QEMU's; it stays open.
 * @param source - A file as `openFrom` makes it. Its stream may be wrapped in anything that `unwrap` opens; from
 *   now on `restoreVm` closes it. A mapped-ram file must be a bare file, that QEMU can open, too.
 * @param options - See `RestoreOptions`.
 * @throws {QemuFileError} (rejects) `EINVAL` if QEMU does not wait for a migration, if its machine type is not the
 *   one that was saved, or for options that exclude each other; `EBUSY` if it waits for another one; `ENOTSUP` for
 *   a mapped-ram file that this QEMU cannot read by itself; `EIO` if it does not load the stream, with its own
 *   reason, which QEMU before 9.1 writes to its standard error only; `ETIMEDOUT` if it does not answer; `ECANCELED`
 *   by the signal; what the source fails with. {MigrationStreamError} if there is no sound stream in it. {QmpError}
 *   for any command that QEMU refuses.
 *
 * @example
 * ```js
 * // qemu-system-x86_64 … -incoming defer -qmp unix:/run/vm.qmp,server=on,wait=off
 * await using qmp = await QmpClient.connect('/run/vm.qmp');
 * const { status } = await restoreVm(qmp, await openFrom('file:/var/lib/vm.mig'));
 * ```
 */
export async function restoreVm(
  qmp: QmpClient,
  source: QemuFile,
  options: RestoreOptions = {},
): Promise<RestoreResult> {
  const restoring = new Restoring(qmp, options);
  try {
    return await restoring.run(source);
  } catch (error) {
    throw toQemuFileError(error, { operation: 'restoreVm' });
  } finally {
    await restoring.close();
    await source.close().catch(noop);
  }
}

class Restoring {
  readonly #qmp: QmpClient;
  readonly #options: RestoreOptions;
  readonly #warnings: string[] = [];
  readonly #startedAt = performance.now();
  /** What closes the source, once that is another file. */
  #stream: QemuFile | undefined;

  constructor(qmp: QmpClient, options: RestoreOptions) {
    this.#qmp = qmp;
    this.#options = options;
  }

  async run(source: QemuFile): Promise<RestoreResult> {
    const { resume, keepPaused } = this.#options;
    if (resume === true && keepPaused === true) {
      throw restoreError('EINVAL', 'resume and keepPaused exclude each other');
    }
    this.#checkSignal();
    await checkWaiting(this.#qmp);
    const { unwrapped, configuration } = await this.#open(source);
    if (configuration !== null) await checkMachine(this.#qmp, configuration);
    const isMapped = configuration?.capabilities.includes('mapped-ram') === true;
    const settings = await changeSettings(this.#qmp, {
      capabilities: { ...CAPABILITIES, 'mapped-ram': isMapped },
      parameters: { 'tls-creds': '' },
    });
    try {
      if (isMapped && !settings.has('mapped-ram')) {
        const reason =
          'it is a mapped-ram file, and this QEMU knows no such: QEMU 9.0 and later do';
        throw restoreError('ENOTSUP', reason);
      }
      // While QEMU waits for its guest, this only tells it what is to become of that.
      if (keepPaused === true) await this.#qmp.execute('stop');
      this.#checkSignal();
      const moved = isMapped ? await this.#loadFile(unwrapped) : await this.#load(unwrapped.file);
      return { ...moved, status: await this.#afterwards() };
    } finally {
      await this.#undo(settings);
    }
  }

  /** Closes the source. */
  async close(): Promise<void> {
    await this.#stream?.close().catch(noop);
  }

  /** Finds the stream in the source, and looks at its start; the signal ends the wait for that. */
  async #open(source: QemuFile): Promise<OpenSource> {
    const { signal, snapshot } = this.#options;
    const onAbort = (): void => void source.destroy(abortError(signal as AbortSignal, 'restoreVm'));
    signal?.addEventListener('abort', onAbort);
    try {
      const open = await openRestoreSource(source, snapshot);
      this.#stream = open.unwrapped.file;
      return open;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Gives QEMU the stream. */
  async #load(stream: QemuFile): Promise<Omit<RestoreResult, 'status'>> {
    const { directory: parent, signal, maxBandwidth = 0 } = this.#options;
    await using directory = await PrivateDirectory.make(parent);
    const path = directory.join('socket');
    await this.#begin(`unix:${path}`);
    using watch = new MigrationWatch(this.#qmp, this.#options.onProgress);
    const stop = new AbortController();
    const onAbort = (): void => stop.abort(signal?.reason);
    signal?.addEventListener('abort', onAbort);
    // A QEMU that has gone may leave nothing but silence, if it was stopped for good.
    watch.ended.catch((error: unknown) => stop.abort(error));
    try {
      if (signal?.aborted) onAbort();
      const to = new QemuFile(socketOps(await connectSocket({ path }, { signal: stop.signal })), {
        maxBandwidth,
      });
      const { forward, limitedSeconds, failure } = await relay(stream, to, {
        check: this.#options.check === false ? undefined : (bytes) => this.#check(bytes),
        signal: stop.signal,
        // As long as QEMU takes to load what it has got.
        lingerMs: MAX_MS,
      });
      await this.#loaded(watch, failure);
      const { bytes } = forward;
      return { bytes, seconds: this.#seconds(), limitedSeconds, warnings: this.#warnings };
    } catch (error) {
      await this.#giveUp();
      throw signal?.aborted ? abortError(signal, 'restoreVm') : error;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Has QEMU read a file by itself, at the offsets that are in it. */
  async #loadFile(unwrapped: Unwrapped): Promise<Omit<RestoreResult, 'status'>> {
    const { file, fileOffset, containers } = unwrapped;
    const fd = file.getFd();
    if (containers.length > 0 || fd < 0) {
      const reason = 'a mapped-ram file is read by QEMU itself: unpack it into a file first';
      throw restoreError('ENOTSUP', reason);
    }
    const path = await readlink(`/proc/self/fd/${fd}`);
    if (path.includes(',offset=')) {
      // Another file, and maybe there.
      const reason = `QEMU would take a part of the file's name for an offset: ${path}`;
      throw restoreError('ENOTSUP', reason);
    }
    const offset = fileOffset === 0 ? '' : `,offset=${fileOffset}`;
    await this.#begin(`file:${path}${offset}`);
    using watch = new MigrationWatch(this.#qmp, this.#options.onProgress);
    try {
      await this.#loaded(watch, null);
    } catch (error) {
      await this.#giveUp();
      throw error;
    }
    return { bytes: null, seconds: this.#seconds(), limitedSeconds: 0, warnings: this.#warnings };
  }

  async #begin(uri: string): Promise<void> {
    try {
      // So that it lives long enough to give its reason.
      await this.#qmp.execute('migrate-incoming', { uri, 'exit-on-error': false });
    } catch (error) {
      const isUnknown = error instanceof QmpError && error.description.includes('exit-on-error');
      if (!isUnknown) throw error;
      await this.#qmp.execute('migrate-incoming', { uri });
    }
  }

  /** Reads along: says what is wrong with a stream better than QEMU does. */
  async #check(bytes: AsyncIterable<Uint8Array>): Promise<void> {
    const { faults, warnings } = await verifyStream(bytes, { withoutDescription: true });
    const [fault] = faults;
    // What is not known here QEMU may know.
    if (fault !== undefined && fault.fault !== 'unsupported') throw fault;
    this.#warnings.push(...warnings);
  }

  /** Waits until QEMU has loaded the stream; if it has not, tells why. */
  async #loaded(watch: MigrationWatch, failure: RelayFailure | null): Promise<void> {
    const info = await this.#end(watch, failure).catch((error: unknown) => error as QemuFileError);
    const isEnd = !(info instanceof Error);
    // It has decided: what was behind the stream, say, does not matter.
    if (isEnd && info.status === 'completed') return;
    const cause = failure?.error;
    if (failure?.end === 'from') throw failure.error;
    if (isEnd) {
      const why = info['error-desc'] ?? cause?.message ?? 'it gives no reason';
      throw restoreError('EIO', `QEMU did not load the stream: ${why}`, cause);
    }
    if (info.code !== 'ECONNRESET') throw info;
    const reason = 'QEMU did not load the stream, and ended: its standard error tells why';
    throw restoreError('EIO', reason, cause ?? info);
  }

  #end(watch: MigrationWatch, failure: RelayFailure | null): Promise<MigrationInfo> {
    const { signal } = this.#options;
    // A load takes its time; what has broken off does not.
    const patience = failure === null ? { signal } : { timeoutMs: END_TIMEOUT_MS };
    const tooLate = (): string => `QEMU did not end its migration in ${END_TIMEOUT_MS} ms`;
    return withTimeout(watch.ended, patience, { operation: 'restoreVm', tooLate });
  }

  /** QEMU has no guest, and can get none any more. */
  async #giveUp(): Promise<void> {
    if (!this.#qmp.isClosed) await this.#qmp.execute('quit').catch(noop);
  }

  async #afterwards(): Promise<string> {
    const state = await settledRunState(this.#qmp);
    if (this.#options.resume !== true || state.running) return state.status;
    await this.#qmp.execute('cont');
    return (await settledRunState(this.#qmp)).status;
  }

  async #undo(settings: ChangedSettings): Promise<void> {
    if (this.#qmp.isClosed) return;
    try {
      await settings.restore();
    } catch (error) {
      const { message } = error as Error;
      this.#warnings.push(`QEMU's settings of migration are not as before: ${message}`);
    }
  }

  #seconds(): number {
    return (performance.now() - this.#startedAt) / 1000;
  }

  #checkSignal(): void {
    const { signal } = this.#options;
    if (signal?.aborted) throw abortError(signal, 'restoreVm');
  }
}

function restoreError(code: string, reason: string, cause?: Error): QemuFileError {
  const context = { operation: 'restoreVm', ...(cause === undefined ? {} : { cause }) };
  return new QemuFileError(code, reason, context);
}
