import { argumentError, checkWord } from '../contract/argument-error.ts';
import { IO_BUF_SIZE, MAX_IOV_SIZE } from '../contract/constants.ts';
import type { QemuFileOps, QemuFileSizes } from '../contract/ops.ts';
import type { GetSettings } from './get/get-half.ts';
import { BandwidthBudget } from './put/bandwidth-budget.ts';
import type { PutSettings } from './put/put-half.ts';

/** The sizes as options. */
type OptionalSizes = { [K in keyof QemuFileSizes]?: QemuFileSizes[K] | undefined };

/** Options of a `QemuFile`. Sizes that are absent are the backend's, or else QEMU's. */
export interface QemuFileOptions extends OptionalSizes {
  /** False disables the get half although the backend has one. */
  readable?: boolean | undefined;
  /** False disables the put half although the backend has one. */
  writable?: boolean | undefined;
  /** Whether unflushed bytes are sent at the end of the tick. Default true; QEMU never does that. */
  autoFlush?: boolean | undefined;
  /** `'xxh64'` keeps a running digest of each half. */
  digest?: 'xxh64' | undefined;
  /** Bytes per second at which the file sends. Default 0: no limit. */
  maxBandwidth?: number | undefined;
  /**
   * A limit that this file shares with others: all of them share its `maxBandwidth`. Default: a budget of its
   * own.
   */
  budget?: BandwidthBudget | undefined;
  /** Bytes that may wait for the backend before `ENOBUFS` is latched by the next put. Default 134217728. */
  maxPendingBytes?: number | undefined;
  /** Bytes that one `fill` or `read…` may ask for. Default 16777216. */
  maxLookAhead?: number | undefined;
  /** Destroys the file when it aborts; `ECANCELED` is latched. */
  signal?: AbortSignal | undefined;
}

/** Options of each wait. */
export interface WaitOptions {
  /** Ends the wait with `ECANCELED`, with the signal's reason as the cause. */
  signal?: AbortSignal | undefined;
}

/** Default number of bytes waiting for the backend at which the transport gate shuts. */
const HIGH_WATER_MARK = 256 * 1024;
/** Default size in bytes of the buffer given to `getBuffer`. */
const LOOK_AHEAD_SIZE = 64 * 1024;
const MAX_PENDING_BYTES = 128 * 1024 * 1024;
const MAX_LOOK_AHEAD = 16 * 1024 * 1024;

/** All settings of a file, resolved. */
export interface Settings {
  put: PutSettings;
  get: GetSettings;
}

function notNegative(name: string, value: number): number {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(`${name}: ${value} is not a number of bytes`);
  }
  return value;
}

function positive(name: string, value: number): number {
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new RangeError(`${name}: ${value} is not a positive number of bytes`);
  }
  return value;
}

/** Return whether a table has no operation: its file only stages, for `putQemuFile`. */
function isEmptyTable(ops: unknown): boolean {
  if (typeof ops !== 'object' || ops === null) return false;
  const prototype: unknown = Object.getPrototypeOf(ops);
  const isPlain = prototype === Object.prototype || prototype === null;
  return isPlain && Object.values(ops).every((operation) => operation === undefined);
}

/**
 * Resolve all settings from the options, the backend's preferences and QEMU's defaults.
 *
 * @throws RangeError for a size that is not a positive integer; TypeError if `ops` can neither read nor write, and is
 *   not empty.
 */
export function resolveSettings(ops: QemuFileOps, options: QemuFileOptions): Settings {
  const stagesOnly = isEmptyTable(ops);
  if (!stagesOnly && typeof (ops?.getBuffer ?? ops?.writevBuffer) !== 'function') {
    const allowed = 'a table with getBuffer or writevBuffer, or {} to stage only';
    throw argumentError('new QemuFile', 'ops', allowed, ops);
  }
  const preferred = ops.sizes ?? {};
  const size = (name: keyof QemuFileSizes, qemus: number): number =>
    positive(name, options[name] ?? preferred[name] ?? qemus);
  const { maxBandwidth, budget = new BandwidthBudget(maxBandwidth) } = options;
  if (maxBandwidth !== undefined) budget.maxBandwidth = maxBandwidth;
  if (options.digest !== undefined) checkWord('new QemuFile', 'digest', ['xxh64'], options.digest);
  const digest = options.digest === 'xxh64';
  const maxPendingBytes = positive('maxPendingBytes', options.maxPendingBytes ?? MAX_PENDING_BYTES);
  const stagingSize = Math.max(16, size('stagingSize', IO_BUF_SIZE));
  const copyLimit = notNegative('copyLimit', options.copyLimit ?? preferred.copyLimit ?? 0);
  return {
    put: {
      writable: (ops.writevBuffer !== undefined && options.writable !== false) || stagesOnly,
      stagingSize,
      copyLimit: Math.min(copyLimit, stagingSize),
      gatherEntries: size('gatherEntries', MAX_IOV_SIZE),
      // A producer that waits at the gate must not get ENOBUFS.
      highWaterMark: Math.min(size('highWaterMark', HIGH_WATER_MARK), maxPendingBytes),
      maxPendingBytes,
      autoFlush: options.autoFlush !== false,
      digest,
      budget,
    },
    get: {
      readable: ops.getBuffer !== undefined && options.readable !== false,
      lookAheadSize: size('lookAheadSize', LOOK_AHEAD_SIZE),
      maxLookAhead: positive('maxLookAhead', options.maxLookAhead ?? MAX_LOOK_AHEAD),
      digest,
    },
  };
}
