// Are save and restore as fast as QEMU with a shell pipe?
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Guest, timed, writeMemory } from './harness/guest.ts';
import { start } from './harness/process.ts';
import { alternate, atMost, type Bench, type Row, ratio, rowOf } from './harness/row.ts';

const MAIN = fileURLToPath(new URL('../dist/lib/cli/main.js', import.meta.url));
const ours = 'qemu-file';
/** Start-up of the command, which a larger guest hides, in seconds. */
const START_SECONDS = 0.2;

/** Run the command; throw if it fails. */
async function command(...args: string[]): Promise<void> {
  const code = await start(process.execPath, [MAIN, ...args, '--quiet']).ended;
  if (code !== 0) throw new Error(`qemu-file ${args.join(' ')} ended with ${code}`);
}

/** A job that a fresh QEMU does, by our command or by itself. */
interface Job {
  name: string;
  /** Work of the command. */
  ours: (guest: Guest) => Promise<void>;
  peer: string;
  /** Work of QEMU with a shell pipe. */
  theirs: (guest: Guest) => Promise<void>;
  maxRatio: number;
}

async function rowOfJob(
  { name, ours: our, peer, theirs, maxRatio }: Job,
  make: () => Promise<Guest | null>,
  rounds: number,
): Promise<Row> {
  const results = await alternate([timed(ours, make, our), timed(peer, make, theirs)], rounds);
  const theirSeconds = results.get(peer);
  const toPeer = theirSeconds
    ? ratio(
        new Map([
          [ours, (results.get(ours) ?? []).map((seconds) => seconds - START_SECONDS)],
          [peer, theirSeconds],
        ]),
        ours,
        peer,
      )
    : null;
  return rowOf(results, {
    name,
    unit: 's',
    ours,
    against: [peer],
    mustReach: `≤ ${maxRatio} × + ${START_SECONDS} s`,
    reached: () => atMost(toPeer, maxRatio),
  });
}

const bench: Bench = {
  question: 'Are save and restore as fast as QEMU with a shell pipe?',
  async *run({ quick }) {
    const folder = mkdtempSync('/dev/shm/qemu-file-vm-');
    const memory = join(folder, 'memory');
    const saved = join(folder, 'saved');
    const packed = join(folder, 'saved.zst');
    const out = join(folder, 'out');
    const monitor = join(folder, 'qmp');
    const rounds = quick ? 1 : 5;
    const sizes = quick ? [64] : [256, 1024, 2048, 4096];
    const last = quick ? 64 : 2048;
    const fresh = async (mib: number, path: string | null): Promise<Guest | null> => {
      rmSync(monitor, { force: true });
      rmSync(out, { force: true });
      return Guest.start(monitor, mib, path);
    };
    const save = (...options: string[]) => {
      return (guest: Guest): Promise<void> =>
        command('save', '--qmp', guest.monitor, out, ...options);
    };
    const pipe = (shell: string) => {
      return (guest: Guest): Promise<void> => guest.migrate('migrate', `exec:${shell} >${out}`);
    };
    const incoming = (shell: string) => {
      return (guest: Guest): Promise<void> => guest.migrate('migrate-incoming', `exec:${shell}`);
    };
    try {
      for (const mib of sizes) {
        rmSync(memory, { force: true });
        writeMemory(memory, mib);
        const jobs: Job[] = [
          {
            name: `save, ${mib} MiB`,
            ours: save(),
            peer: 'exec:cat',
            theirs: pipe('cat'),
            maxRatio: 1.25,
          },
        ];
        if (mib === last) {
          jobs.push(
            {
              name: `save --no-check, ${mib} MiB`,
              ours: save('--no-check'),
              peer: 'exec:cat',
              theirs: pipe('cat'),
              maxRatio: 1.1,
            },
            {
              name: `save --compress zstd, ${mib} MiB`,
              ours: save('--compress', 'zstd'),
              peer: 'zstd -T2 -1',
              theirs: pipe('zstd -q -T2 -1'),
              maxRatio: 1.1,
            },
          );
        }
        for (const job of jobs) yield await rowOfJob(job, () => fresh(mib, memory), rounds);
        if (mib !== last) continue;
        await using guest = await fresh(mib, memory);
        if (guest === null) return;
        await guest.migrate('migrate', `exec:tee ${saved} | zstd -q -1 >${packed}`);
        const restores: Job[] = [
          {
            name: `restore, ${mib} MiB`,
            ours: (to) => command('restore', '--qmp', to.monitor, saved),
            peer: 'exec:cat',
            theirs: incoming(`cat ${saved}`),
            maxRatio: 1.1,
          },
          {
            name: `restore of a .zst, ${mib} MiB`,
            ours: (to) => command('restore', '--qmp', to.monitor, packed),
            peer: 'exec:zstd -dc',
            theirs: incoming(`zstd -q -dc ${packed}`),
            maxRatio: 1.15,
          },
        ];
        for (const job of restores) yield await rowOfJob(job, () => fresh(mib, null), rounds);
        rmSync(saved);
        rmSync(packed);
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;
