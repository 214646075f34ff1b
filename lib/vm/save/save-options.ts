import type { CompressFormat } from '../../../adapters/compress/compress.ts';
import type { StreamLayout } from '../../migration/guest-writer/guest-writer.ts';
import type { Manifest } from '../../migration/verify/manifest.ts';
import type { MigrationSettings } from '../migration-settings.ts';
import type { MigrationProgress } from '../migration-watch.ts';

/** Options of `saveVm`. */
export interface SaveOptions {
  /**
   * Most bytes of the stream per second. QEMU's own limit is lifted for the save. Default 0: no limit.
   */
  maxBandwidth?: number | undefined;
  /** Format in which the stream is compressed on its way to the sink. Default: none. */
  compress?: CompressFormat | undefined;
  /**
   * `mapped-ram`: each page has a place of its own in the sink, which must be a file that can seek; pages that are
   * sent again overwrite it. Default `sequential`.
   */
  layout?: StreamLayout | undefined;
  /**
   * Stop the guest first, so that memory does not change and is sent only once. The guest is also stopped when
   * it is restored. Default false.
   */
  pause?: boolean | undefined;
  /**
   * Let the guest run on here after it was saved. Default false: it stays stopped, because a guest that runs on
   * writes to its disks, which then no longer match what was saved.
   */
  resume?: boolean | undefined;
  /** Create a manifest of the stream. This takes temporary disk space for guest memory beyond 64 MiB. */
  manifest?: boolean | undefined;
  /**
   * Create an index of the places of the stream's pages, with which a lazy restore starts without a pass over the
   * stream. Pages are then not sent as XBZRLE differences. Default false.
   */
  index?: boolean | undefined;
  /**
   * False: do not read the stream, for one that this package cannot read, and rely on QEMU's word that it is
   * complete. QEMU then completes its migration before the sink is closed. Default true.
   */
  check?: boolean | undefined;
  /** Where to create the private directory of the socket. Default: the system's directory for temporary files. */
  directory?: string | undefined;
  /** Called with QEMU's progress, at each `MIGRATION` event and four times per second. */
  onProgress?: ((progress: MigrationProgress) => void) | undefined;
  /** Cancels the migration; has no effect once the sink is being closed. */
  signal?: AbortSignal | undefined;
}

/** Result of `saveVm`. */
export interface SaveResult {
  /** Bytes of the stream, before compression. */
  bytes: number;
  seconds: number;
  /** Seconds of these during which only `maxBandwidth` held bytes back. */
  limitedSeconds: number;
  /** QEMU's run state after the save: `postmigrate`, or `running` with `resume`. */
  status: string;
  /** Null unless it was requested. */
  manifest: Manifest | null;
  /** The page index, for the option `index` of `openSavedGuest`; null unless it was requested and could be made. */
  index: Uint8Array | null;
  /** Clauses for the user about what did not fail the save. */
  warnings: string[];
}

/** Bytes per second; in effect no limit, and accepted by every QEMU. */
const UNLIMITED = 2 ** 40;
/** The settings that a save needs. All others stay as the user has them. */
export const SAVE_SETTINGS: MigrationSettings = {
  capabilities: {
    events: true,
    // Everything goes through one channel.
    multifd: false,
    'zero-copy-send': false,
    'mapped-ram': false,
    // All pages must be in the stream; no destination can request them later.
    'postcopy-ram': false,
    'postcopy-preempt': false,
    'background-snapshot': false,
    'x-colo': false,
    // The guest may have to run on here.
    'release-ram': false,
    // The stream must contain all memory and load in any QEMU of the version.
    'x-ignore-shared': false,
    compress: false,
    // QEMU would wait for a command to continue.
    'pause-before-switchover': false,
    'switchover-ack': false,
  },
  parameters: {
    'max-bandwidth': UNLIMITED,
    // The socket is private.
    'tls-creds': '',
    mode: 'normal',
  },
};

/** Return why options exclude each other; null if they do not. */
export function optionProblem(options: SaveOptions): string | null {
  const { check, manifest, index, compress, layout } = options;
  if (layout === 'mapped-ram') {
    if (compress !== undefined) return '`layout` mapped-ram and `compress` exclude each other';
    if (manifest === true || index === true) {
      return '`layout` mapped-ram excludes `manifest` and `index`, which describe the stream as it is sent';
    }
  }
  if (check === false && manifest === true) return '`manifest` requires `check`';
  if (check === false && index === true) return '`index` requires `check`';
  if (compress !== undefined && index === true) {
    return '`index` and `compress` exclude each other: pages of a compressed stream have no places';
  }
  return null;
}
