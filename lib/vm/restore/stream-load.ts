import type { Socket } from 'node:net';
import { connectSocket } from '../../../adapters/socket/connect.ts';
import { socketOps } from '../../../adapters/socket/socket.ts';
import { abortError } from '../../contract/errors.ts';
import { MAX_TIMER_MS, onAbort } from '../../contract/wait-for.ts';
import type { Unwrapped } from '../../migration/containers/unwrap.ts';
import { openSavedGuest } from '../../migration/saved-guest/open-saved-guest.ts';
import { reopenSound } from '../../migration/verify/sound-streams.ts';
import { verifyStream } from '../../migration/verify/verify.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { relay } from '../../relay/relay.ts';
import { noop } from '../../util/noop.ts';
import type { ReopenedInput } from '../decompress.ts';
import { MigrationWatch } from '../migration-watch.ts';
import { PrivateDirectory } from '../private-directory.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { holdLastByte } from './hold-last-byte.ts';
import { checkPacked, openPacked, type Sent, sendPacked } from './load-packed.ts';
import { mappedFileUri } from './mapped-file-uri.ts';
import type { RestoreOptions, RestoreResult } from './restore-options.ts';
import { sequentialStream } from './sequential-stream.ts';
import { startIncoming } from './start-incoming.ts';
import { waitUntilLoaded } from './wait-until-loaded.ts';

/** Result of a load. */
type Loaded = Pick<RestoreResult, 'bytes' | 'limitedSeconds' | 'warnings'>;

/**
 * Makes a QEMU load a stream, and checks the stream. A QEMU that does not load all of it is ended: it has no guest,
 * and cannot load another stream.
 */
export class StreamLoad {
  readonly #qmp: QmpClient;
  readonly #options: RestoreOptions;
  readonly #suspicions: readonly string[];
  readonly #warnings: string[] = [];

  /**
   * @param qmp - A client of a QEMU that waits for a migration.
   * @param suspicions - Why QEMU may not load the stream, for the error if it does not.
   */
  constructor(qmp: QmpClient, options: RestoreOptions, suspicions: readonly string[]) {
    this.#qmp = qmp;
    this.#options = options;
    this.#suspicions = suspicions;
  }

  /** Load a stream that QEMU reads front to back. */
  async sequential({ file }: Unwrapped): Promise<Loaded> {
    const { maxBandwidth = 0 } = this.#options;
    const input = maxBandwidth > 0 ? undefined : await openPacked(file);
    if (input === undefined) return this.#loadStream(file);
    await file.close().catch(noop);
    return this.#loadPacked(input);
  }

  /**
   * Load a mapped-ram file.
   *
   * @param canMap - Whether QEMU can read such a file itself, as from 9.0 on.
   */
  mapped(unwrapped: Unwrapped, canMap: boolean): Promise<Loaded> {
    return canMap ? this.#loadFile(unwrapped) : this.#loadRewritten(unwrapped);
  }

  /** Send a mapped-ram file to a QEMU before 9.0 as a sequential stream. */
  async #loadRewritten(unwrapped: Unwrapped): Promise<Loaded> {
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

  /** Send QEMU a stream, and check it meanwhile; a sound one only if QEMU does not load it. */
  async #loadStream(stream: QemuFile): Promise<Loaded> {
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
  async #loadPacked(input: ReopenedInput): Promise<Loaded> {
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
  async #load(send: (socket: Socket, signal: AbortSignal) => Promise<Sent>): Promise<Loaded> {
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
      return { bytes, limitedSeconds, warnings: this.#warnings };
    } catch (error) {
      await this.#quitQemu();
      throw signal?.aborted ? abortError(signal, 'restoreVm') : error;
    } finally {
      stopFollowing();
    }
  }

  /** Make QEMU read a file itself, because the offsets in it count from the start of the file. */
  async #loadFile(unwrapped: Unwrapped): Promise<Loaded> {
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
    return { bytes: null, limitedSeconds: 0, warnings: this.#warnings };
  }

  /** End a QEMU whose incoming migration failed: it has no guest, and cannot load another stream. */
  async #quitQemu(): Promise<void> {
    if (!this.#qmp.isClosed) await this.#qmp.execute('quit').catch(noop);
  }
}
