import { channels } from '../../contract/diagnostics-channels.ts';
import { publishSteps } from '../publish.ts';
import type { RestoreOptions } from '../restore/restore-options.ts';
import type { LazyProgress, LazyRestoreOptions, LazyRestoreResult } from './lazy-options.ts';

/** Run a lazy restore or a recovery, and publish its start, progress and end. */
export async function publishLazily(
  options: LazyRestoreOptions,
  work: (options: LazyRestoreOptions) => Promise<LazyRestoreResult>,
): Promise<LazyRestoreResult> {
  const observed: Pick<RestoreOptions, 'onProgress'> = {};
  const { result } = await publishSteps(channels.vmRestore, observed, async ({ onProgress }) => {
    const forward = (progress: LazyProgress): void => {
      const { resumeMs, bytes: transferred, total } = progress;
      const status = resumeMs === null ? 'active' : 'postcopy-active';
      onProgress?.({ status, transferred, remaining: total - transferred, total });
      options.onProgress?.(progress);
    };
    const result = await work({ ...options, onProgress: forward });
    const { bytes, startMs, completeMs } = result;
    return { result, bytes, seconds: (startMs + completeMs) / 1000 };
  });
  return result;
}
