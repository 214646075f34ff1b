import type { Socket } from 'node:net';
import { connectSocket } from '../../../adapters/socket/connect.ts';
import { socketOps } from '../../../adapters/socket/socket.ts';
import { channels } from '../../contract/diagnostics-channels.ts';
import { abortError, QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { MAX_TIMER_MS, onAbort } from '../../contract/wait-for.ts';
import type { Unwrapped } from '../../migration/containers/unwrap.ts';
import { openSavedGuest } from '../../migration/saved-guest/open-saved-guest.ts';
import { reopenSound } from '../../migration/verify/sound-streams.ts';
import { verifyStream } from '../../migration/verify/verify.ts';
import { checkFile } from '../../qemu-file/check-file.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { relay } from '../../relay/relay.ts';
import { noop } from '../../util/noop.ts';
import type { ReopenedInput } from '../decompress.ts';
import { checkWaiting } from '../machine-checks.ts';
import { changeSettings, restoreSettings } from '../migration-settings.ts';
import { MigrationWatch, settledRunState } from '../migration-watch.ts';
import { readDestinationFacts } from '../preflight/destination-facts.ts';
import { compareWithDestination, type StreamFacts } from '../preflight/preflight.ts';
import { PrivateDirectory } from '../private-directory.ts';
import { publishSteps } from '../publish.ts';
import { checkQmp } from '../qmp/check-qmp.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { holdLastByte } from './hold-last-byte.ts';
import { checkPacked, openPacked, type Sent, sendPacked } from './load-packed.ts';
import { mappedFileUri } from './mapped-file-uri.ts';
import {
  RESTORE_CAPABILITIES,
  type RestoreOptions,
  type RestoreResult,
} from './restore-options.ts';
import { type OpenSource, openRestoreSource } from './restore-source.ts';
import { sequentialStream } from './sequential-stream.ts';
import { startIncoming } from './start-incoming.ts';
import { waitUntilLoaded } from './wait-until-loaded.ts';

/**
 * Restore a guest: make a QEMU that was started with `-incoming defer` load a stream, all or nothing. Either QEMU
 * loads the whole stream, or this rejects and no guest runs: a QEMU whose incoming migration failed cannot load
 * another stream, so it is ended unless it has ended by itself.
 *
 * Afterwards the guest runs if it ran when it was saved, unless QEMU was started with `-S`; see `resume` and
 * `keepPaused`.
 *
 * @param qmp - A client of the QEMU; it stays open.
 * @param source - A file as `openFrom` returns it; `restoreVm` closes it. The stream may be inside anything that
 *   `unwrap` opens. A mapped-ram file must be a regular file that QEMU can open as well.
 * @param options - See `RestoreOptions`.
 * @returns Bytes, seconds, run state and warnings; see `RestoreResult`.
 * @throws {QemuFileError} (rejects) `EINVAL` if QEMU does not wait for a migration, if its machine type or RAM blocks are
 *   not the saved ones, or for options that exclude each other; `EBUSY` if QEMU waits for another migration; `ENOTSUP` for a
 *   mapped-ram file that this QEMU cannot read itself; `EIO` if QEMU does not load the stream, with its own reason,
 *   which QEMU before 9.1 writes only to its standard error; `ETIMEDOUT` if it does not answer; `ECANCELED` if
 *   the signal aborts; the error of the source. {MigrationStreamError} if the source does not contain a sound
 *   stream. {QmpError} for a command that QEMU refuses.
 *
 * @example
 * ```js
 * // qemu-system-x86_64 … -incoming defer -qmp unix:/run/vm.qmp,server=on,wait=off
 * await using qmp = await QmpClient.connect('/run/vm.qmp');
 * const { status } = await restoreVm(qmp, await openFrom('file:/var/lib/vm.mig'));
 * ```
 */
export function restoreVm(
  qmp: QmpClient,
  source: QemuFile,
  options: RestoreOptions = {},
): Promise<RestoreResult> {
  return publishSteps(channels.vmRestore, options, (observed) =>
    restoreFrom(qmp, source, observed),
  );
}

async function restoreFrom(
  qmp: QmpClient,
  source: QemuFile,
  options: RestoreOptions,
): Promise<RestoreResult> {
  checkQmp('restoreVm', qmp);
  checkFile('restoreVm', 'source', source);
  const restore = new Restore(qmp, options);
  try {
    return await restore.run(source);
  } catch (error) {
    throw toQemuFileError(error, { operation: 'restoreVm' });
  } finally {
    await restore.close();
    await source.close().catch(noop);
  }
}

class Restore {
  readonly #qmp: QmpClient;
  readonly #options: RestoreOptions;
  readonly #warnings: string[] = [];
  readonly #startedAt = performance.now();
  /** Why QEMU may not load the stream, by a VM description that may not be the stream's own. */
  #suspicions: string[] = [];
  /** The unwrapped stream; closing it closes the source. */
  #stream: QemuFile | undefined;

  constructor(qmp: QmpClient, options: RestoreOptions) {
    this.#qmp = qmp;
    this.#options = options;
  }

  async run(source: QemuFile): Promise<RestoreResult> {
    const { resume, keepPaused } = this.#options;
    if (resume === true && keepPaused === true) {
      throw restoreError('EINVAL', '`resume` and `keepPaused` exclude each other');
    }
    this.#checkSignal();
    await checkWaiting(this.#qmp);
    const { unwrapped, configuration, facts } = await this.#open(source);
    await this.#preflight(facts);
    const isMapped = configuration?.capabilities.includes('mapped-ram') === true;
    const settings = await changeSettings(this.#qmp, {
      capabilities: { ...RESTORE_CAPABILITIES, 'mapped-ram': isMapped },
      parameters: { 'tls-creds': '' },
    });
    try {
      // While QEMU waits for its guest, `stop` only sets the run state for after the migration.
      if (keepPaused === true) await this.#qmp.execute('stop');
      this.#checkSignal();
      const moved = await this.#move(unwrapped, isMapped, settings.has('mapped-ram'));
      return { ...moved, status: await this.#finalRunState() };
    } finally {
      await restoreSettings(this.#qmp, settings, this.#warnings);
    }
  }

  async #move(
    unwrapped: Unwrapped,
    isMapped: boolean,
    canMap: boolean,
  ): Promise<Omit<RestoreResult, 'status'>> {
    if (isMapped) return canMap ? this.#loadFile(unwrapped) : this.#loadRewritten(unwrapped);
    const { maxBandwidth = 0 } = this.#options;
    const input = maxBandwidth > 0 ? undefined : await openPacked(unwrapped.file);
    if (input === undefined) return this.#loadStream(unwrapped.file);
    await unwrapped.file.close().catch(noop);
    return this.#loadPacked(input);
  }

  /** Send a mapped-ram file to a QEMU before 9.0 as a sequential stream. */
  async #loadRewritten(unwrapped: Unwrapped): Promise<Omit<RestoreResult, 'status'>> {
    const { signal } = this.#options;
    const guest = await openSavedGuest(unwrapped, { signal });
    const stream = sequentialStream(guest, signal);
    try {
      return await this.#loadStream(stream);
    } finally {
      await stream.close().catch(noop);
      await guest.close();
    }
  }

  /** Close the source. */
  async close(): Promise<void> {
    await this.#stream?.close().catch(noop);
  }

  /** Find the stream in the source and read its start; an abort destroys the source. */
  async #open(source: QemuFile): Promise<OpenSource> {
    const { signal, snapshot } = this.#options;
    const stopFollowing = onAbort(signal, () => {
      source.destroy(abortError(signal as AbortSignal, 'restoreVm'));
    });
    try {
      const open = await openRestoreSource(source, snapshot);
      this.#stream = open.unwrapped.file;
      return open;
    } finally {
      stopFollowing();
    }
  }

  /**
   * Compare the stream with QEMU before anything is touched. Differences that QEMU itself would find only after
   * it has begun to load, and could then not load another stream, fail here.
   */
  async #preflight(facts: StreamFacts): Promise<void> {
    const destination = await readDestinationFacts(this.#qmp);
    const { problems, warnings } = compareWithDestination(facts, destination);
    const isCertain = (kind: string): boolean =>
      kind === 'machine' || (kind === 'ram-block' && this.#options.check !== false);
    const certain = problems.filter(({ kind }) => isCertain(kind));
    if (certain.length > 0) {
      throw restoreError('EINVAL', certain.map(({ message }) => message).join('; '));
    }
    this.#warnings.push(...warnings);
    // A description at the end of a file that was used before may be that of another stream.
    this.#suspicions = problems.map(({ message }) => message);
  }

  /** Send QEMU a stream, and check it meanwhile; a sound one only if QEMU does not load it. */
  async #loadStream(stream: QemuFile): Promise<Omit<RestoreResult, 'status'>> {
    const { check, signal } = this.#options;
    const again = check === false ? undefined : reopenSound(stream);
    const stopFollowing = onAbort(signal, () => {
      again?.destroy(abortError(signal as AbortSignal, 'restoreVm'));
    });
    let wasSent = false;
    try {
      return await this.#load(async (socket, stop) => {
        const isChecked = check !== false && again === undefined;
        const sent = await this.#relay(stream, socket, stop, isChecked);
        wasSent = sent.failure?.end !== 'from';
        return sent;
      });
    } catch (error) {
      if (again !== undefined && wasSent && signal?.aborted !== true) await this.#check(again);
      throw error;
    } finally {
      stopFollowing();
      await again?.close().catch(noop);
    }
  }

  async #relay(
    stream: QemuFile,
    socket: Socket,
    signal: AbortSignal,
    isChecked: boolean,
  ): Promise<Sent> {
    const { maxBandwidth } = this.#options;
    const ops = socketOps(socket);
    // A source with a return path may end only after QEMU has loaded all.
    const isHeld = isChecked && !stream.isWritable();
    const to = new QemuFile(isHeld ? holdLastByte(ops, () => this.#quitQemu()) : ops, {
      maxBandwidth,
    });
    const { forward, limitedSeconds, failure } = await relay(stream, to, {
      check: isChecked ? (bytes) => this.#check(bytes) : undefined,
      signal,
      // QEMU may take any time to load what it has received.
      lingerMs: MAX_TIMER_MS,
    });
    return { bytes: forward.bytes, limitedSeconds, failure };
  }

  /** Have the program that decompresses a file send it to QEMU, and check the file only if that fails. */
  async #loadPacked(input: ReopenedInput): Promise<Omit<RestoreResult, 'status'>> {
    const { check, signal } = this.#options;
    let wasSent = false;
    try {
      return await this.#load(async (socket, stop) => {
        wasSent = true;
        const sent = await sendPacked(input, socket, stop);
        // QEMU may have loaded wrong memory: the program compares the checksum at the end.
        if (sent.failure?.end === 'from' && check !== false) throw sent.failure.error;
        return sent;
      });
    } catch (error) {
      if (wasSent && check !== false && signal?.aborted !== true) {
        await checkPacked(input, (file) => this.#check(file), signal);
      }
      throw error;
    } finally {
      input.close();
    }
  }

  /** Check the stream, because the reason of a fault is clearer than QEMU's. */
  async #check(stream: QemuFile): Promise<void> {
    const { faults, warnings } = await verifyStream(stream, { withoutDescription: true });
    const [fault] = faults;
    // QEMU may be able to load what this package does not support.
    if (fault !== undefined && fault.fault !== 'unsupported') throw fault;
    this.#warnings.push(...warnings);
  }

  /** Make QEMU load what is sent to a private socket. */
  async #load(
    send: (socket: Socket, signal: AbortSignal) => Promise<Sent>,
  ): Promise<Omit<RestoreResult, 'status'>> {
    const { directory: parent, signal } = this.#options;
    await using directory = PrivateDirectory.create(parent);
    const path = directory.join('socket');
    await startIncoming(this.#qmp, `unix:${path}`);
    using watch = new MigrationWatch(this.#qmp, this.#options.onProgress);
    const stop = new AbortController();
    const stopFollowing = onAbort(signal, () => stop.abort(signal?.reason));
    // A QEMU that was killed or stopped may leave its connection open and silent.
    watch.ended.catch((error: unknown) => stop.abort(error));
    try {
      if (signal?.aborted) stop.abort(signal.reason);
      const socket = await connectSocket({ path }, { signal: stop.signal });
      const { bytes, limitedSeconds, failure } = await send(socket, stop.signal);
      await waitUntilLoaded(watch, failure, {
        signal,
        suspicions: this.#suspicions,
        isChecked: this.#options.check !== false,
      });
      return { bytes, seconds: this.#seconds(), limitedSeconds, warnings: this.#warnings };
    } catch (error) {
      await this.#quitQemu();
      throw signal?.aborted ? abortError(signal, 'restoreVm') : error;
    } finally {
      stopFollowing();
    }
  }

  /** Make QEMU read a file itself, because the offsets in it count from the start of the file. */
  async #loadFile(unwrapped: Unwrapped): Promise<Omit<RestoreResult, 'status'>> {
    await startIncoming(this.#qmp, await mappedFileUri(unwrapped));
    using watch = new MigrationWatch(this.#qmp, this.#options.onProgress);
    try {
      await waitUntilLoaded(watch, null, {
        signal: this.#options.signal,
        suspicions: this.#suspicions,
        isChecked: false,
      });
    } catch (error) {
      await this.#quitQemu();
      throw error;
    }
    return { bytes: null, seconds: this.#seconds(), limitedSeconds: 0, warnings: this.#warnings };
  }

  /** End a QEMU whose incoming migration failed: it has no guest, and cannot load another stream. */
  async #quitQemu(): Promise<void> {
    if (!this.#qmp.isClosed) await this.#qmp.execute('quit').catch(noop);
  }

  async #finalRunState(): Promise<string> {
    const state = await settledRunState(this.#qmp);
    if (this.#options.resume !== true || state.running) return state.status;
    await this.#qmp.execute('cont');
    return (await settledRunState(this.#qmp)).status;
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
  return new QemuFileError(code, reason, { operation: 'restoreVm', cause });
}
