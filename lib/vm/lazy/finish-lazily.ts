import { type MigrationInfo, MigrationWatch, settledRunState } from '../migration-watch.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import type { LazyRestoreResult } from './lazy-options.ts';
import type { PostcopySource } from './postcopy-source.ts';

/** What QEMU counts with the capability `postcopy-blocktime`. */
interface BlockTimes extends MigrationInfo {
  /** Milliseconds. */
  readonly 'postcopy-blocktime'?: number;
  /** Milliseconds. */
  readonly 'postcopy-vcpu-blocktime'?: readonly number[];
}

/** Wait until QEMU has ended its migration after all memory arrived, and return the result of a lazy restore. */
export async function finishLazily(
  qmp: QmpClient,
  source: PostcopySource,
  known: Pick<LazyRestoreResult, 'startMs' | 'warnings'>,
): Promise<LazyRestoreResult> {
  const completeMs = source.elapsedMs;
  using watch = new MigrationWatch(qmp);
  const info: BlockTimes = await watch.ended;
  const { requests, faults, faultMs, pages } = source.stats;
  return {
    ...known,
    bytes: source.writer.position,
    resumeMs: source.resumeMs,
    completeMs,
    requests,
    faults,
    faultMs,
    pages,
    blockedMs: info['postcopy-blocktime'] ?? null,
    blockedCpuMs: info['postcopy-vcpu-blocktime'] ?? null,
    workingSet: source.workingSet,
    status: (await settledRunState(qmp)).status,
  };
}
