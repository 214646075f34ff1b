import net from 'node:net';

/** Contents and target of a flood. */
export interface FloodOptions {
  target: net.NetConnectOpts;
  connections: number;
  /** Return the bytes that a connection sends, by its number; undefined for nothing. */
  send?: ((index: number) => Uint8Array | undefined) | undefined;
  /** Number of connections made at a time; more than the kernel's backlog would take seconds. */
  atOnce?: number | undefined;
}

/** Connections that stay open unless the peer closes them. */
export interface Flood extends AsyncDisposable {
  /** Connections that the peer has not closed. */
  readonly open: number;
  /** Connections that were established. */
  readonly connected: number;
}

/**
 * Make many unwanted connections; resolves when each is established or has failed. They are closed at the
 * end of an `await using`.
 */
export async function flood(options: FloodOptions): Promise<Flood> {
  const { target, connections, send, atOnce = 25 } = options;
  const sockets = new Set<net.Socket>();
  const closed: Promise<void>[] = [];
  let connected = 0;
  let next = 0;

  const connectOne = (index: number): Promise<void> =>
    new Promise((resolve) => {
      const socket = net.connect(target);
      sockets.add(socket);
      closed.push(
        new Promise((resolveClose) => {
          socket.on('close', () => {
            sockets.delete(socket);
            resolveClose();
            resolve();
          });
        }),
      );
      // The peer is expected to close them.
      socket.on('error', () => {});
      socket.on('connect', () => {
        connected += 1;
        const bytes = send?.(index);
        if (bytes !== undefined) socket.write(bytes);
        resolve();
      });
      socket.resume();
    });

  const connectSome = async (): Promise<void> => {
    while (next < connections) {
      next += 1;
      await connectOne(next - 1);
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, connections) }, connectSome));
  return {
    get open() {
      return sockets.size;
    },
    connected,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await Promise.all(closed);
    },
  };
}
