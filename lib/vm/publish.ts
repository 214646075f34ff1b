import type { MessageChannel, VmMessage } from '../contract/diagnostics-channels.ts';
import type { MigrationProgress } from './migration-watch.ts';

/** Callbacks while a guest is saved or restored. */
interface Observed {
  onProgress?: ((progress: MigrationProgress) => void) | undefined;
}

/**
 * Run a save or a restore, and publish its start, progress and end. Without a subscriber nothing is added to it.
 *
 * @param options - The caller's; `work` receives them with an `onProgress` that publishes as well.
 */
export async function publishSteps<
  O extends Observed,
  R extends { bytes: number | null; seconds: number },
>(channel: MessageChannel<VmMessage>, options: O, work: (options: O) => Promise<R>): Promise<R> {
  if (!channel.hasSubscribers) return work(options);
  const startedAt = performance.now();
  channel.publish({ phase: 'start' });
  try {
    const result = await work({
      ...options,
      onProgress: (progress: MigrationProgress) => {
        channel.publish({
          phase: 'progress',
          status: progress.status,
          bytes: progress.transferred,
        });
        options.onProgress?.(progress);
      },
    });
    channel.publish({ phase: 'end', bytes: result.bytes ?? undefined, seconds: result.seconds });
    return result;
  } catch (error) {
    const seconds = (performance.now() - startedAt) / 1000;
    channel.publish({ phase: 'end', seconds, error: error as Error });
    throw error;
  }
}
