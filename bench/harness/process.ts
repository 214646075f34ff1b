import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** Clock ticks of /proc/PID/stat per second: 100 on every Linux that Node runs on. */
const TICKS = 100;
const POLL_MS = 10;

/** Return the processor time of a process in seconds; null if it has ended. */
export function cpuSeconds(pid: number): number | null {
  const text = readProc(pid, 'stat');
  if (text === null) return null;
  // Fields are counted after the name, which may contain anything: state is 3, utime 14, stime 15.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS;
}

/** Return the peak memory of a process in MiB; null if it has ended. */
export function peakMiB(pid: number): number | null {
  const kib = /VmHWM:\s*(\d+)/.exec(readProc(pid, 'status') ?? '')?.[1];
  return kib === undefined ? null : Number(kib) / 1024;
}

function readProc(pid: number, name: string): string | null {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'latin1');
  } catch {
    return null;
  }
}

/** A running command, its resource use so far, and its end. */
export interface Running {
  child: ChildProcess;
  used: { cpuSeconds: number; peakMiB: number };
  /** Exit code; null if the command is missing. */
  ended: Promise<number | null>;
}

const running = new Set<ChildProcess>();

/** Before the folders are removed that the commands use. */
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** Start a command and watch its resource use. It ends with this process. */
export function start(command: string, args: string[], options: SpawnOptions = {}): Running {
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit'], ...options });
  running.add(child);
  const used = { cpuSeconds: 0, peakMiB: 0 };
  const timer = setInterval(() => {
    const pid = child.pid as number;
    used.cpuSeconds = cpuSeconds(pid) ?? used.cpuSeconds;
    used.peakMiB = peakMiB(pid) ?? used.peakMiB;
  }, POLL_MS);
  const ended = new Promise<number | null>((resolve) => {
    child.once('error', () => resolve(null));
    child.once('close', (code) => resolve(code));
  }).finally(() => {
    clearInterval(timer);
    running.delete(child);
  });
  return { child, used, ended };
}
