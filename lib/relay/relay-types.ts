import type { QemuFileError } from '../contract/errors.ts';
import type { QemuFile } from '../qemu-file/qemu-file.ts';
import type { RelayCheck } from './check-tap.ts';

/** Options of `relay`. */
export interface RelayOptions {
  /** Also receives the forward bytes. The slower of `tee` and `to` sets the pace. */
  tee?: QemuFile | undefined;
  /**
   * Reads the forward bytes while they pass, and must accept them before `to` is ended. The error that it
   * rejects with is a failure of `from`, at once. After it has resolved early it gets no more bytes.
   */
  check?: RelayCheck | undefined;
  /** Ends the relay: all files are destroyed with `ECANCELED`, so that no peer takes it for the end of the stream. */
  signal?: AbortSignal | undefined;
  /**
   * Milliseconds that `to` may go on sending after the end of the forward direction, if there is no return
   * path. Default 5000. A return path is waited for without limit.
   */
  lingerMs?: number | undefined;
  /** Receives each chunk of the return path that `from` took. */
  onReturned?: ((chunk: Uint8Array) => void) | undefined;
  /** Whether `from` may end without a byte. Default false. */
  mayBeEmpty?: boolean | undefined;
}

/** One of the files of a relay. */
export type RelayEnd = 'from' | 'to' | 'tee';

/** The bytes that one direction moved. */
export interface RelayDirection {
  /** Bytes that the file they went to took. */
  bytes: number;
  /** XXH64 of these bytes, as 16 hexadecimal digits; null unless `to` has the option `digest`. */
  xxh64: string | null;
}

/** The failure that ended a relay. */
export interface RelayFailure {
  /** The file that failed first; null for the relay's own signal. */
  end: RelayEnd | null;
  /** Its error. `ENODATA`: `from` ended before its first byte. */
  error: QemuFileError;
}

/** The outcome of a relay. */
export interface RelayResult {
  /** Whether both directions reached their ends and all bytes were taken. */
  complete: boolean;
  /** From `from` to `to`. */
  forward: RelayDirection;
  /** From `to` to `from`; null if there is no return path. */
  return: RelayDirection | null;
  /** Seconds from the start to the close of all files. */
  seconds: number;
  /** Seconds of that during which bytes waited for the `maxBandwidth` of `to` alone. */
  limitedSeconds: number;
  /** Null if the relay is complete. */
  failure: RelayFailure | null;
}
