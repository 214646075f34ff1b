import { setTimeout as delay } from 'node:timers/promises';
import { abortError, toQemuFileError } from '../../contract/errors.ts';
import { checkGuest } from '../../migration/saved-guest/check-guest.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { isDamageError } from '../../snapshot/format/damage.ts';
import { noop } from '../../util/noop.ts';
import { queryCapabilities } from '../migration-settings.ts';
import { type DestinationFacts, readDestinationFacts } from '../preflight/destination-facts.ts';
import { PrivateDirectory } from '../private-directory.ts';
import { checkQmp } from '../qmp/check-qmp.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { QmpError } from '../qmp/qmp-error.ts';
import { compareGuest } from './check-lazy.ts';
import { DestinationMemory } from './destination-memory.ts';
import { finishLazily } from './finish-lazily.ts';
import { inferHostPageSize } from './infer-host-page-size.ts';
import type { LazyRestoreOptions, LazyRestoreResult } from './lazy-options.ts';
import { checkAddress, lazyError, PostcopySource, waitingGuest } from './postcopy-source.ts';
import { publishLazily } from './publish-lazily.ts';

const OPERATION = 'recoverLazily';
/** Why QEMU may not answer a source that has one connection. */
const FORGOTTEN_PREEMPT = '; if the restore had --preempt (`preempt`), recover with it as well';
/** Milliseconds that QEMU may take to notice that its source is gone. */
const PAUSE_TIMEOUT_MS = 10_000;
const PAUSE_POLL_MS = 50;
/** Milliseconds that QEMU may take for an answer in the handshake. */
const ANSWER_TIMEOUT_MS = 30_000;
/** Milliseconds that the main thread of QEMU may take, if it is free at all. */
const FACTS_TIMEOUT_MS = 300;

/**
 * Go on with a lazy restore whose source has died, or whose connection broke: the guest is in `postcopy-paused`. What
 * has arrived is not sent again.
 *
 * @param qmp - A client of the QEMU that was connected with `oob`, because QEMU's main thread may wait for a page.
 *   Connect it before the restore: QEMU takes no new client while its main thread waits. It stays open.
 * @param guest - The guest that was being restored, from the same file; it stays open.
 * @param options - As for `restoreLazily`, without `resume` and `keepPaused`. QEMU waits for a second connection if the
 *   restore had `preempt`: give it again, unless QEMU's main thread is free to report it.
 * @returns As `restoreLazily`; `resumeMs` is the time until QEMU went on.
 * @throws {QemuFileError} (rejects) `EINVAL` if QEMU has no lazy restore to go on with, or another guest; `EIO` and
 *   `ECONNRESET` if it fails again; `ETIMEDOUT` if QEMU does not answer; `ECANCELED`; the error of the guest's pages.
 * @see QEMU `qmp_migrate_recover` in migration/migration.c
 */
export async function recoverLazily(
  qmp: QmpClient,
  guest: SavedGuest,
  options: LazyRestoreOptions = {},
): Promise<LazyRestoreResult> {
  checkQmp(OPERATION, qmp);
  checkGuest(OPERATION, 'guest', guest);
  try {
    return await publishLazily(options, (observed) => recover(qmp, guest, observed));
  } catch (error) {
    throw toQemuFileError(error, { operation: OPERATION });
  }
}

async function recover(
  qmp: QmpClient,
  guest: SavedGuest,
  options: LazyRestoreOptions,
): Promise<LazyRestoreResult> {
  const calledAt = performance.now();
  const { signal } = options;
  checkAddress(options.address);
  if (signal?.aborted) throw abortError(signal, OPERATION);
  // QEMU answers these only if its main thread does not wait for a page: nothing depends on it.
  const asked = queryCapabilities(qmp);
  const askedCapabilities = asked.catch(noop);
  const askedFacts = readDestinationFacts(qmp, asked).catch(noop);
  await using directory = PrivateDirectory.create(options.directory);
  const address = options.address ?? `unix:${directory.join('socket')}`;
  await startRecovery(qmp, address, signal);
  const limit = delay(FACTS_TIMEOUT_MS, undefined, { ref: false });
  const capabilities = (await Promise.race([askedCapabilities, limit])) ?? undefined;
  const facts = (await Promise.race([askedFacts, limit])) ?? undefined;
  const preempt = options.preempt ?? capabilities?.['postcopy-preempt'] === true;
  if (facts && options.check !== false) compareGuest(guest, facts);
  const memory = memoryOf(guest, facts);
  await using source = await PostcopySource.connect({
    address,
    guest,
    memory,
    options,
    isRecovery: true,
    endsPreempt: qmp.greeting.version.major < 8,
  });
  try {
    if (preempt) await source.openPreemptChannel();
    await handshake(source, guest, memory, facts !== undefined && facts.blocks !== null);
    source.resumeMs = source.elapsedMs;
    await source.serveToEnd();
  } catch (error) {
    source.break(error as Error);
    const failure = toQemuFileError(error, { operation: OPERATION });
    if (isDamageError(failure)) throw waitingGuest(failure);
    if (failure.code !== 'ETIMEDOUT' || preempt) throw failure;
    throw lazyError('ETIMEDOUT', `${failure.reason}${FORGOTTEN_PREEMPT}`, failure);
  }
  const startMs = source.connectedAt - calledAt;
  return await finishLazily(qmp, source, { startMs, warnings: [] });
}

/** Make QEMU listen for a new source, as soon as it has noticed that the former one is gone. */
async function startRecovery(
  qmp: QmpClient,
  uri: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const deadline = performance.now() + PAUSE_TIMEOUT_MS;
  for (;;) {
    try {
      await qmp.execute('migrate-recover', { uri }, { oob: true, signal });
      return;
    } catch (error) {
      if (!(error instanceof QmpError) || !/postcopy is paused/.test(error.description))
        throw error;
      if (performance.now() > deadline) {
        const reason = `QEMU has no lazy restore to go on with: ${error.description}`;
        throw lazyError('EINVAL', reason, error);
      }
    }
    await delay(PAUSE_POLL_MS, undefined, { signal });
  }
}

/** Return the memory of the destination, with the page sizes that it reported, if it did. */
function memoryOf({ pages }: SavedGuest, facts: DestinationFacts | undefined): DestinationMemory {
  const reported = facts?.blocks ?? null;
  if (reported !== null) return DestinationMemory.of(pages, reported);
  const blocks = pages.blocks.map(({ name, usedLength }) => {
    return { name, usedLength, hostPageSize: pages.pageSize };
  });
  return new DestinationMemory(pages.pageSize, blocks);
}

/** Learn which pages the destination has, and make it go on. */
async function handshake(
  source: PostcopySource,
  { ram }: SavedGuest,
  memory: DestinationMemory,
  isReported: boolean,
): Promise<void> {
  const { writer, listener } = source;
  const limits = { timeoutMs: ANSWER_TIMEOUT_MS };
  const received: Uint8Array[] = [];
  for (const { name } of memory.blocks) {
    writer.command({ name: 'RECV_BITMAP', block: name });
    await writer.file.flush();
    received.push(await listener.bitmap(name, limits));
  }
  writer.command({ name: 'POSTCOPY_RESUME' });
  await writer.file.flush();
  await listener.resumed(limits);
  writer.beginSection({ kind: 'part', name: 'ram', ...ram });
  const sizes = memory.blocks.map(({ usedLength, hostPageSize }, index) =>
    isReported
      ? hostPageSize
      : inferHostPageSize(usedLength, received[index] as Uint8Array, memory.pageSize),
  );
  source.startServing(sizes, Promise.resolve(), received);
}
