import { setTimeout as delay } from 'node:timers/promises';
import { noop } from '../util/noop.ts';
import type { QmpClient, QmpExecuteOptions } from './qmp/qmp-client.ts';
import type { QmpEvent } from './qmp/qmp-events.ts';

/** How far a migration has come, as QEMU sees it. */
export interface MigrationProgress {
  /** QEMU's word for the state: `setup`, `active`, `device`, `completed` … */
  readonly status: string;
  /** Bytes that were sent; 0 at a destination, which does not count. */
  readonly transferred: number;
  /** Bytes of guest memory that are to be sent still, by what is known now. */
  readonly remaining: number;
  /** Bytes of guest memory in all. */
  readonly total: number;
}

/** What `query-migrate` answers, as far as it is used here. */
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
  /** QEMU's word for it: `running`, `paused`, `inmigrate`, `postmigrate` … */
  readonly status: string;
  readonly running: boolean;
}

const POLL_MS = 250;
const SETTLE_POLL_MS = 20;
const SETTLE_TRIES = 500;

const ENDED: ReadonlySet<string> = new Set(['completed', 'failed', 'cancelled']);
/** Run states that a migration leaves by itself a moment after it has ended. */
const PASSING: ReadonlySet<string> = new Set(['finish-migrate', 'inmigrate']);

/** Asks for the state of the migration. */
export function queryMigration(
  qmp: QmpClient,
  options: QmpExecuteOptions = {},
): Promise<MigrationInfo> {
  return qmp.execute<MigrationInfo>('query-migrate', {}, options);
}

/** Asks for the run state. */
export function queryRunState(qmp: QmpClient): Promise<RunState> {
  return qmp.execute<RunState>('query-status');
}

/** Whether a migration has gone its way to the end, or there was none. */
export function hasEnded(status: string | undefined): boolean {
  return status === undefined || status === 'none' || ENDED.has(status);
}

/** Waits, after the end of a migration, for the run state that follows from that. */
export async function settledRunState(qmp: QmpClient): Promise<RunState> {
  let state = await queryRunState(qmp);
  for (let tries = 0; PASSING.has(state.status) && tries < SETTLE_TRIES; tries++) {
    await delay(SETTLE_POLL_MS);
    state = await queryRunState(qmp);
  }
  return state;
}

/** Follows the migration that has been started, by QEMU's events and by asking. */
export class MigrationWatch implements Disposable {
  /** The state in which it ended; rejects if the connection to QEMU fails before. */
  readonly ended: Promise<MigrationInfo>;
  readonly #qmp: QmpClient;
  readonly #onProgress: ((progress: MigrationProgress) => void) | undefined;
  #end: MigrationInfo | undefined;
  #isStopped = false;
  #isWoken = false;
  #wake: () => void = noop;

  constructor(qmp: QmpClient, onProgress?: (progress: MigrationProgress) => void) {
    this.#qmp = qmp;
    this.#onProgress = onProgress;
    qmp.on('event', this.#onEvent);
    this.ended = this.#run();
    this.ended.catch(noop);
  }

  /** The state in which it ended, if it has. */
  get end(): MigrationInfo | undefined {
    return this.#end;
  }

  /** Asks no more; `ended` then stays as it is. */
  [Symbol.dispose](): void {
    this.#isStopped = true;
    this.#qmp.off('event', this.#onEvent);
    this.#wakeUp();
  }

  readonly #onEvent = ({ event }: QmpEvent): void => {
    if (event === 'MIGRATION') this.#wakeUp();
  };

  #wakeUp(): void {
    this.#isWoken = true;
    this.#wake();
  }

  async #run(): Promise<MigrationInfo> {
    for (;;) {
      this.#isWoken = false;
      // However long: a QEMU whose last bytes nobody takes at the moment does not answer meanwhile.
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

  #pause(): Promise<void> {
    if (this.#isWoken) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, POLL_MS);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
