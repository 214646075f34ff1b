import type { CompressFormat } from '../../adapters/index.ts';
import type { Manifest } from '../migration/verify/manifest.ts';
import type { MigrationSettings } from './migration-settings.ts';
import type { MigrationProgress } from './migration-watch.ts';

/** How `saveVm` works. */
export interface SaveOptions {
  /** Bytes of the stream per second, at most; QEMU's own limit is lifted meanwhile. Default 0: no limit. */
  maxBandwidth?: number | undefined;
  /** Compresses what goes into the sink. */
  compress?: CompressFormat | undefined;
  /**
   * Stops the guest first: it is saved faster, and memory that changes is not sent again. Such a guest is
   * restored stopped, too. Default false.
   */
  pause?: boolean | undefined;
  /**
   * Lets the guest run on here after it was saved. Default false: it stays stopped, for once it ran on, its
   * disks would not be those any more that belong to what was saved.
   */
  resume?: boolean | undefined;
  /** Makes a manifest of the stream; it takes temporary room for the guest's memory beyond 64 MiB. */
  manifest?: boolean | undefined;
  /**
   * False: takes the stream for what QEMU says it is, for one that cannot be read here. QEMU then says that
   * it is done before the sink does. Default true.
   */
  check?: boolean | undefined;
  /** Where the private directory of the socket is made. Default: the system's directory of temporary files. */
  directory?: string | undefined;
  /** Told now and then how far QEMU is. */
  onProgress?: ((progress: MigrationProgress) => void) | undefined;
  /** Cancels the migration; without effect from when the sink is being closed. */
  signal?: AbortSignal | undefined;
}

/** What came of a save. */
export interface SaveResult {
  /** Bytes of the stream, before they were compressed. */
  bytes: number;
  seconds: number;
  /** How long of that bytes waited for `maxBandwidth` alone. */
  limitedSeconds: number;
  /** The run state that QEMU is in now: `postmigrate`, or with `resume` `running`. */
  status: string;
  /** Null unless it was asked for. */
  manifest: Manifest | null;
  /** What a person should know. */
  warnings: string[];
}

/** As good as no limit, and taken by every QEMU. */
const UNLIMITED = 2 ** 40;
/** What a save wants of QEMU; the rest is as its user has it. */
export const SAVE_SETTINGS: MigrationSettings = {
  capabilities: {
    events: true,
    // All in one channel.
    multifd: false,
    'zero-copy-send': false,
    'mapped-ram': false,
    // Pages that a destination could fetch later.
    'postcopy-ram': false,
    'postcopy-preempt': false,
    'background-snapshot': false,
    'x-colo': false,
    // The guest may have to run on here.
    'release-ram': false,
    // All of its memory, to be loaded by any QEMU of its version.
    'x-ignore-shared': false,
    compress: false,
    // There is nobody who would tell QEMU to go on.
    'pause-before-switchover': false,
    'switchover-ack': false,
  },
  parameters: {
    'max-bandwidth': UNLIMITED,
    // Nobody else can reach the socket.
    'tls-creds': '',
    mode: 'normal',
  },
};
