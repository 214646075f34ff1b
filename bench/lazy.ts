// Does a guest run at once, whatever its size, and is its memory there as soon as with an ordinary restore?
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createReadStream, existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openFrom } from 'qemu-file/adapters';
import { MigrationReader, openSavedGuest, PageIndexBuilder, unwrap } from 'qemu-file/migration';
import {
  type LazyRestoreOptions,
  type LazyRestoreResult,
  QmpClient,
  restoreLazily,
} from 'qemu-file/vm';
import { makeFolder } from './harness/folder.ts';
import { Guest, writeMemory } from './harness/guest.ts';
import { MAIN } from './harness/paths.ts';
import { start as startProcess } from './harness/process.ts';
import { alternate, atMost, type Bench, median, type Row, ratio, rowOf } from './harness/row.ts';

const POLL_MS = 1;
const MAX_RESUME_MS = 60;
/** A guest of the largest size starts within this multiple of the smallest one's time. */
const MAX_GROWTH = 2;
const MIN_EAGER_RATIO = 50;
const MAX_COMPLETE_RATIO = 1.2;
/** What a command may take in addition to the start of Node until the guest runs. */
const MAX_COMMAND_MS = 60;
const MAX_PEAK_MIB = 150;
const ours = 'qemu-file';
const peer = 'eager, socat';
const floor = 'node -e 0';
/** Without requests nothing waits for the guest: what QEMU needs to take the pages one by one. */
const paused = 'guest paused';

/** Sizes of guests; of the largest one a quarter holds data, in MiB that alternate with holes. */
const SIZES = [
  { mib: 256, every: 1 },
  { mib: 1024, every: 1 },
  { mib: 4096, every: 4 },
] as const;
const QUICK_SIZES = [{ mib: 64, every: 1 }] as const;

/** A guest in a file with its index, and what restores it into fresh QEMUs. */
class SavedMachine {
  readonly #folder: string;
  readonly #monitor: string;
  readonly #mib: number;
  readonly #path: string;

  private constructor(folder: string, mib: number) {
    this.#folder = folder;
    this.#monitor = join(folder, 'qmp');
    this.#mib = mib;
    this.#path = join(folder, 'saved');
  }

  /** Save a guest; return null if QEMU is missing. */
  static async make(folder: string, mib: number, every: number): Promise<SavedMachine | null> {
    const machine = new SavedMachine(folder, mib);
    const memory = join(folder, 'memory');
    rmSync(machine.#path, { force: true });
    writeMemory(memory, mib, every);
    try {
      await using from = await machine.#start(memory);
      if (from === null) return null;
      await from.migrate('migrate', `exec:cat >${machine.#path}`);
    } finally {
      rmSync(memory);
    }
    await machine.#writeIndex();
    return machine;
  }

  /** Restore lazily; the guest's firmware then runs. */
  async lazily(options: LazyRestoreOptions = {}): Promise<LazyRestoreResult> {
    await using to = await this.#destination();
    await using qmp = await QmpClient.connect(to.monitor);
    const guest = await openSavedGuest(await unwrap(await openFrom(this.#path)));
    try {
      return await restoreLazily(qmp, guest, { resume: true, ...options });
    } finally {
      await guest.close();
    }
  }

  /** Restore lazily a guest that stays stopped; return the milliseconds until all of its memory was there. */
  async whilePaused(): Promise<number> {
    const { completeMs } = await this.lazily({ resume: false, keepPaused: true });
    return completeMs;
  }

  /** Return the milliseconds of an ordinary restore through socat; null if that is missing. */
  async eagerly(): Promise<number | null> {
    await using to = await this.#destination();
    const socket = join(this.#folder, 'socket');
    rmSync(socket, { force: true });
    const began = performance.now();
    const loaded = to.migrate('migrate-incoming', `unix:${socket}`);
    while (!existsSync(socket)) await sleep(POLL_MS);
    const args = ['-u', '-b262144', `FILE:${this.#path}`, `UNIX-CONNECT:${socket}`];
    const socat = spawn('socat', args, { stdio: ['ignore', 'ignore', 'inherit'] });
    if (await isMissing(socat)) return null;
    await loaded;
    return performance.now() - began;
  }

  /** Restore lazily by the command; return milliseconds from its start until the guest ran, and its memory. */
  async byCommand(): Promise<{ resumeMs: number; peakMiB: number }> {
    await using to = await this.#destination();
    const args = [MAIN, 'restore', '--lazy', '--resume', '--json', '--quiet'];
    const stdio: ['ignore', 'pipe', 'ignore'] = ['ignore', 'pipe', 'ignore'];
    const command = startProcess(process.execPath, [...args, '--qmp', to.monitor, this.#path], {
      stdio,
    });
    let text = '';
    command.child.stdout?.setEncoding('utf8').on('data', (part: string) => {
      text += part;
    });
    if ((await command.ended) !== 0) throw new Error('qemu-file restore --lazy failed');
    const { startMs, resumeMs } = JSON.parse(text) as { startMs: number; resumeMs: number };
    return { resumeMs: startMs + resumeMs, peakMiB: command.used.peakMiB };
  }

  async #writeIndex(): Promise<void> {
    const builder = await PageIndexBuilder.create();
    const bytes = createReadStream(this.#path, { highWaterMark: 1_048_576 });
    bytes.on('data', (chunk) => builder.addBytes(chunk as Buffer));
    const reader = new MigrationReader(bytes, { pages: builder.pages });
    for await (const event of reader) builder.addEvent(event);
    const index = builder.finish(reader.ram);
    if (typeof index === 'string') throw new Error(index);
    writeFileSync(`${this.#path}.qemu-file-index`, index);
  }

  #start(memory: string | null): Promise<Guest | null> {
    rmSync(this.#monitor, { force: true });
    return Guest.start(this.#monitor, this.#mib, memory);
  }

  async #destination(): Promise<Guest> {
    return (await this.#start(null)) as Guest;
  }
}

async function isMissing(child: ChildProcess): Promise<boolean> {
  return new Promise((resolve) => {
    child.once('spawn', () => resolve(false));
    child.once('error', () => resolve(true));
  });
}

function nodeStartMs(): Promise<number> {
  const began = performance.now();
  execFileSync(process.execPath, ['-e', '0'], { stdio: 'ignore' });
  return Promise.resolve(performance.now() - began);
}

/** Yield the rows of one size. `first` has our times until the smallest guest ran. */
async function* sizeRows(
  machine: SavedMachine,
  mib: number,
  rounds: number,
  first: number[],
): AsyncGenerator<Row> {
  const runs: number[] = [];
  const lazily = async (): Promise<number> => {
    const result = await machine.lazily();
    runs.push(result.resumeMs as number);
    return result.completeMs;
  };
  // The first restore compiles what the others run.
  await machine.lazily();
  const contenders = [
    { name: ours, run: lazily },
    { name: peer, run: () => machine.eagerly() },
    { name: paused, run: () => machine.whilePaused() },
  ];
  const results = await alternate(contenders, rounds);
  if (first.length === 0) first.push(...runs);
  const eager = results.get(peer) ?? null;
  const toEager = ratio(
    new Map([
      [ours, runs],
      [peer, eager],
    ]),
    ours,
    peer,
  );
  yield rowOf(
    new Map([
      [ours, runs],
      [peer, eager],
    ]),
    {
      name: `lazy restore, guest runs, ${mib} MiB`,
      unit: 'ms',
      ours,
      against: [peer],
      mustReach: `≤ ${MAX_RESUME_MS} ms, ≤ ${MAX_GROWTH} × of the smallest guest${mib >= 4096 ? `, ≤ 1/${MIN_EAGER_RATIO} of eager` : ''}`,
      reached: (value) => {
        if (value > MAX_RESUME_MS || value > MAX_GROWTH * median(first)) return false;
        return mib < 4096 || atMost(toEager, 1 / MIN_EAGER_RATIO);
      },
    },
  );
  yield rowOf(results, {
    name: `lazy restore, all memory there, ${mib} MiB`,
    unit: 'ms',
    ours,
    against: [peer, paused],
    mustReach: `≤ ${MAX_COMPLETE_RATIO} × eager`,
    reached: () => atMost(ratio(results, ours, peer), MAX_COMPLETE_RATIO),
  });
}

/** Yield the rows of the command: its time, and its memory. */
async function* commandRows(
  machine: SavedMachine,
  mib: number,
  rounds: number,
): AsyncGenerator<Row> {
  const peaks: number[] = [];
  const command = async (): Promise<number> => {
    const { resumeMs, peakMiB } = await machine.byCommand();
    peaks.push(peakMiB);
    return resumeMs;
  };
  const contenders = [
    { name: ours, run: command },
    { name: floor, run: nodeStartMs },
  ];
  const results = await alternate(contenders, rounds);
  yield rowOf(results, {
    name: `lazy restore, start of the command to guest runs, ${mib} MiB`,
    unit: 'ms',
    ours,
    against: [floor],
    mustReach: `≤ floor + ${MAX_COMMAND_MS} ms`,
    reached: (value) => value <= median(results.get(floor) ?? []) + MAX_COMMAND_MS,
  });
  yield rowOf(new Map([[ours, peaks]]), {
    name: `lazy restore, peak memory of the command, ${mib} MiB`,
    unit: 'MiB',
    ours,
    against: [],
    mustReach: `≤ ${MAX_PEAK_MIB} MiB`,
    reached: (value) => atMost(value, MAX_PEAK_MIB),
  });
}

const bench: Bench = {
  question: 'Does a lazily restored guest run at once, and when is all of its memory there?',
  async *run({ quick }) {
    const folder = makeFolder('/dev/shm/qemu-file-lazy-');
    const rounds = quick ? 1 : 5;
    const sizes = quick ? QUICK_SIZES : SIZES;
    const first: number[] = [];
    try {
      for (const { mib, every } of sizes) {
        const machine = await SavedMachine.make(folder, mib, every);
        if (machine === null) return;
        yield* sizeRows(machine, mib, rounds, first);
        if (mib !== 1024) yield* commandRows(machine, mib, rounds);
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;
