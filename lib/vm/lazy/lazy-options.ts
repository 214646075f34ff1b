import type { ConnectionOptions } from 'node:tls';
import type { PageRange, PageServerStats } from './page-server/page-server-types.ts';

/** Options of `restoreLazily`. */
export interface LazyRestoreOptions {
  /**
   * Address on which QEMU listens for the migration, `tcp:host:port` or `unix:path`. Default: a unix socket in a
   * private directory.
   */
  address?: string | undefined;
  /** Where to create that directory. Default: the system's directory for temporary files. */
  directory?: string | undefined;
  /** Speak TLS; QEMU must have `tls-creds` for its side. Default: QEMU's `tls-creds` are switched off meanwhile. */
  tls?: ConnectionOptions | undefined;
  /** Run the guest, even if it was saved while it was stopped or QEMU was started with `-S`. */
  resume?: boolean | undefined;
  /** Leave the guest stopped, even if it ran when it was saved. */
  keepPaused?: boolean | undefined;
  /** False: do not compare machine type, RAM blocks and devices with QEMU. Default true. */
  check?: boolean | undefined;
  /** Send the pages that are asked for over a second connection (QEMU 7.2 and later). Default false. */
  preempt?: boolean | undefined;
  /** Most bytes per second of pages that were not asked for. Default 0: no limit. */
  maxBandwidth?: number | undefined;
  /** Pages to send right after the guest's devices: the `workingSet` of an earlier restore. */
  prefetch?: readonly PageRange[] | undefined;
  /**
   * Milliseconds from the start for which only pages are sent that are asked for, or lie around those; they are the
   * `workingSet` of the result. Default 0.
   */
  recordMs?: number | undefined;
  /** False: send only what is asked for; the restore ends when that was all. Default true. */
  background?: boolean | undefined;
  /** Called four times per second with how far the restore is. */
  onProgress?: ((progress: LazyProgress) => void) | undefined;
  /** Aborts the restore. A guest that runs already stays, and waits for `recoverLazily`. */
  signal?: AbortSignal | undefined;
}

/** How far a lazy restore is. */
export interface LazyProgress {
  /** Milliseconds from the connection until the guest ran; null if it does not run yet. */
  readonly resumeMs: number | null;
  /** Bytes of guest memory that were sent. */
  readonly bytes: number;
  /** Bytes of guest memory that are to be sent. */
  readonly total: number;
}

/** Result of `restoreLazily` and `recoverLazily`. */
export interface LazyRestoreResult
  extends Pick<PageServerStats, 'requests' | 'faults' | 'faultMs' | 'pages'> {
  /** Bytes that were sent to QEMU. */
  readonly bytes: number;
  /** Milliseconds from the call to the connection. */
  readonly startMs: number;
  /** Milliseconds from the connection until QEMU reported that the guest runs; null if it is stopped. */
  readonly resumeMs: number | null;
  /** Milliseconds from the connection until QEMU reported that all of the guest's memory is there. */
  readonly completeMs: number;
  /** Milliseconds for which all CPUs of the guest waited for memory at the same time; null if QEMU does not count. */
  readonly blockedMs: number | null;
  /** Milliseconds for which each CPU of the guest waited for memory; null if QEMU does not count. */
  readonly blockedCpuMs: readonly number[] | null;
  /** QEMU's run state after the restore: `running`, `paused` … */
  readonly status: string;
  /** The pages that were sent because of requests in the first `recordMs` milliseconds, in that order. */
  readonly workingSet: readonly PageRange[];
  /** Clauses for the user about what did not fail the restore. */
  readonly warnings: string[];
}
