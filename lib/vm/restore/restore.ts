import { channels } from '../../contract/diagnostics-channels.ts';
import { abortError, QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { onAbort } from '../../contract/wait-for.ts';
import { checkFile } from '../../qemu-file/check-file.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import { checkWaiting } from '../machine-checks.ts';
import { changeSettings, restoreSettings } from '../migration-settings.ts';
import { settledRunState } from '../migration-watch.ts';
import { readDestinationFacts } from '../preflight/destination-facts.ts';
import { compareWithDestination, type StreamFacts } from '../preflight/preflight.ts';
import { publishSteps } from '../publish.ts';
import { checkQmp } from '../qmp/check-qmp.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import {
  RESTORE_CAPABILITIES,
  type RestoreOptions,
  type RestoreResult,
} from './restore-options.ts';
import { type OpenSource, openRestoreSource } from './restore-source.ts';
import { StreamLoad } from './stream-load.ts';

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
    const suspicions = await this.#preflight(facts);
    const isMapped = configuration?.capabilities.includes('mapped-ram') === true;
    const settings = await changeSettings(this.#qmp, {
      capabilities: { ...RESTORE_CAPABILITIES, 'mapped-ram': isMapped },
      parameters: { 'tls-creds': '' },
    });
    try {
      // While QEMU waits for its guest, `stop` only sets the run state for after the migration.
      if (keepPaused === true) await this.#qmp.execute('stop');
      this.#checkSignal();
      const load = new StreamLoad(this.#qmp, this.#options, suspicions);
      const canMap = settings.has('mapped-ram');
      const loaded = await (isMapped ? load.mapped(unwrapped, canMap) : load.sequential(unwrapped));
      this.#warnings.push(...loaded.warnings);
      const seconds = (performance.now() - this.#startedAt) / 1000;
      const status = await this.#finalRunState();
      return { ...loaded, seconds, status, warnings: this.#warnings };
    } finally {
      await restoreSettings(this.#qmp, settings, this.#warnings);
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
   *
   * @returns Why QEMU may not load the stream, by a VM description that may not be the stream's own.
   */
  async #preflight(facts: StreamFacts): Promise<string[]> {
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
    return problems.map(({ message }) => message);
  }

  async #finalRunState(): Promise<string> {
    const state = await settledRunState(this.#qmp);
    if (this.#options.resume !== true || state.running) return state.status;
    await this.#qmp.execute('cont');
    return (await settledRunState(this.#qmp)).status;
  }

  #checkSignal(): void {
    const { signal } = this.#options;
    if (signal?.aborted) throw abortError(signal, 'restoreVm');
  }
}

function restoreError(code: string, reason: string): QemuFileError {
  return new QemuFileError(code, reason, { operation: 'restoreVm' });
}
