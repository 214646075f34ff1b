import { QemuFileError } from '../../contract/errors.ts';
import { waitForPromise } from '../../contract/wait-for.ts';
import type { RelayFailure } from '../../relay/relay-types.ts';
import type { MigrationInfo, MigrationWatch } from '../migration-watch.ts';

/** Milliseconds that QEMU may take to end a migration whose stream has broken off. */
const END_TIMEOUT_MS = 30_000;

const operation = 'restoreVm';

interface WaitOptions {
  signal: AbortSignal | undefined;
  /** Why QEMU may not load the stream, as clauses. */
  suspicions: readonly string[];
  /** Whether a fault of the stream counts even if QEMU has loaded it. */
  isChecked: boolean;
}

/**
 * Wait until QEMU has loaded a stream, and throw the reason if it has not.
 *
 * @param failure - Why the stream was not sent completely, or QEMU did not take all of it; null if it did.
 */
export async function waitUntilLoaded(
  watch: MigrationWatch,
  failure: RelayFailure | null,
  { signal, suspicions, isChecked }: WaitOptions,
): Promise<void> {
  const info = await waitForEnd(watch, failure, signal).catch(
    (error: unknown) => error as QemuFileError,
  );
  const isEnd = !(info instanceof Error);
  // After the end of the stream a broken connection does not matter; a fault of its bytes does.
  const isFault = isChecked && failure?.end === 'from' && failure.error.code !== 'ECONNRESET';
  if (isEnd && info.status === 'completed' && !isFault) return;
  const cause = failure?.error;
  if (failure?.end === 'from') throw failure.error;
  const suspected = suspicions.map((message) => `; ${message}`).join('');
  if (isEnd) {
    const detail = info['error-desc'] ?? cause?.message ?? 'it reports no reason';
    const reason = `QEMU did not load the stream: ${detail}${suspected}`;
    throw new QemuFileError('EIO', reason, { operation, cause });
  }
  if (info.code !== 'ECONNRESET') throw info;
  const reason =
    `QEMU ended without loading the stream${suspected}; see its standard error for the reason: start ` +
    "QEMU with 2> FILE, or look into libvirt's /var/log/libvirt/qemu/NAME.log";
  throw new QemuFileError('EIO', reason, { operation, cause: cause ?? info });
}

function waitForEnd(
  watch: MigrationWatch,
  failure: RelayFailure | null,
  signal: AbortSignal | undefined,
): Promise<MigrationInfo> {
  // Loading may take any time, but a stream that broke off ends it soon.
  const limits = failure === null ? { signal } : { timeoutMs: END_TIMEOUT_MS };
  const timeoutReason = (): string => `QEMU did not end its migration within ${END_TIMEOUT_MS} ms`;
  return waitForPromise(watch.ended, { ...limits, operation, timeoutReason });
}
