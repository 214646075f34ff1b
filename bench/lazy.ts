// Does a guest run at once, whatever its size, and is its memory there as soon as with an ordinary restore?
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { openFrom } from 'qemu-file/adapters';
import { openSavedGuest, unwrap } from 'qemu-file/migration';
import {
  type LazyRestoreOptions,
  type LazyRestoreResult,
  QmpClient,
  restoreLazily,
} from 'qemu-file/vm';
import { Guest, writeMemory } from './harness/guest.ts';
import { alternate, atMost, type Bench, median, ratio, rowOf } from './harness/row.ts';

const MAX_RESUME_MS = 60;
/** A guest of the largest size starts within this multiple of the smallest one's time. */
const MAX_GROWTH = 2;
const MAX_COMPLETE_RATIO = 1.2;
const MAX_FAULT_SHARE = 0.02;
const RECORD_MS = 2000;
const ours = 'qemu-file';

const bench: Bench = {
  question: 'Does a lazily restored guest run at once, and when is all of its memory there?',
  async *run({ quick }) {
    const folder = mkdtempSync('/dev/shm/qemu-file-lazy-');
    const monitor = join(folder, 'qmp');
    const memory = join(folder, 'memory');
    const saved = join(folder, 'saved');
    const rounds = quick ? 1 : 5;
    const start = (mib: number, path: string | null): Promise<Guest | null> => {
      rmSync(monitor, { force: true });
      return Guest.start(monitor, mib, path);
    };
    /** Restore into a fresh QEMU, whose firmware then runs. */
    const restore = async (
      mib: number,
      options: LazyRestoreOptions = {},
    ): Promise<LazyRestoreResult | null> => {
      await using to = await start(mib, null);
      if (to === null) return null;
      await using qmp = await QmpClient.connect(to.monitor);
      const guest = await openSavedGuest(await unwrap(await openFrom(saved)));
      try {
        return await restoreLazily(qmp, guest, { resume: true, ...options });
      } finally {
        await guest.close();
      }
    };
    try {
      const resumed: number[] = [];
      for (const mib of quick ? [64] : [256, 1024, 4096]) {
        rmSync(memory, { force: true });
        rmSync(saved, { force: true });
        writeMemory(memory, mib);
        {
          await using from = await start(mib, memory);
          if (from === null) return;
          await from.migrate('migrate', `exec:cat >${saved}`);
        }
        rmSync(memory);
        const runs: number[] = [];
        const answers: number[] = [];
        const lazily = async (): Promise<number | null> => {
          const result = await restore(mib);
          if (result === null) return null;
          runs.push(result.resumeMs as number);
          answers.push(result.faultMs.p99);
          return result.completeMs;
        };
        const eagerly = async (): Promise<number | null> => {
          await using to = await start(mib, null);
          if (to === null) return null;
          const began = performance.now();
          await to.migrate('migrate-incoming', `exec:cat ${saved}`);
          return performance.now() - began;
        };
        const peer = 'eager, exec:cat';
        const results = await alternate(
          [
            { name: ours, run: lazily },
            { name: peer, run: eagerly },
          ],
          rounds,
        );
        resumed.push(median(runs));
        const [first] = resumed as [number];
        yield rowOf(new Map([[ours, runs]]), {
          name: `lazy restore, guest runs, ${mib} MiB`,
          unit: 'ms',
          ours,
          against: [],
          mustReach: `≤ ${MAX_RESUME_MS} ms, ≤ ${MAX_GROWTH} × of the smallest guest`,
          reached: () => median(runs) <= MAX_RESUME_MS && median(runs) <= MAX_GROWTH * first,
        });
        yield rowOf(results, {
          name: `lazy restore, all memory there, ${mib} MiB`,
          unit: 'ms',
          ours,
          against: [peer],
          mustReach: `≤ ${MAX_COMPLETE_RATIO} × eager`,
          reached: () => atMost(ratio(results, ours, peer), MAX_COMPLETE_RATIO),
        });
        yield rowOf(new Map([[ours, answers]]), {
          name: `lazy restore, request to answer written, p99, ${mib} MiB`,
          unit: 'ms',
          ours,
          against: [],
          mustReach: '≤ 1 ms',
          reached: () => median(answers) <= 1,
        });
        if (mib !== (quick ? 64 : 256)) continue;
        const recorded = await restore(mib, { recordMs: RECORD_MS });
        const pushed = await restore(mib, { prefetch: recorded?.workingSet, recordMs: RECORD_MS });
        if (recorded === null || pushed === null) continue;
        const faults = new Map([
          [ours, [pushed.faults]],
          ['without', [recorded.faults]],
        ]);
        yield rowOf(faults, {
          name: 'lazy restore, faults with the recorded set pushed',
          unit: 'faults',
          ours,
          against: ['without'],
          mustReach: `≤ ${MAX_FAULT_SHARE * 100} %`,
          reached: () => pushed.faults <= MAX_FAULT_SHARE * recorded.faults,
        });
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;
