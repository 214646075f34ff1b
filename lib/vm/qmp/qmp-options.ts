import type { QemuFileError } from '../../contract/errors.ts';
import type { WaitLimits } from '../../contract/wait-for.ts';
import type { QmpEvent } from './qmp-events.ts';

/** Options of `QmpClient.execute`. */
export interface QmpExecuteOptions extends WaitLimits {
  /** Milliseconds until `ETIMEDOUT`. Default 60000; 0 means no limit. */
  timeoutMs?: number | undefined;
  /**
   * Have QEMU run the command at once, before the commands that it has not answered yet and even while its main
   * thread is busy. The client must be connected with `oob`, and QEMU must allow it for this command
   * (`migrate-recover`, `migrate-pause`, `yank`). Default false.
   */
  oob?: boolean | undefined;
}

/** Options of `QmpClient.connect`. */
export interface QmpConnectOptions extends WaitLimits {
  /** Milliseconds for connection, greeting and negotiation together. Default 10000; 0 means no limit. */
  timeoutMs?: number | undefined;
  /** Enable QMP's capability `oob`, so that `execute` can run commands out of band. Default false. */
  oob?: boolean | undefined;
}

/** Options of `QmpClient.waitForEvent`. */
export interface QmpEventOptions extends WaitLimits {
  /** Return whether an event of that name is the expected one. Default: any. */
  matches?: ((event: QmpEvent) => boolean) | undefined;
  /**
   * Also accept an event that has already arrived, if its sequence number is greater than this; use an
   * `eventCount` taken before the cause of the event. Default: only events from now on.
   */
  since?: number | undefined;
  /** Milliseconds until `ETIMEDOUT`. Default 60000; 0 means no limit. */
  timeoutMs?: number | undefined;
}

/** Events that a `QmpClient` emits. */
export interface QmpClientEvents {
  /** QEMU sent an event. */
  event: [event: QmpEvent];
  /** The connection has ended; emitted once. The error is null after `close()`. */
  close: [error: QemuFileError | null];
}
