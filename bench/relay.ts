// Does the command move bytes as fast as socat, pv and cat, and with how much processor time?
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type NetConnectOpts } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FarEnd } from './harness/ends.ts';
import { makeFolder } from './harness/folder.ts';
import { start } from './harness/process.ts';
import type { Push } from './harness/pusher.ts';
import {
  allOf,
  alternate,
  atLeast,
  type Bench,
  type Contender,
  type Rounds,
  ratio,
  rowOf,
} from './harness/row.ts';

const ours = 'qemu-file';
const socat = 'socat';
/** socat's best block size of 64 KiB to 1 MiB, as measured. */
const BEST = 262_144;
const socatBest = `socat -b ${BEST}`;

const MAIN = fileURLToPath(new URL('../dist/lib/cli/main.js', import.meta.url));
const PUSHER = fileURLToPath(new URL('harness/pusher.ts', import.meta.url));

/** The command of one contender. */
type Commands = Record<string, [command: string, ...args: string[]]>;

/** One pair of endpoints. */
interface Case {
  name: string;
  commands: Commands;
  /** Address that the bytes are pushed to, if the command listens. */
  from?: NetConnectOpts;
  /** File that the command writes. */
  copy?: string;
  /** Whether the bytes arrive at the far end; otherwise the run ends when the command ends. */
  arrives: boolean;
}

function relay(from: string, to: string): [string, ...string[]] {
  return [process.execPath, MAIN, 'relay', from, to, '--no-check', '--quiet'];
}

function socats(from: string, to: string): Commands {
  return {
    [socat]: ['socat', '-u', from, to],
    [socatBest]: ['socat', '-b', String(BEST), '-u', from, to],
  };
}

/** Return a free TCP port. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

function casesOf(folder: string, file: string, sink: FarEnd, port: number): Case[] {
  const { unix, tcp } = sink.addresses;
  const path = join(folder, 'from');
  const copy = join(folder, 'copy');
  const host = '127.0.0.1';
  return [
    {
      name: 'unix → unix',
      commands: {
        [ours]: relay(`unix:${path}`, `unix:${unix}`),
        ...socats(`UNIX-LISTEN:${path},unlink-early`, `UNIX-CONNECT:${unix}`),
      },
      from: { path },
      arrives: true,
    },
    {
      name: 'tcp → tcp',
      commands: {
        [ours]: relay(`tcp:${host}:${port}`, `tcp:${host}:${tcp}`),
        ...socats(`TCP-LISTEN:${port},bind=${host},reuseaddr`, `TCP:${host}:${tcp}`),
      },
      from: { port, host },
      arrives: true,
    },
    {
      name: 'file → unix',
      commands: {
        [ours]: relay(file, `unix:${unix}`),
        ...socats(`OPEN:${file},rdonly`, `UNIX-CONNECT:${unix}`),
      },
      arrives: true,
    },
    {
      name: 'exec → file, start-up included',
      commands: {
        [ours]: relay(`exec:cat ${file}`, copy),
        ...socats(`EXEC:cat ${file}`, `OPEN:${copy},creat,trunc,wronly`),
        pv: ['sh', '-c', `cat ${file} | pv -q > ${copy}`],
        cat: ['sh', '-c', `cat ${file} | cat > ${copy}`],
      },
      copy,
      arrives: false,
    },
  ];
}

/** Return bytes per nanosecond; add processor seconds per GB to `cpu`. */
function contendersOf(
  one: Case,
  bytes: number,
  sink: FarEnd,
  push: (order: Push) => void,
  cpu: Rounds,
): Contender[] {
  return Object.entries(one.commands).map(([name, [command, ...args]]) => ({
    name,
    run: async () => {
      // Remove the old file first: replacing it frees its memory only after the new one is written, three times slower.
      if (one.copy !== undefined) rmSync(one.copy, { force: true });
      const arrival = one.arrives ? sink.arrival() : undefined;
      const begin = performance.now();
      const { used, ended } = start(command, args);
      if (one.from !== undefined) push({ to: one.from, bytes });
      // A missing program ends before anything arrives.
      const first = await Promise.race([arrival ?? ended, ended]);
      const code = await ended;
      if (code !== 0) return null;
      const came = arrival === undefined ? undefined : await arrival;
      if (came !== undefined && came.bytes !== bytes) throw new Error(`${name} lost bytes`);
      const seconds = came?.seconds ?? (performance.now() - begin) / 1000;
      if (first !== null) cpu.get(name)?.push((used.cpuSeconds * 1e9) / bytes);
      return bytes / (seconds * 1e9);
    },
  }));
}

const bench: Bench = {
  question:
    'Does the command move bytes as fast as socat, pv and cat, and with how much processor time?',
  async *run({ quick }) {
    const bytes = (quick ? 64 : 2048) * 2 ** 20;
    const folder = makeFolder('/dev/shm/qemu-file-bench-');
    const file = join(folder, 'file');
    const pusher = fork(PUSHER, { execArgv: ['--import', 'tsx'] });
    try {
      using sink = await FarEnd.start('sink');
      await once(pusher, 'message');
      const part = Buffer.alloc(2 ** 24, 0xa5);
      for (let at = 0; at < bytes; at += part.length) writeFileSync(file, part, { flag: 'a' });
      for (const one of casesOf(folder, file, sink, await freePort())) {
        const cpu: Rounds = new Map(Object.keys(one.commands).map((name) => [name, []]));
        const push = (order: Push): void => void pusher.send(order);
        const contenders = contendersOf(one, bytes, sink, push, cpu);
        const rounds = await alternate(contenders, quick ? 1 : 5);
        const others = Object.keys(one.commands).filter((name) => name !== ours);
        const toDefault = ratio(rounds, ours, socat);
        const toBest = ratio(rounds, ours, socatBest);
        yield rowOf(rounds, {
          name: `relay ${one.name}`,
          unit: 'GB/s',
          ours,
          against: others,
          mustReach: '≥ 1.0 × socat, ≥ 0.9 × its best',
          reached: () => allOf(atLeast(toDefault, 1), atLeast(toBest, 0.9)),
        });
        for (const [name, values] of rounds) if (values === null) cpu.set(name, null);
        yield rowOf(cpu, {
          name: `relay ${one.name}: processor time`,
          unit: 's/GB',
          ours,
          // The processor time of a shell's children is unknown.
          against: others.filter((name) => one.commands[name]?.[0] !== 'sh'),
        });
      }
    } finally {
      pusher.disconnect();
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;
