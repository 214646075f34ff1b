// Real QEMUs with a stopped guest whose memory holds no two pages alike.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { QmpClient } from 'qemu-file/vm';
import type { Contender } from './row.ts';

const MIB = 2 ** 20;
const BINARY = process.env.QEMU ?? 'qemu-system-x86_64';
const POLL_MS = 2;

/**
 * Write a file for a guest's memory: `mib` MiB of pages that all differ and hardly compress.
 *
 * @param every - One MiB of so many holds data, the others are holes. Default 1.
 */
export function writeMemory(path: string, mib: number, every: number = 1): void {
  const fd = openSync(path, 'w', 0o600);
  const block = Buffer.alloc(MIB);
  // A xorshift generator: fast, and the same memory in every run.
  const words = new Uint32Array(block.buffer, block.byteOffset, MIB / 4);
  let word = 0x9e3779b9;
  for (let index = 0; index < words.length; index++) {
    word ^= word << 13;
    word ^= word >>> 17;
    word ^= word << 5;
    words[index] = word & 0x0fff_ffff;
  }
  for (let at = 0; at < mib; at += every) {
    for (let page = 0; page < 256; page++) words[page * 1024] = at * 256 + page;
    writeSync(fd, block, 0, MIB, at * MIB);
  }
  ftruncateSync(fd, mib * MIB);
  closeSync(fd);
}

/** Return whether a QEMU answers on its monitor. It listens before it has set up the guest's memory. */
async function answers(monitor: string): Promise<boolean> {
  if (!existsSync(monitor)) return false;
  try {
    await using qmp = await QmpClient.connect(monitor);
    await qmp.execute('query-status');
    return true;
  } catch {
    return false;
  }
}

/** A QEMU that holds, or waits for, a guest. */
export class Guest implements AsyncDisposable {
  readonly monitor: string;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, monitor: string) {
    this.#child = child;
    this.monitor = monitor;
  }

  /**
   * Start a QEMU with a stopped guest.
   *
   * @param monitor - Path for its QMP socket.
   * @param mib - Memory in MiB.
   * @param memory - File that the guest's memory begins with; null for a QEMU that waits for a migration.
   * @param isResident - Whether the guest has pages of its own already, as if it had run. Default false.
   * @returns The guest; null if QEMU is missing.
   */
  static async start(
    monitor: string,
    mib: number,
    memory: string | null,
    isResident: boolean = false,
  ): Promise<Guest | null> {
    const backend =
      memory === null
        ? `memory-backend-ram,id=ram,size=${mib}M`
        : `memory-backend-file,id=ram,size=${mib}M,mem-path=${memory},share=off,prealloc=${isResident ? 'on' : 'off'}`;
    const child = spawn(
      BINARY,
      [
        ...['-M', 'pc,memory-backend=ram', '-object', backend, '-m', `${mib}M`, '-S'],
        ...['-nodefaults', '-display', 'none', '-accel', 'tcg'],
        ...['-qmp', `unix:${monitor},server=on,wait=off`],
        ...(memory === null ? ['-incoming', 'defer'] : []),
      ],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    );
    const failed = once(child, 'error').then(
      () => true,
      () => true,
    );
    while (!(await answers(monitor))) {
      if (child.exitCode !== null) throw new Error(`${BINARY} ended with ${child.exitCode}`);
      if (await Promise.race([failed, sleep(POLL_MS, false)])) return null;
    }
    return new Guest(child, monitor);
  }

  /** Run a command of QEMU's monitor, such as `migrate`, and wait until the migration has completed. */
  async migrate(command: 'migrate' | 'migrate-incoming', uri: string): Promise<void> {
    await using qmp = await QmpClient.connect(this.monitor);
    if (command === 'migrate') {
      await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 60 });
    }
    await qmp.execute(command, { uri });
    for (;;) {
      const { status } = await qmp.execute<{ status?: string }>('query-migrate');
      if (status === 'completed') return;
      if (status === 'failed') throw new Error(`${command} ${uri} failed`);
      await sleep(POLL_MS);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'close');
  }
}

/** Measure the seconds of some work on a fresh QEMU, whose own start is not counted. */
export function timed(
  name: string,
  make: () => Promise<Guest | null>,
  work: (guest: Guest) => Promise<void>,
): Contender {
  return {
    name,
    run: async () => {
      await using guest = await make();
      if (guest === null) return null;
      const began = performance.now();
      await work(guest);
      return (performance.now() - began) / 1000;
    },
  };
}
