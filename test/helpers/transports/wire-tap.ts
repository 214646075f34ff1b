import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { portOf } from './sockets.ts';

/** One connection as it looked on the wire. */
export interface TappedConnection {
  /** Bytes from the connecting end. */
  readonly sent: readonly Buffer[];
  /** Bytes to the connecting end. */
  readonly answered: readonly Buffer[];
}

/** A proxy that forwards every connection, its ends included, and keeps all bytes. */
export class WireTap implements AsyncDisposable {
  readonly port: number;
  readonly connections: readonly TappedConnection[];
  readonly #server: net.Server;
  readonly #sockets: Set<net.Socket>;

  private constructor(
    server: net.Server,
    connections: TappedConnection[],
    sockets: Set<net.Socket>,
  ) {
    this.#server = server;
    this.#sockets = sockets;
    this.connections = connections;
    this.port = portOf(server);
  }

  /** Listen on this machine (IPv4), and forward to one of its ports. */
  static async before(port: number): Promise<WireTap> {
    const connections: TappedConnection[] = [];
    const sockets = new Set<net.Socket>();
    const server = net.createServer({ allowHalfOpen: true }, (near) => {
      const sent: Buffer[] = [];
      const answered: Buffer[] = [];
      connections.push({ sent, answered });
      const far = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
      for (const [one, other, kept] of [
        [near, far, sent],
        [far, near, answered],
      ] as const) {
        sockets.add(one);
        one.on('data', (chunk: Buffer) => kept.push(chunk));
        one.on('error', () => breakOff(other));
        one.on('close', () => sockets.delete(one));
        one.pipe(other);
      }
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new WireTap(server, connections, sockets);
  }

  /** Return all bytes sent in both directions, one direction of one connection after the other. */
  get streams(): Buffer[] {
    return this.connections.flatMap(({ sent, answered }) => [
      Buffer.concat(sent),
      Buffer.concat(answered),
    ]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

/** Reset a connection, unless its FIN is in flight: Node would lose the open handle. */
function breakOff(socket: net.Socket): void {
  if (socket.writableEnded && !socket.writableFinished) socket.destroy();
  else socket.resetAndDestroy();
}

/**
 * Assert that bytes are TLS records only (type, version 3.x, length, payload); the last one may be truncated.
 */
export function assertOnlyTls(bytes: Buffer): void {
  let at = 0;
  while (at + 5 <= bytes.length) {
    const type = bytes.readUInt8(at);
    assert.ok(type >= 20 && type <= 23 && bytes.readUInt8(at + 1) === 3, `no record at ${at}`);
    at += 5 + bytes.readUInt16BE(at + 3);
  }
}
