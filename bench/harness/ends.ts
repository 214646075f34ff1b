import { type ChildProcess, fork } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { fileURLToPath } from 'node:url';

const FAR_END = fileURLToPath(new URL('far-end.ts', import.meta.url));

/** Where a far end listens. */
export interface Addresses {
  unix: string;
  tcp: number;
  tls: number;
}

/** What came over one connection to a sink. */
export interface Arrival {
  bytes: number;
  /** From the first byte to the end. */
  seconds: number;
}

/** How to get to it. */
export type Way = keyof Addresses;

/** A process at the other end of connections. */
export class FarEnd implements Disposable {
  readonly #addresses: Addresses;
  readonly #child: ChildProcess;
  readonly #folder: string;

  private constructor(child: ChildProcess, folder: string, addresses: Addresses) {
    this.#child = child;
    this.#folder = folder;
    this.#addresses = addresses;
  }

  /**
   * Starts one.
   *
   * @param role - A sink drops what comes, and ends when the other side has; a source sends records.
   * @param records - How many a source sends on each connection.
   */
  static async start(role: 'sink' | 'source', records = 0): Promise<FarEnd> {
    const folder = mkdtempSync(join(tmpdir(), 'qemu-file-bench-'));
    const child = fork(FAR_END, [role, join(folder, 'socket'), String(records)], {
      execArgv: ['--import', 'tsx'],
    });
    const addresses = await new Promise<Addresses>((resolve, reject) => {
      child.once('message', (message) => resolve(message as Addresses));
      child.once('exit', () => reject(new Error('the far end did not start')));
    });
    return new FarEnd(child, folder, addresses);
  }

  /** Where it listens. */
  get addresses(): Addresses {
    return this.#addresses;
  }

  /** What comes over the next connection that ends, to a sink. */
  arrival(): Promise<Arrival> {
    return new Promise((resolve) => {
      this.#child.once('message', (message) => resolve(message as Arrival));
    });
  }

  /** Connects to it. */
  async connect(way: Way): Promise<Socket> {
    const { unix, tcp, tls } = this.#addresses;
    const host = '127.0.0.1';
    let socket: Socket;
    if (way === 'unix') socket = connect({ path: unix, allowHalfOpen: true });
    else if (way === 'tcp') socket = connect({ port: tcp, host, allowHalfOpen: true });
    else socket = connectTls({ port: tls, host, rejectUnauthorized: false });
    socket.allowHalfOpen = true;
    await new Promise((resolve, reject) => {
      socket.once(way === 'tls' ? 'secureConnect' : 'connect', resolve);
      socket.once('error', reject);
    });
    return socket;
  }

  [Symbol.dispose](): void {
    if (this.#child.connected) this.#child.disconnect();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Waits until the other side has ended: it has got everything then. */
export function ended(socket: Socket): Promise<unknown> {
  socket.resume();
  return new Promise((resolve) => socket.once('end', resolve));
}
