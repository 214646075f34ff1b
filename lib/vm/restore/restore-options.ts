import type { MigrationProgress } from '../migration-watch.ts';

/** Options of `restoreVm`. */
export interface RestoreOptions {
  /** Most bytes of the stream per second. Default 0: no limit. */
  maxBandwidth?: number | undefined;
  /** Name or id of a snapshot in a qcow2 image. Default: the last one that has VM state. */
  snapshot?: string | undefined;
  /** Run the guest, even if it was saved while it was stopped or QEMU was started with `-S`. */
  resume?: boolean | undefined;
  /** Leave the guest stopped, even if it ran when it was saved. */
  keepPaused?: boolean | undefined;
  /**
   * False: let only QEMU judge the stream. Default true: the stream is checked while QEMU reads it; that of a snapshot
   * store, and a regular file that the system's `zstd` decompresses into QEMU's socket, only if QEMU does not load it.
   */
  check?: boolean | undefined;
  /** Where to create the private directory of the socket. Default: the system's directory for temporary files. */
  directory?: string | undefined;
  /** Called with QEMU's progress, at each `MIGRATION` event and four times per second. */
  onProgress?: ((progress: MigrationProgress) => void) | undefined;
  /** Aborts the restore; QEMU's migration fails then. */
  signal?: AbortSignal | undefined;
}

/** Result of `restoreVm`. */
export interface RestoreResult {
  /**
   * Bytes of the stream, unpacked; null where they do not pass through this process and are not counted: for a
   * mapped-ram file, which QEMU reads itself, and for a `.zst` file with other bytes after its stream.
   */
  bytes: number | null;
  seconds: number;
  /** Seconds of these during which only `maxBandwidth` held bytes back. */
  limitedSeconds: number;
  /** QEMU's run state after the restore: `running`, `paused` … */
  status: string;
  /** Clauses for the user about what did not fail the restore. */
  warnings: string[];
}

/** The capabilities that a restore needs. All others stay as the user has them. */
export const RESTORE_CAPABILITIES: Readonly<Record<string, boolean>> = {
  events: true,
  // Everything comes in one channel.
  multifd: false,
  'postcopy-preempt': false,
  'x-colo': false,
};
