// Are save and restore as fast as QEMU with a shell pipe?
import { execFileSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { makeFolder } from './harness/folder.ts';
import { Guest, timed, writeMemory } from './harness/guest.ts';
import { MAIN } from './harness/paths.ts';
import { start } from './harness/process.ts';
import { alternate, atMost, type Bench, figure, type Row, ratio, rowOf } from './harness/row.ts';

const ours = 'qemu-file';
/** Start-up of the command, which a larger guest hides, in seconds. */
const START_SECONDS = 0.2;

/** Run the command; throw if it fails. */
async function command(...args: string[]): Promise<void> {
  const code = await start(process.execPath, [MAIN, ...args, '--quiet']).ended;
  if (code !== 0) throw new Error(`qemu-file ${args.join(' ')} ended with ${code}`);
}

/** The shortest program for Node that does a job. */
interface Floor {
  name: string;
  work: (guest: Guest) => Promise<void>;
}

/** A job that a fresh QEMU does, by our command or by itself. */
interface Job {
  name: string;
  /** Work of the command. */
  ours: (guest: Guest) => Promise<void>;
  peer: string;
  /** Work of QEMU with a shell pipe. */
  theirs: (guest: Guest) => Promise<void>;
  /** The same work by the shortest program for Node. */
  floor?: Floor;
  maxRatio: number;
}

/** Seconds of a job for one size of guest, by contender. */
interface Seconds {
  mib: number;
  ours: number;
  theirs: number;
}

/**
 * Have the system hold as much free memory as a run needs. A virtual machine may have given its free pages back to
 * its host; to get them again takes longer than to copy them, and whichever contender needs them first would pay.
 */
function warmMemory(path: string, mib: number): void {
  execFileSync('sh', ['-c', `head -c ${Math.ceil(mib * 1.25)}M /dev/zero >${path}; rm ${path}`]);
}

/** Return the row of a job's pace: what one more GiB takes, without the start of anything. */
function paceOf(name: string, seconds: readonly Seconds[], maxRatio: number): Row | null {
  const [first, last] = [seconds[0], seconds.at(-1)];
  if (first === undefined || last === undefined || first === last) return null;
  const gib = (last.mib - first.mib) / 1024;
  const [value, theirs] = [(last.ours - first.ours) / gib, (last.theirs - first.theirs) / gib];
  return {
    name: `${name}, each GiB`,
    value,
    unit: 's',
    against: [{ name: 'exec:cat', value: theirs }],
    ratio: value / theirs,
    spread: 0,
    mustReach: `≤ ${maxRatio} ×`,
    ok: value / theirs <= maxRatio,
  };
}

/** Send a file to a QEMU that waits for a migration with nothing but `pipe()`. */
async function pipeFile(guest: Guest, path: string): Promise<void> {
  const socket = `${guest.monitor}-incoming`;
  rmSync(socket, { force: true });
  const program = `
    const [socket, path] = process.argv.slice(1);
    const file = require('node:fs').createReadStream(path, { highWaterMark: 262144 });
    const connect = () => {
      const to = require('node:net').connect(socket, () => file.pipe(to));
      to.on('error', () => setTimeout(connect, 2));
    };
    connect();`;
  const child = start(process.execPath, ['-e', program, socket, path]);
  await guest.migrate('migrate-incoming', `unix:${socket}`);
  await child.ended;
}

/** Have a QEMU save to a socket that is piped into zstd with nothing but `pipe()`. */
async function pipeToZstd(guest: Guest, out: string): Promise<void> {
  const socket = `${guest.monitor}-outgoing`;
  rmSync(socket, { force: true });
  const program = `
    const [socket, out] = process.argv.slice(1);
    const stdio = ['pipe', require('node:fs').openSync(out, 'w'), 'inherit'];
    const zstd = require('node:child_process').spawn('zstd', ['-q', '-T2', '-1', '-c'], { stdio });
    const server = require('node:net').createServer((from) => {
      server.close();
      from.pipe(zstd.stdin);
    });
    server.listen(socket);`;
  const child = start(process.execPath, ['-e', program, socket, out]);
  while (!existsSync(socket)) await sleep(2);
  await guest.migrate('migrate', `unix:${socket}`);
  await child.ended;
}

async function rowOfJob(
  { name, ours: our, peer, theirs, floor, maxRatio }: Job,
  make: () => Promise<Guest | null>,
  rounds: number,
  onSeconds: (ours: number, theirs: number) => void,
): Promise<Row> {
  const floors = floor === undefined ? [] : [timed(floor.name, make, floor.work)];
  const results = await alternate(
    [timed(ours, make, our), timed(peer, make, theirs), ...floors],
    rounds,
  );
  onSeconds(figure(results, ours) ?? 0, figure(results, peer) ?? 0);
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
    against: floor === undefined ? [peer] : [peer, floor.name],
    mustReach: `≤ ${maxRatio} × + ${START_SECONDS} s`,
    reached: () => atMost(toPeer, maxRatio),
  });
}

const bench: Bench = {
  question: 'Are save and restore as fast as QEMU with a shell pipe?',
  async *run({ quick }) {
    const folder = makeFolder('/dev/shm/qemu-file-vm-');
    const memory = join(folder, 'memory');
    const saved = join(folder, 'saved');
    const packed = join(folder, 'saved.zst');
    const out = join(folder, 'out');
    const monitor = join(folder, 'qmp');
    const sizes = quick ? [64] : [256, 1024, 2048, 4096];
    const last = quick ? 64 : 2048;
    const fresh = async (mib: number, path: string | null): Promise<Guest | null> => {
      rmSync(monitor, { force: true });
      rmSync(out, { force: true });
      warmMemory(out, mib);
      return Guest.start(monitor, mib, path);
    };
    const noSeconds = (): void => undefined;
    const saves: Seconds[] = [];
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
        // A round of the largest takes half a minute.
        const rounds = quick ? 1 : mib > 1024 ? 3 : 5;
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
              floor: { name: 'socket.pipe(zstd)', work: (guest) => pipeToZstd(guest, out) },
              maxRatio: 1.1,
            },
          );
        }
        for (const job of jobs) {
          yield await rowOfJob(
            job,
            () => fresh(mib, memory),
            rounds,
            job === jobs[0] ? (our, theirs) => saves.push({ mib, ours: our, theirs }) : noSeconds,
          );
        }
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
            floor: {
              name: 'createReadStream().pipe()',
              work: (to) => pipeFile(to, saved),
            },
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
        for (const job of restores) {
          yield await rowOfJob(job, () => fresh(mib, null), rounds, noSeconds);
        }
        rmSync(saved);
        rmSync(packed);
      }
      const pace = paceOf('save', saves, 1.25);
      if (pace !== null) yield pace;
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;
