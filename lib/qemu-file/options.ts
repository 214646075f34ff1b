import { IO_BUF_SIZE, MAX_IOV_SIZE } from '../contract/constants.ts';
import type { QemuFileOps, QemuFileSizes } from '../contract/ops.ts';
import type { GetSettings } from './get/get-half.ts';
import { BandwidthBudget } from './put/bandwidth-budget.ts';
import type { PutSettings } from './put/put-half.ts';

/** How a `QemuFile` is to work; sizes left out are the backend's, or else QEMU's. */
export interface QemuFileOptions extends Partial<QemuFileSizes> {
  /** False switches the get half off although the backend has one. */
  readable?: boolean;
  /** False switches the put half off although the backend has one. */
  writable?: boolean;
  /** Whether what is left unflushed leaves at the end of the tick. Default true; QEMU has no such thing. */
  autoFlush?: boolean;
  /** `'xxh64'` keeps a running digest of each half. */
  digest?: 'xxh64';
  /** Bytes per second at which bytes may leave, kept by the file itself. Default 0: no limit of its own. */
  maxBandwidth?: number;
  /**
   * The limit that this file keeps together with others: its `maxBandwidth` is theirs, too. Default: one of
   * its own.
   */
  budget?: BandwidthBudget;
  /** Bytes that may wait for the backend before `ENOBUFS` is latched by the next put. Default 134217728. */
  maxPendingBytes?: number;
  /** Bytes that one `fill` or `read…` may ask for. Default 16777216. */
  maxLookAhead?: number;
  /** Destroys the file when it aborts; `ECANCELED` is latched. */
  signal?: AbortSignal;
}

/** Options of every wait. */
export interface WaitOptions {
  /** Ends the wait with `ECANCELED`, the signal's reason as its cause. */
  signal?: AbortSignal | undefined;
}

/** Bytes waiting for the backend at which the transport gate shuts, unless the backend knows better. */
const HIGH_WATER_MARK = 256 * 1024;
/** Size of the buffer given to `getBuffer`, unless the backend knows better. */
const LOOK_AHEAD_SIZE = 64 * 1024;
const MAX_PENDING_BYTES = 128 * 1024 * 1024;
const MAX_LOOK_AHEAD = 16 * 1024 * 1024;

/** All settings of a file, decided. */
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

/**
 * Decides all settings from the options, the backend's preferences and QEMU's defaults.
 *
 * @throws RangeError for a size that is not a positive integer; TypeError for a backend that is no table.
 */
export function resolveSettings(ops: QemuFileOps, options: QemuFileOptions): Settings {
  if (typeof ops !== 'object' || ops === null) {
    throw new TypeError('new QemuFile(ops): ops must be a table of operations (QemuFileOps)');
  }
  const preferred = ops.sizes ?? {};
  const size = (name: keyof QemuFileSizes, qemus: number): number =>
    positive(name, options[name] ?? preferred[name] ?? qemus);
  const { maxBandwidth, budget = new BandwidthBudget(maxBandwidth) } = options;
  if (maxBandwidth !== undefined) budget.maxBandwidth = maxBandwidth;
  const digest = options.digest === 'xxh64';
  const maxPendingBytes = positive('maxPendingBytes', options.maxPendingBytes ?? MAX_PENDING_BYTES);
  // A table without either direction makes a file that only stages, for putQemuFile.
  const stagesOnly = ops.getBuffer === undefined && ops.writevBuffer === undefined;
  const stagingSize = Math.max(16, size('stagingSize', IO_BUF_SIZE));
  const copyLimit = notNegative('copyLimit', options.copyLimit ?? preferred.copyLimit ?? 0);
  return {
    put: {
      writable: (ops.writevBuffer !== undefined && options.writable !== false) || stagesOnly,
      stagingSize,
      copyLimit: Math.min(copyLimit, stagingSize),
      gatherEntries: size('gatherEntries', MAX_IOV_SIZE),
      // Whoever heeds the gate must not meet ENOBUFS.
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
