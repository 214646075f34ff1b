import { setTimeout as delay } from 'node:timers/promises';
import { noop } from '../util/noop.ts';
import type { QmpClient } from './qmp/qmp-client.ts';
import type { QmpEvent } from './qmp/qmp-events.ts';
import type { QmpExecuteOptions } from './qmp/qmp-options.ts';

/** Progress of a migration as QEMU reports it. */
export interface MigrationProgress {
  /** QEMU's word for the state: `setup`, `active`, `device`, `completed` … */
  readonly status: string;
  /** Bytes sent; 0 at a destination, which does not count them. */
  readonly transferred: number;
  /** Bytes of guest memory that QEMU still expects to send. */
  readonly remaining: number;
  /** Bytes of guest memory in total. */
  readonly total: number;
}

/** The fields of `query-migrate` that are used here. */
export interface MigrationInfo {
  readonly status?: string;
  readonly 'error-desc'?: string;
  readonly 'blocked-reasons'?: readonly string[];
  /** Milliseconds. */
  readonly downtime?: number;
  readonly ram?: {
    readonly transferred?: number;
    readonly remaining?: number;
    readonly total?: number;
  };
}

/** The run state of a machine. */
export interface RunState {
  /** QEMU's word for the state: `running`, `paused`, `inmigrate`, `postmigrate` … */
  readonly status: string;
  readonly running: boolean;
}

const POLL_MS = 250;
const SETTLE_POLL_MS = 20;
const MAX_SETTLE_POLLS = 500;

const ENDED: ReadonlySet<string> = new Set(['completed', 'failed', 'cancelled']);
/** Run states that QEMU leaves by itself a moment after a migration has ended. */
const TRANSIENT: ReadonlySet<string> = new Set(['finish-migrate', 'inmigrate']);

/** Query the state of the migration. */
export function queryMigration(
  qmp: QmpClient,
  options: QmpExecuteOptions = {},
): Promise<MigrationInfo> {
  return qmp.execute<MigrationInfo>('query-migrate', {}, options);
}

/** Query the run state. */
export function queryRunState(qmp: QmpClient): Promise<RunState> {
  return qmp.execute<RunState>('query-status');
}

/** Return whether no migration is in progress, by the status of `query-migrate`. */
export function hasEnded(status: string | undefined): boolean {
  return status === undefined || status === 'none' || ENDED.has(status);
}

/** Wait, after the end of a migration, until QEMU has left its transient run states. */
export async function settledRunState(qmp: QmpClient): Promise<RunState> {
  let state = await queryRunState(qmp);
  for (let polls = 0; TRANSIENT.has(state.status) && polls < MAX_SETTLE_POLLS; polls++) {
    await delay(SETTLE_POLL_MS);
    state = await queryRunState(qmp);
  }
  return state;
}

/** Follows the current migration, by QEMU's `MIGRATION` events and by polling. */
export class MigrationWatch implements Disposable {
  /** The state in which the migration ended; rejects if the connection to QEMU fails earlier. */
  readonly ended: Promise<MigrationInfo>;
  readonly #qmp: QmpClient;
  readonly #onProgress: ((progress: MigrationProgress) => void) | undefined;
  #end: MigrationInfo | undefined;
  #isStopped = false;
  #hasNews = false;
  #wake: () => void = noop;

  constructor(qmp: QmpClient, onProgress?: (progress: MigrationProgress) => void) {
    this.#qmp = qmp;
    this.#onProgress = onProgress;
    qmp.on('event', this.#onEvent);
    this.ended = this.#run();
    this.ended.catch(noop);
  }

  /** The state in which the migration ended; undefined until then. */
  get end(): MigrationInfo | undefined {
    return this.#end;
  }

  /** Stop polling; `ended` stays pending if the migration has not ended. */
  [Symbol.dispose](): void {
    this.#isStopped = true;
    this.#qmp.off('event', this.#onEvent);
    this.#notify();
  }

  readonly #onEvent = ({ event }: QmpEvent): void => {
    if (event === 'MIGRATION') this.#notify();
  };

  #notify(): void {
    this.#hasNews = true;
    this.#wake();
  }

  async #run(): Promise<MigrationInfo> {
    for (;;) {
      this.#hasNews = false;
      // No time limit: QEMU does not answer while it waits for the peer to read the last bytes of its stream.
      const info = await queryMigration(this.#qmp, { timeoutMs: 0 });
      const { status = 'none', ram } = info;
      if (!this.#isStopped) {
        const { transferred = 0, remaining = 0, total = 0 } = ram ?? {};
        this.#onProgress?.({ status, transferred, remaining, total });
      }
      if (ENDED.has(status)) {
        this.#end = info;
        return info;
      }
      if (!this.#isStopped) await this.#pause();
      if (this.#isStopped) return new Promise(noop);
    }
  }

  /** Wait for the next event, at most until the next poll is due. */
  #pause(): Promise<void> {
    if (this.#hasNews) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, POLL_MS);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
