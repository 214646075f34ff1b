import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer, Socket } from 'node:net';
import { makeTempDir, onProcessEnd, type TempDir } from '../../helpers/cleanup.ts';
import { until, within } from '../../helpers/until.ts';
import { GUEST } from './guest.ts';
import { QmpClient } from './qmp.ts';

const MIB = 1 << 20;
const QUIT_DEADLINE_MS = 1_000;
const FIRST_INHERITED_FD = 3;

/** Machines with as little in them as the guests need; any other name is given to QEMU as it is. */
const MACHINES: Readonly<Record<string, string>> = {
  microvm: 'microvm,acpi=off,rtc=off,isa-serial=off,x-option-roms=off,auto-kernel-cmdline=off',
};

/** Options of a QEMU to start; only one of the two images can be set. */
export interface QemuOptions {
  /** Default `microvm`, which boots a firmware image only; boot sectors want `pc`. */
  machine?: string;
  /** Default 16. */
  memoryMiB?: number;
  /** Image for `-bios`, as `firmware()` makes it. */
  firmware?: Uint8Array;
  /** Image of a disk, as `bootSector()` makes it. */
  bootSector?: Uint8Array;
  /** Waits for a migration from this URI, or with `defer` until `migrateIncoming` names one. */
  incoming?: string;
  /** Leaves the processor stopped, after an incoming migration too. */
  startStopped?: boolean;
  extraArgs?: readonly string[];
  /**
   * Descriptors that QEMU inherits, as number 3 and up: an open one of ours, or `pipe` for a new socket
   * pair whose other end is in `channels`.
   */
  inherit?: readonly (number | 'pipe')[];
  /** Default: the environment's `QEMU`, or else `qemu-system-x86_64`. */
  binary?: string;
  /** Gives up starting. */
  signal?: AbortSignal;
}

/** Capabilities and parameters to set before a migration, by QEMU's names. */
export interface MigrationSettings {
  capabilities?: Readonly<Record<string, boolean>>;
  parameters?: Readonly<Record<string, number | string>>;
}

/** How long to wait for the end of a migration. */
export interface MigrationWait {
  /** Default as for `until`. */
  deadlineMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** The fields of `query-migrate` that tests use. */
export interface MigrationInfo {
  /** Absent before the first migration. */
  status?: string;
  'error-desc'?: string;
  /** Milliseconds. */
  'total-time'?: number;
  /** Milliseconds. */
  downtime?: number;
  /** Only with the capability `auto-converge`, and only while the processor is slowed down. */
  'cpu-throttle-percentage'?: number;
  'socket-address'?: { type: string; host?: string; port?: string; path?: string }[];
  ram?: {
    total: number;
    transferred: number;
    remaining: number;
    duplicate: number;
    normal: number;
    mbps: number;
    'dirty-sync-count': number;
    'page-size': number;
    'postcopy-requests': number;
    'postcopy-bytes': number;
    'multifd-bytes': number;
  };
  /** Only with the capability `xbzrle`. */
  'xbzrle-cache'?: { pages: number; bytes: number; 'cache-miss': number; overflow: number };
  /** Only with the capability `compress`. */
  compression?: { pages: number; busy: number; 'compressed-size': number };
}

/** Gives the QEMU that the tests use where no other is asked for. */
export function defaultBinary(): string {
  return process.env.QEMU ?? 'qemu-system-x86_64';
}

/** Gives the version line of a QEMU, or nothing where there is none. */
export function qemuVersion(binary: string = defaultBinary()): string | undefined {
  const { status, stdout } = spawnSync(binary, ['--version'], { encoding: 'utf8' });
  return status === 0 ? stdout.split('\n')[0] : undefined;
}

/**
 * The value for the `skip` option of tests that need QEMU: `false` where it is installed, else the reason.
 *
 * @throws {Error} if it is missing and `CI` is set, because a skipped test in CI would be an unnoticed failure.
 */
export function requireQemu(binary: string = defaultBinary()): string | false {
  if (qemuVersion(binary) !== undefined) return false;
  const reason = `${binary} is not installed`;
  if (process.env.CI) throw new Error(`${reason}, and these tests must not be skipped in CI`);
  return reason;
}

/**
 * Starts a QEMU, under TCG and without any default device, and waits until it answers on QMP.
 *
 * @returns Its handle; the caller must `stop()` it, or declare it with `await using`.
 * @throws Error with QEMU's stderr when it ends before that.
 */
export async function startQemu(options: QemuOptions = {}): Promise<Qemu> {
  options.signal?.throwIfAborted();
  const dir = makeTempDir();
  let running: QemuProcess | undefined;
  try {
    const { firmware, bootSector, inherit = [] } = options;
    if (firmware !== undefined) await writeFile(dir.join('firmware.bin'), firmware);
    if (bootSector !== undefined) await writeFile(dir.join('disk.img'), bootSector);
    const commandLine = [options.binary ?? defaultBinary(), ...qemuArguments(options, dir)];
    const child = spawnTied(commandLine, inherit, dir.join('stderr'));
    running = new QemuProcess(child, dir);
    const qmp = await within(QmpClient.open(child, running.ended), {
      what: 'QEMU to answer',
      signal: options.signal,
    });
    return new Qemu(running, qmp, commandLine, (options.memoryMiB ?? 16) * MIB);
  } catch (error) {
    await running?.end();
    dir.remove();
    throw error;
  }
}

/** A running QEMU: its process, its monitor, its guest. */
export class Qemu implements AsyncDisposable {
  readonly qmp: QmpClient;
  /** The program and its arguments. */
  readonly commandLine: readonly string[];
  readonly memoryBytes: number;
  readonly #process: QemuProcess;
  #memoryFiles = 0;

  /** Use `startQemu`. */
  constructor(
    process: QemuProcess,
    qmp: QmpClient,
    commandLine: readonly string[],
    memoryBytes: number,
  ) {
    this.#process = process;
    this.qmp = qmp;
    this.commandLine = commandLine;
    this.memoryBytes = memoryBytes;
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** Our ends of the inherited `pipe`s, in their order. */
  get channels(): readonly Socket[] {
    return this.#process.channels;
  }

  /** The bytes that QEMU has written to its stderr so far. */
  get stderr(): string {
    return this.#process.stderr();
  }

  /** End QEMU: ask it to quit, kill it if it does not, and remove its files. */
  async stop(): Promise<void> {
    // A QEMU that has already gone, or goes while it is asked, answers with an error.
    this.qmp.execute('quit').catch(() => {});
    await this.#process.end(QUIT_DEADLINE_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /** Stops the processor. */
  async pause(): Promise<void> {
    await this.qmp.execute('stop');
  }

  /** Lets the processor go on. */
  async resume(): Promise<void> {
    await this.qmp.execute('cont');
  }

  /** Gives the run state: `running`, `paused`, `inmigrate`, `postmigrate` … */
  async status(): Promise<string> {
    return (await this.qmp.execute<{ status: string }>('query-status')).status;
  }

  /** Waits until the run state is one of those given. */
  async waitStatus(wanted: readonly string[], deadlineMs?: number): Promise<string> {
    const what = `the run state ${wanted.join(' or ')}`;
    return until(
      async () => {
        const status = await this.status();
        return wanted.includes(status) && status;
      },
      { what, deadlineMs },
    );
  }

  /** Waits until the processor runs, as it does when an incoming migration has been loaded. */
  async waitRunning(deadlineMs?: number): Promise<void> {
    await this.waitStatus(['running'], deadlineMs);
  }

  /** Reads guest-physical memory. */
  async readGuestMemory(address: number, length: number): Promise<Buffer> {
    this.#memoryFiles += 1;
    const filename = this.#process.dir.join(`memory-${this.#memoryFiles}`);
    try {
      await this.qmp.execute('pmemsave', { val: address, size: length, filename });
      return await readFile(filename);
    } finally {
      await rm(filename, { force: true });
    }
  }

  /** Reads all of the guest's RAM; meaningful while the processor is stopped. */
  async readRam(): Promise<Buffer> {
    return this.readGuestMemory(0, this.memoryBytes);
  }

  /** Gives the SHA-256 of the guest's RAM; meaningful while the processor is stopped. */
  async ramSha256(): Promise<string> {
    return createHash('sha256')
      .update(await this.readRam())
      .digest('hex');
  }

  /** Reads the guest's counter of timer ticks. */
  async counter(): Promise<number> {
    return (await this.readGuestMemory(GUEST.counter, 4)).readUInt32LE();
  }

  /** Waits until the guest has filled its memory and counts. */
  async waitGuestReady(): Promise<void> {
    await until(
      async () => {
        const words = await this.readGuestMemory(GUEST.counter, 8);
        const ready = words.readUInt32LE(GUEST.ready - GUEST.counter) === GUEST.readyMagic;
        return ready && words.readUInt32LE(0) > 0;
      },
      { what: 'the guest to count' },
    );
  }

  /** Waits until the guest's counter has gone up, so that it is certain that the guest runs. */
  async waitCounterRises(by: number = 3): Promise<{ from: number; to: number }> {
    const from = await this.counter();
    const to = await until(
      async () => {
        const now = await this.counter();
        return now >= from + by && now;
      },
      { what: `the guest's counter to rise from ${from} by ${by}` },
    );
    return { from, to };
  }

  /** Sets migration capabilities and parameters; `MIGRATION` events are always switched on. */
  async setMigration({ capabilities = {}, parameters = {} }: MigrationSettings): Promise<void> {
    await this.qmp.execute('migrate-set-capabilities', {
      capabilities: Object.entries({ events: true, ...capabilities }).map(
        ([capability, state]) => ({ capability, state }),
      ),
    });
    await this.qmp.execute('migrate-set-parameters', { ...parameters });
  }

  /** Starts to migrate away, and does not wait. */
  async startMigration(uri: string, settings: MigrationSettings = {}): Promise<void> {
    await this.setMigration(settings);
    await this.qmp.execute('migrate', { uri });
  }

  /** Gives the full name of the machine type, such as `pc-i440fx-7.2`. */
  async machineType(): Promise<string> {
    const property = { path: '/machine', property: 'type' };
    return (await this.qmp.execute<string>('qom-get', property)).replace(/-machine$/, '');
  }

  /** Gives the state of the migration. */
  async migrationInfo(): Promise<MigrationInfo> {
    return this.qmp.execute<MigrationInfo>('query-migrate');
  }

  /** Waits until the migration has ended, in whatever way, and the processor is in its final state. */
  async waitMigrationEnd({ deadlineMs, signal }: MigrationWait = {}): Promise<MigrationInfo> {
    return until(
      async () => {
        const info = await this.migrationInfo();
        const ended = ['completed', 'failed', 'cancelled'].includes(info.status ?? '');
        // The run state follows a moment later.
        return ended && (await this.status()) !== 'finish-migrate' && info;
      },
      { what: 'the end of the migration', deadlineMs, signal },
    );
  }

  /**
   * Migrates away and waits until that is complete.
   *
   * @throws Error with QEMU's own reason when it fails or is cancelled.
   */
  async migrate(
    uri: string,
    { deadlineMs, signal, ...settings }: MigrationSettings & MigrationWait = {},
  ): Promise<MigrationInfo> {
    await this.startMigration(uri, settings);
    const info = await this.waitMigrationEnd({ signal, deadlineMs });
    const reason = info['error-desc'] ?? 'no reason given';
    assert.equal(info.status, 'completed', `migrate ${uri}: ${reason}; stderr: ${this.stderr}`);
    return info;
  }

  /**
   * Gives QEMU a descriptor of ours for `migrate fd:NAME`, which, unlike `-incoming`, takes no number.
   *
   * @param fd - Of a pipe, a FIFO or a socket; closed here.
   */
  async passDescriptor(name: string, fd: number): Promise<void> {
    await this.qmp.passDescriptor(name, new Socket({ fd, readable: false, writable: false }));
  }

  /**
   * Gives QEMU one end of a new connection, for `migrate fd:NAME`.
   *
   * @returns Our end; it closes with `stop()` at the latest.
   */
  async passChannel(name: string): Promise<Socket> {
    const path = this.#process.dir.join(`${name}.sock`);
    const server = createServer().listen(path);
    try {
      await once(server, 'listening');
      const ours = connect(path);
      this.#process.own(ours);
      const [theirs] = (await once(server, 'connection')) as [Socket];
      await this.qmp.passDescriptor(name, theirs);
      return ours;
    } finally {
      server.close();
    }
  }

  /** Names the source to a QEMU started with `incoming: 'defer'`; tcp and unix listen when this returns. */
  async migrateIncoming(uri: string, settings: MigrationSettings = {}): Promise<void> {
    await this.setMigration(settings);
    await this.qmp.execute('migrate-incoming', { uri });
  }

  /** Waits until an incoming migration has ended, and fails with QEMU's own reason when it did so badly. */
  async waitIncomingEnd(): Promise<MigrationInfo> {
    const info = await this.waitMigrationEnd();
    assert.equal(info.status, 'completed', `incoming: ${info['error-desc']}; ${this.stderr}`);
    return info;
  }

  /** The port on which an incoming `tcp:host:0` listens. */
  async incomingPort(): Promise<number> {
    const [address] = (await this.migrationInfo())['socket-address'] ?? [];
    assert.ok(address?.port, 'QEMU listens on a TCP port');
    return Number(address.port);
  }
}

/** Gives the addresses of the pages in which two memories differ. */
export function differingPages(a: Buffer, b: Buffer): number[] {
  const pages: number[] = [];
  for (let at = 0; at < Math.max(a.length, b.length); at += 4096) {
    if (!a.subarray(at, at + 4096).equals(b.subarray(at, at + 4096))) pages.push(at);
  }
  return pages;
}

/** The process of a QEMU and its directory: everything that must be removed. */
class QemuProcess {
  readonly dir: TempDir;
  readonly pid: number;
  readonly channels: readonly Socket[];
  /** Fulfilled once the process is gone, with the error for those who did not expect that. */
  readonly ended: Promise<Error>;
  readonly #child: ChildProcess;
  readonly #sockets: Socket[] = [];
  #lastStderr: string | undefined;

  constructor(child: ChildProcess, dir: TempDir) {
    this.#child = child;
    this.dir = dir;
    this.pid = child.pid ?? 0;
    this.channels = child.stdio.filter((stream) => stream instanceof Socket);
    for (const channel of this.channels) this.own(channel);
    const withdraw = onProcessEnd(() => child.kill('SIGKILL'));
    this.ended = new Promise((resolve) => {
      const ended = (how: string) => {
        withdraw();
        this.#lastStderr = this.stderr();
        resolve(new Error(`QEMU ${how}; stderr: ${this.#lastStderr.trim() || 'empty'}`));
      };
      child.on('error', (error) => {
        if (child.pid === undefined) ended(`could not be started: ${error.message}`);
      });
      child.on('exit', (code, signal) =>
        ended(signal === null ? `exited with status ${code}` : `was ended by ${signal}`),
      );
    });
  }

  stderr(): string {
    return this.#lastStderr ?? readFileSync(this.dir.join('stderr'), 'utf8');
  }

  /** Takes charge of a socket to this QEMU. */
  own(socket: Socket): void {
    // A test that does not look at its end of a connection must not fail by the other end's death.
    socket.on('error', () => {});
    this.#sockets.push(socket);
  }

  /** Gives the process some time to end by itself, ends it, and removes everything. */
  async end(patienceMs: number = 0): Promise<void> {
    // An interval also keeps this process until QEMU has ended.
    const killing = setInterval(() => this.#child.kill('SIGKILL'), patienceMs);
    await this.ended;
    clearInterval(killing);
    for (const socket of this.#sockets) socket.destroy();
    this.dir.remove();
  }
}

function qemuArguments(options: QemuOptions, dir: TempDir): string[] {
  const { machine = 'microvm', memoryMiB = 16, incoming, extraArgs = [] } = options;
  const args = ['-M', MACHINES[machine] ?? machine, '-accel', 'tcg', '-m', `${memoryMiB}M`];
  args.push('-no-user-config', '-nodefaults', '-display', 'none', '-serial', 'none');
  args.push('-net', 'none', '-msg', 'timestamp=off');
  const qmpFd = FIRST_INHERITED_FD + (options.inherit?.length ?? 0);
  args.push('-chardev', `socket,id=qmp,fd=${qmpFd}`, '-mon', 'chardev=qmp,mode=control');
  if (options.firmware !== undefined) args.push('-bios', dir.join('firmware.bin'));
  if (options.bootSector !== undefined) {
    args.push('-drive', `format=raw,file=${dir.join('disk.img')}`);
  }
  if (options.startStopped === true) args.push('-S');
  if (incoming !== undefined) args.push('-incoming', incoming);
  return [...args, ...extraArgs];
}

/** Starts a program that the kernel kills when this process dies, where that can be arranged. */
function spawnTied(
  commandLine: readonly string[],
  inherit: readonly (number | 'pipe')[],
  stderrPath: string,
): ChildProcess {
  // Nor may what QEMU starts, for `exec:`, take QEMU's monitor for a channel of its own.
  const plain = ['env', '-u', 'NODE_CHANNEL_FD', '-u', 'NODE_CHANNEL_SERIALIZATION_MODE'];
  const [program = '', ...args] = [...deathSignalPrefix(), ...plain, ...commandLine];
  const stderr = openSync(stderrPath, 'wx', 0o600);
  try {
    return spawn(program, args, { stdio: ['ignore', 'ignore', stderr, ...inherit, 'ipc'] });
  } finally {
    closeSync(stderr);
  }
}

let knownPrefix: readonly string[] | undefined;

function deathSignalPrefix(): readonly string[] {
  if (knownPrefix === undefined) {
    const [program, ...args] = ['setpriv', '--pdeathsig', 'KILL'] as const;
    const works = spawnSync(program, [...args, 'true']).status === 0;
    knownPrefix = works ? [program, ...args] : [];
  }
  return knownPrefix;
}
