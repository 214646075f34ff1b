// What do other tools make of two snapshots of one guest?
import { readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { firmware } from '../test/qemu/harness/guest.ts';
import { requireQemu, startQemu } from '../test/qemu/harness/harness.ts';
import { makeFolder } from './harness/folder.ts';
import { writeMemory } from './harness/guest.ts';
import { MAIN } from './harness/paths.ts';
import { start } from './harness/process.ts';
import { type Bench, type Rounds, type Row, rowOf } from './harness/row.ts';

const MIB = 2 ** 20;
const MACHINE = 'microvm,acpi=off,rtc=off,isa-serial=off,x-option-roms=off,auto-kernel-cmdline=off';
/** Pages that the guest writes to again and again. */
const DIRTY_BYTES = 16 * MIB;
const ours = 'store';

/** A program and its arguments. */
type Call = readonly string[];

/** A tool, and how it keeps the second snapshot when it has the first one. */
interface Tool {
  readonly name: string;
  readonly first: readonly Call[];
  readonly second: Call;
  /** Name of what it writes. */
  readonly output: string;
}

/** Run a program; return false if it is missing. */
async function run([program = '', ...args]: Call, env: NodeJS.ProcessEnv = {}): Promise<boolean> {
  const options = { stdio: 'ignore', env: { ...process.env, ...env } } as const;
  const code = await start(program, args, options).ended;
  if (code !== null && code !== 0)
    throw new Error(`${program} ${args.join(' ')} ended with ${code}`);
  return code !== null;
}

function qemuFile(...args: string[]): Call {
  return [process.execPath, MAIN, ...args, '--quiet'];
}

/** Return the bytes of a file, or of all files below a directory; 0 if there is none. */
function bytesOf(path: string): number {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats === undefined) return 0;
  if (!stats.isDirectory()) return stats.size;
  return readdirSync(path).reduce((sum, name) => sum + bytesOf(join(path, name)), 0);
}

/** Save a guest twice while it works, so many seconds apart. */
async function saveTwice(folder: string, mib: number, seconds: number): Promise<void> {
  const memory = join(folder, 'memory');
  const monitor = join(folder, 'qmp');
  writeMemory(memory, mib);
  const qemu = await startQemu({
    machine: MACHINE,
    firmware: firmware({ patternBytes: DIRTY_BYTES, dirtyBytes: DIRTY_BYTES }),
    memoryMiB: mib,
    extraArgs: [
      ...['-object', `memory-backend-file,id=ram,size=${mib}M,mem-path=${memory},share=off`],
      ...['-machine', 'memory-backend=ram', '-qmp', `unix:${monitor},server=on,wait=off`],
    ],
  });
  try {
    await qemu.waitGuestReady();
    await run(qemuFile('save', '--qmp', monitor, '--resume', join(folder, 'first')));
    await sleep(seconds * 1000);
    await run(qemuFile('save', '--qmp', monitor, join(folder, 'second')));
  } finally {
    await qemu.stop();
    rmSync(memory);
  }
}

function toolsOf(folder: string, out: string): Tool[] {
  const [first, second] = [join(folder, 'first'), join(folder, 'second')];
  const place = (name: string): string => join(out, name);
  const store = `store:${place('store')}`;
  const borg = ['borg', 'create', '--compression', 'zstd,1'];
  return [
    {
      name: ours,
      first: [qemuFile('relay', first, `${store}#first`)],
      second: qemuFile('relay', second, `${store}#second`, '--parent', 'first'),
      output: 'store',
    },
    {
      name: 'zstd --patch-from',
      first: [],
      second: ['zstd', '-1', '--long=31', `--patch-from=${first}`, second, '-o', place('zstd')],
      output: 'zstd',
    },
    {
      name: 'xdelta3',
      first: [],
      second: ['xdelta3', '-1', '-e', '-B', '536870912', '-s', first, second, place('xdelta3')],
      output: 'xdelta3',
    },
    {
      name: 'restic',
      first: [
        ['restic', 'init'],
        ['restic', 'backup', first],
      ],
      second: ['restic', 'backup', second],
      output: 'restic',
    },
    {
      name: 'borg',
      first: [
        ['borg', 'init', '--encryption', 'none'],
        [...borg, '::first', first],
      ],
      second: [...borg, '::second', second],
      output: 'borg',
    },
  ];
}

/** Let a tool keep both snapshots; return the seconds and the MiB of the second one, null without the tool. */
async function measure(
  folder: string,
  index: number,
): Promise<{ seconds: number; mib: number } | null> {
  const out = makeFolder(join(folder, 'out-'));
  const { first, second, output } = toolsOf(folder, out)[index] as Tool;
  const env = {
    RESTIC_REPOSITORY: join(out, 'restic'),
    RESTIC_CACHE_DIR: join(out, 'restic-cache'),
    RESTIC_PASSWORD: 'bench',
    BORG_REPO: join(out, 'borg'),
    BORG_BASE_DIR: join(out, 'borg-base'),
  };
  try {
    for (const call of first) if (!(await run(call, env))) return null;
    const before = bytesOf(join(out, output));
    const began = performance.now();
    if (!(await run(second, env))) return null;
    const seconds = (performance.now() - began) / 1000;
    return { seconds, mib: (bytesOf(join(out, output)) - before) / MIB };
  } finally {
    rmSync(out, { recursive: true });
  }
}

const bench: Bench = {
  question: 'What do other tools make of two snapshots of one guest?',
  async *run({ quick }): AsyncGenerator<Row> {
    if (requireQemu() !== false) return;
    const mib = quick ? 64 : 256;
    const seconds = quick ? 1 : 10;
    const folder = makeFolder('/dev/shm/qemu-file-bench-');
    try {
      await saveTwice(folder, mib, seconds);
      const sizes: Rounds = new Map();
      const times: Rounds = new Map();
      for (const [index, { name }] of toolsOf(folder, folder).entries()) {
        const result = await measure(folder, index);
        sizes.set(name, result && [result.mib]);
        times.set(name, result && [result.seconds]);
      }
      const against = [...sizes.keys()].filter((name) => name !== ours);
      const title = `the second of two snapshots of ${mib} MiB, ${seconds} s apart`;
      yield rowOf(sizes, { name: `${title}: size`, unit: 'MiB', ours, against });
      yield rowOf(times, { name: `${title}: time`, unit: 's', ours, against });
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
};
export default bench;
