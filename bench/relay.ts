// Does the command move bytes as fast as socat, pv and cat, and with how much processor time?
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, copyFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { FarEnd } from './harness/ends.ts';
import { makeFolder } from './harness/folder.ts';
import { MAIN, pathOf } from './harness/paths.ts';
import { start } from './harness/process.ts';
import type { Push } from './harness/programs/pusher.ts';
import {
  allOf,
  alternate,
  atLeast,
  atMost,
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
const floor = 'plain Node';
/** What Node's public API permits for a connection that was accepted. */
const pipe = "Node's pipe()";
const CHANNELS = 8;

const PUSHER = pathOf('dist/bench/harness/programs/pusher.js');
const PLAIN_RELAY = pathOf('bench/harness/programs/plain-relay.mjs');
const fixture = (name: string): string => pathOf(`test/fixtures/tls/${name}`);

/** The command of one contender. */
type Commands = Record<string, [command: string, ...args: string[]]>;

/** One pair of endpoints. */
interface Case {
  name: string;
  commands: Commands;
  /** Bytes to move. */
  bytes: number;
  /** What the command is sent, if it listens. */
  push?: Push;
  /** File that the command writes. */
  copy?: string;
  /** Whether the bytes arrive at the far end; otherwise the run ends when the command ends. */
  arrives: boolean;
  mustReach: string;
  reached: (rounds: Rounds) => boolean | null;
}

function relay(from: string, to: string, ...options: string[]): [string, ...string[]] {
  return [process.execPath, MAIN, 'relay', from, to, '--no-check', '--quiet', ...options];
}

function plain(from: string, to: string, how = '1'): [string, ...string[]] {
  return [process.execPath, PLAIN_RELAY, from, to, how];
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

const asFastAsBest = {
  mustReach: '≥ 1.0 × socat, ≥ 1.0 × its best',
  reached: (rounds: Rounds) =>
    allOf(atLeast(ratio(rounds, ours, socat), 1), atLeast(ratio(rounds, ours, socatBest), 1)),
};

function casesOf(folder: string, bytes: number, sink: FarEnd, port: number): Case[] {
  const { unix, tcp, tls } = sink.addresses;
  const path = join(folder, 'from');
  const file = join(folder, 'file');
  const copy = join(folder, 'copy');
  const host = '127.0.0.1';
  const tlsBytes = bytes / 4;
  const cert = fixture('server.pem');
  const key = join(folder, 'key.pem');
  copyFileSync(fixture('server-key.pem'), key);
  // The command warns of a key that others can read.
  chmodSync(key, 0o600);
  return [
    {
      name: 'unix → unix',
      commands: {
        [ours]: relay(`unix:${path}`, `unix:${unix}`),
        ...socats(`UNIX-LISTEN:${path},unlink-early`, `UNIX-CONNECT:${unix}`),
        [floor]: plain(`unix:${path}`, `unix:${unix}`),
        [pipe]: plain(`unix:${path}`, `unix:${unix}`, 'pipe'),
      },
      bytes,
      push: { to: { path }, bytes },
      arrives: true,
      ...asFastAsBest,
    },
    {
      name: 'tcp → tcp',
      commands: {
        [ours]: relay(`tcp:${host}:${port}`, `tcp:${host}:${tcp}`),
        ...socats(`TCP-LISTEN:${port},bind=${host},reuseaddr`, `TCP:${host}:${tcp}`),
        [floor]: plain(`tcp:${port}`, `tcp:${tcp}`),
        [pipe]: plain(`tcp:${port}`, `tcp:${tcp}`, 'pipe'),
      },
      bytes,
      push: { to: { port, host }, bytes },
      arrives: true,
      ...asFastAsBest,
    },
    {
      name: 'file → unix',
      commands: {
        [ours]: relay(file, `unix:${unix}`),
        ...socats(`OPEN:${file},rdonly`, `UNIX-CONNECT:${unix}`),
        [floor]: plain(file, `unix:${unix}`),
      },
      bytes,
      arrives: true,
      ...asFastAsBest,
    },
    {
      name: 'TLS 1.3 → TLS 1.3',
      commands: {
        [ours]: relay(
          `tcp:${host}:${port}`,
          `tcp:${host}:${tls}`,
          '--from-tls-anonymous',
          ...['--from-tls-cert', cert, '--from-tls-key', key],
          ...['--to-tls-ca', fixture('ca.pem')],
        ),
        ...socats(
          `OPENSSL-LISTEN:${port},bind=${host},reuseaddr,verify=0,cert=${cert},key=${key}`,
          `OPENSSL:${host}:${tls},verify=0`,
        ),
        [floor]: plain(`tls:${port}`, `tls:${tls}`),
      },
      bytes: tlsBytes,
      push: { to: { port, host }, bytes: tlsBytes, isTls: true },
      arrives: true,
      ...asFastAsBest,
    },
    {
      name: `${CHANNELS} multifd channels, unix → unix`,
      commands: {
        [ours]: relay(`unix:${path}`, `unix:${unix}`, '--channels', String(CHANNELS + 1)),
        ...socats(`UNIX-LISTEN:${path},unlink-early,fork`, `UNIX-CONNECT:${unix}`),
        [floor]: plain(`unix:${path}`, `unix:${unix}`, String(CHANNELS + 1)),
      },
      bytes,
      push: { to: { path }, bytes, channels: CHANNELS },
      arrives: true,
      mustReach: '≥ 0.8 × socat at its best',
      reached: (rounds) => atLeast(ratio(rounds, ours, socatBest), 0.8),
    },
    {
      name: 'exec → file, start-up included',
      commands: {
        [ours]: relay(`exec:cat ${file}`, copy),
        ...socats(`EXEC:cat ${file}`, `OPEN:${copy},creat,trunc,wronly`),
        pv: ['sh', '-c', `cat ${file} | pv -q > ${copy}`],
        cat: ['sh', '-c', `cat ${file} | cat > ${copy}`],
      },
      bytes,
      copy,
      arrives: false,
      ...asFastAsBest,
    },
  ];
}

/** Return bytes per nanosecond; add processor seconds per GB to `cpu`. */
function contendersOf(
  one: Case,
  sink: FarEnd,
  send: (order: Push) => void,
  cpu: Rounds,
): Contender[] {
  const { bytes, push } = one;
  return Object.entries(one.commands).map(([name, [command, ...args]]) => ({
    name,
    run: async () => {
      // Remove the old file first: replacing it frees its memory only after the new one is written, three times slower.
      if (one.copy !== undefined) rmSync(one.copy, { force: true });
      const { channels } = push ?? {};
      const connections = channels === undefined ? 1 : channels + 1;
      const arrival = one.arrives ? sink.arrival(connections) : undefined;
      const begin = performance.now();
      const { child, used, ended } = start(command, args);
      if (push !== undefined) send(push);
      // A missing program ends before anything arrives.
      const first = await Promise.race([arrival ?? ended, ended]);
      // One that forks for each connection goes on listening.
      if (args.some((arg) => arg.endsWith(',fork'))) child.kill();
      else if ((await ended) !== 0) return null;
      const came = arrival === undefined ? undefined : await arrival;
      if (came !== undefined && came.bytes < bytes) throw new Error(`${name} lost bytes`);
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
    const pusher = fork(PUSHER);
    try {
      using sink = await FarEnd.start('sink');
      await once(pusher, 'message');
      const part = Buffer.alloc(2 ** 24, 0xa5);
      for (let at = 0; at < bytes; at += part.length) writeFileSync(file, part, { flag: 'a' });
      for (const one of casesOf(folder, bytes, sink, await freePort())) {
        const cpu: Rounds = new Map(Object.keys(one.commands).map((name) => [name, []]));
        const send = (order: Push): void => void pusher.send(order);
        const rounds = await alternate(contendersOf(one, sink, send, cpu), quick ? 1 : 5);
        const others = Object.keys(one.commands).filter((name) => name !== ours);
        yield rowOf(rounds, {
          name: `relay ${one.name}`,
          unit: 'GB/s',
          ours,
          against: others,
          mustReach: one.mustReach,
          reached: () => one.reached(rounds),
        });
        // The processor time of processes that a contender forks for each connection is unknown.
        if (one.push?.channels !== undefined) continue;
        for (const [name, values] of rounds) if (values === null) cpu.set(name, null);
        const toBest = ratio(cpu, ours, socatBest);
        yield rowOf(cpu, {
          name: `relay ${one.name}: processor time`,
          unit: 's/GB',
          ours,
          // Nor is that of a shell's children known.
          against: others.filter((name) => one.commands[name]?.[0] !== 'sh'),
          mustReach: one.arrives ? '≤ 1.3 × socat at its best' : '',
          reached: () => (one.arrives ? atMost(toBest, 1.3) : null),
        });
      }
    } finally {
      pusher.disconnect();
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default bench;
