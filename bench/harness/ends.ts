import { type ChildProcess, fork } from 'node:child_process';
import { rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { makeFolder } from './folder.ts';
import { pathOf } from './paths.ts';

const FAR_END = pathOf('dist/bench/harness/programs/far-end.js');

/** Addresses that a far end listens on. */
export interface Addresses {
  unix: string;
  tcp: number;
  tls: number;
}

/** What a sink received over one connection. */
export interface Arrival {
  bytes: number;
  /** Seconds from the first byte to the end. */
  seconds: number;
  /** Milliseconds of the machine's clock at the end. */
  endedAtMs: number;
}

/** Kind of connection. */
export type Way = keyof Addresses;

/** A process that is the peer of connections. */
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
   * Start a far end.
   *
   * @param role - A sink drops what it receives and ends when its peer does; a confirming one answers with the number of
   *   bytes received so far, 64 bits; a source sends records.
   * @param records - Number of records that a source sends on each connection.
   */
  static async start(role: 'sink' | 'confirming-sink' | 'source', records = 0): Promise<FarEnd> {
    const folder = makeFolder(join(tmpdir(), 'qemu-file-bench-'));
    const child = fork(FAR_END, [role, join(folder, 'socket'), String(records)]);
    const addresses = await new Promise<Addresses>((resolve, reject) => {
      child.once('message', (message) => resolve(message as Addresses));
      child.once('exit', () => reject(new Error('the far end did not start')));
    });
    return new FarEnd(child, folder, addresses);
  }

  /** Addresses that it listens on. */
  get addresses(): Addresses {
    return this.#addresses;
  }

  /** Return what a sink received over the next connections that end, from the first byte to the last end. */
  arrival(connections = 1): Promise<Arrival> {
    const sum: Arrival = { bytes: 0, seconds: 0, endedAtMs: 0 };
    let beganAtMs = Number.POSITIVE_INFINITY;
    let left = connections;
    return new Promise((resolve) => {
      const onMessage = (message: unknown): void => {
        const { bytes, seconds, endedAtMs } = message as Arrival;
        beganAtMs = Math.min(beganAtMs, endedAtMs - seconds * 1000);
        sum.bytes += bytes;
        sum.seconds = (endedAtMs - beganAtMs) / 1000;
        sum.endedAtMs = endedAtMs;
        left -= 1;
        if (left > 0) return;
        this.#child.off('message', onMessage);
        resolve(sum);
      };
      this.#child.on('message', onMessage);
    });
  }

  /** Connect to the far end. */
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

/** Wait until the peer has ended, which means that it has received everything. */
export function ended(socket: Socket): Promise<unknown> {
  socket.resume();
  return new Promise((resolve) => socket.once('end', resolve));
}
