// How long does a running guest wait for a page, and which pages does it still ask for with a recorded set?
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openFrom, openTo } from '../adapters/index.ts';
import { openSavedGuest, unwrap } from '../lib/migration/index.ts';
import {
  type LazyRestoreOptions,
  type LazyRestoreResult,
  QmpClient,
  restoreLazily,
  saveVm,
} from '../lib/vm/index.ts';
import { firmware, GUEST, type GuestProgram } from '../test/qemu/harness/guest.ts';
import { type Qemu, requireQemu, startQemu } from '../test/qemu/harness/harness.ts';
import { atMost, type Bench, type Row, rowOf } from './harness/row.ts';

const MIB = 2 ** 20;
const MAX_ANSWER_MS = 1;
const MAX_FAULT_SHARE = 0.02;
const ours = 'qemu-file';
const preempt = 'with --preempt';
const without = 'without';

/** A guest that touches 32 further pages of its memory every 10 ms: a fault each time, until they have come. */
function walker(memoryMiB: number): GuestProgram {
  const patternBytes = (memoryMiB - 16) * MIB;
  return { patternBytes, dirtyBytes: patternBytes, dirtyPagesPerTick: 32, ticksPerSecond: 100 };
}

interface Machine {
  readonly qemu: Qemu;
  readonly qmp: QmpClient;
}

class Walker {
  readonly #folder: string;
  readonly #memoryMiB: number;
  readonly #path: string;

  constructor(folder: string, memoryMiB: number) {
    this.#folder = folder;
    this.#memoryMiB = memoryMiB;
    this.#path = join(folder, 'saved');
  }

  /** Save the guest while it is about to touch the upper half of its memory, which the background reaches late. */
  async save(): Promise<void> {
    const pages = (this.#memoryMiB / 2) * 256;
    await this.#with({}, async ({ qemu, qmp }) => {
      await qemu.waitGuestReady();
      while ((await qemu.readRam()).readUInt32LE(GUEST.sequence) < pages) await sleep(100);
      await saveVm(qmp, await openTo(this.#path));
    });
  }

  restore(options: LazyRestoreOptions = {}): Promise<LazyRestoreResult> {
    return this.#with({ incoming: 'defer' }, async ({ qmp }) => {
      const guest = await openSavedGuest(await unwrap(await openFrom(this.#path)));
      try {
        return await restoreLazily(qmp, guest, options);
      } finally {
        await guest.close();
      }
    });
  }

  async #with<T>(
    options: { incoming?: string },
    work: (machine: Machine) => Promise<T>,
  ): Promise<T> {
    const monitor = join(this.#folder, 'qmp');
    rmSync(monitor, { force: true });
    const qemu = await startQemu({
      ...options,
      machine: 'pc',
      memoryMiB: this.#memoryMiB,
      firmware: firmware(walker(this.#memoryMiB)),
      extraArgs: ['-qmp', `unix:${monitor},server=on,wait=off`],
    });
    try {
      await using qmp = await QmpClient.connect(monitor);
      return await work({ qemu, qmp });
    } finally {
      await qemu.stop();
    }
  }
}

const bench: Bench = {
  question: 'How long does a guest wait for a page while the rest of its memory comes?',
  async *run({ quick }): AsyncGenerator<Row> {
    if (requireQemu() !== false) return;
    const memoryMiB = quick ? 64 : 512;
    const rounds = quick ? 1 : 7;
    const folder = mkdtempSync('/dev/shm/qemu-file-bench-');
    try {
      const guest = new Walker(folder, memoryMiB);
      await guest.save();
      // The first restore compiles what the others run.
      const { workingSet } = await guest.restore({ recordMs: quick ? 1000 : 3000 });
      const answers = { p99: [] as number[], p50: [] as number[], preempt: [] as number[] };
      const faults = { pushed: [] as number[], without: [] as number[] };
      for (let round = 0; round < rounds; round++) {
        const plain = await guest.restore();
        answers.p99.push(plain.faultMs.p99);
        answers.p50.push(plain.faultMs.p50);
        faults.without.push(plain.faults);
        answers.preempt.push((await guest.restore({ preempt: true })).faultMs.p99);
        faults.pushed.push((await guest.restore({ prefetch: workingSet })).faults);
      }
      const limit = {
        unit: 'ms',
        ours,
        mustReach: `≤ ${MAX_ANSWER_MS} ms`,
        reached: (value: number) => atMost(value, MAX_ANSWER_MS),
      };
      const rows = new Map([
        [ours, answers.p99],
        [preempt, answers.preempt],
      ]);
      const name = `request to answer written, background on, ${memoryMiB} MiB`;
      yield rowOf(new Map([[ours, answers.p50]]), { ...limit, name: `${name}, p50`, against: [] });
      yield rowOf(rows, { ...limit, name: `${name}, p99`, against: [preempt] });
      yield rowOf(
        new Map([
          [ours, faults.pushed],
          [without, faults.without],
        ]),
        {
          name: `faults with the recorded set pushed, ${memoryMiB} MiB`,
          unit: 'faults',
          ours,
          against: [without],
          mustReach: `≤ ${MAX_FAULT_SHARE * 100} %`,
          reached: (value) => value <= MAX_FAULT_SHARE * Math.min(...faults.without),
        },
      );
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;
