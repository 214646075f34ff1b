// How soon does a clone of a template run, and how much memory is its own?
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openFrom } from 'qemu-file/adapters';
import { openSavedGuest, unwrap } from 'qemu-file/migration';
import { makeTemplate, QmpClient, type QmpEvent, restoreTemplate } from 'qemu-file/vm';
import { makeFolder } from './harness/folder.ts';
import { Guest, writeMemory } from './harness/guest.ts';
import { alternate, atMost, type Bench, type Row, rowOf } from './harness/row.ts';

const BINARY = process.env.QEMU ?? 'qemu-system-x86_64';
const MIB = 2 ** 20;
const MAX_RUN_MS = 30;
const MAX_PRIVATE_MIB = 16;
const ours = 'clone';

/** Milliseconds of an event by QEMU's clock. */
function timeOf({ timestamp = { seconds: 0, microseconds: 0 } }: QmpEvent): number {
  return timestamp.seconds * 1000 + timestamp.microseconds / 1000;
}

/** Return the MiB of a mapping of files in `folder` that only this process has. */
function privateMib(pid: number, folder: string): number {
  const maps = readFileSync(`/proc/${pid}/smaps`, 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const own = maps.filter((map) => map.split('\n')[0]?.includes(folder));
  const kib = own.map((map) => Number(/^Private_Dirty:\s+(\d+)/m.exec(map)?.[1] ?? 0));
  return kib.reduce((sum, value) => sum + value, 0) / 1024;
}

/** Start a clone and give it its state; return milliseconds to the RESUME event and its own MiB. */
async function clone(
  folder: string,
  directory: string,
  args: readonly string[],
): Promise<{ runMs: number; ownMib: number }> {
  const monitor = join(folder, 'clone.qmp');
  rmSync(monitor, { force: true });
  const child = spawn(
    BINARY,
    [
      ...args,
      ...['-nodefaults', '-display', 'none', '-accel', 'tcg', '-S', '-incoming', 'defer'],
      ...['-qmp', `unix:${monitor},server=on,wait=off`],
    ],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  );
  try {
    while (!existsSync(monitor)) await sleep(2);
    await using qmp = await QmpClient.connect(monitor);
    await qmp.execute('migrate-set-capabilities', {
      capabilities: [{ capability: 'events', state: true }],
    });
    const events: QmpEvent[] = [];
    qmp.on('event', (event) => events.push(event));
    await restoreTemplate(qmp, directory, { resume: true });
    const began = events.find(({ event }) => event === 'MIGRATION') as QmpEvent;
    const ran = events.find(({ event }) => event === 'RESUME') as QmpEvent;
    return {
      runMs: timeOf(ran) - timeOf(began),
      ownMib: privateMib(child.pid as number, directory),
    };
  } finally {
    child.kill('SIGKILL');
  }
}

async function row(name: string, values: number[], unit: string, most: number): Promise<Row> {
  const left = [...values];
  const run = (): Promise<number> => Promise.resolve(left.shift() as number);
  return rowOf(await alternate([{ name: ours, run }], values.length), {
    name,
    unit,
    ours,
    against: [],
    mustReach: `≤ ${most} ${unit}`,
    reached: (value) => atMost(value, most),
  });
}

const bench: Bench = {
  question: 'How soon does a clone of a template run, and how much memory is its own?',
  async *run({ quick }) {
    const folder = makeFolder('/dev/shm/qemu-file-template-');
    const mib = quick ? 256 : 1024;
    try {
      const [memory, stream] = [join(folder, 'memory'), join(folder, 'vm.mig')];
      writeMemory(memory, mib);
      const source = await Guest.start(join(folder, 'source.qmp'), mib, memory);
      if (source === null) return;
      await source.migrate('migrate', `exec:cat >${stream}`);
      await source[Symbol.asyncDispose]();
      rmSync(memory);
      const guest = await openSavedGuest(await unwrap(await openFrom(`file:${stream}`)));
      const directory = join(folder, 'golden');
      const began = performance.now();
      const template = await makeTemplate(guest, directory);
      const makeSeconds = (performance.now() - began) / 1000;
      await guest.close();
      const clones: { runMs: number; ownMib: number }[] = [];
      for (let round = 0; round < (quick ? 1 : 5); round++) {
        clones.push(await clone(folder, directory, template.arguments));
      }
      const what = `of a ${mib} MiB template`;
      const times = clones.map(({ runMs }) => runMs);
      yield await row(`clone ${what}: migrate-incoming to RESUME`, times, 'ms', MAX_RUN_MS);
      const own = clones.map(({ ownMib }) => ownMib);
      yield await row(`clone ${what}: memory of its own`, own, 'MiB', MAX_PRIVATE_MIB);
      const rate = (): Promise<number> => Promise.resolve((mib * MIB) / makeSeconds / 1e9);
      yield rowOf(await alternate([{ name: ours, run: rate }], 1), {
        ...{ name: `making a template of ${mib} MiB`, unit: 'GB/s', ours, against: [] },
        ...{ mustReach: '', reached: () => null },
      });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;
