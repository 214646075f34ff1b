import type { ConnectionOptions } from 'node:tls';

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

/** Result of `restoreLazily`. */
export interface LazyRestoreResult {
  /** Bytes that were sent to QEMU. */
  readonly bytes: number;
  /** Milliseconds from the call to the connection. */
  readonly startMs: number;
  /** Milliseconds from the connection until QEMU reported that the guest runs; null if it is stopped. */
  readonly resumeMs: number | null;
  /** Milliseconds from the connection until QEMU reported that all of the guest's memory is there. */
  readonly completeMs: number;
  /** Requests for pages. */
  readonly requests: number;
  /** QEMU's run state after the restore: `running`, `paused` … */
  readonly status: string;
  /** Clauses for the user about what did not fail the restore. */
  readonly warnings: string[];
}
