import net from 'node:net';

/** What a flood consists of, and where it goes. */
export interface FloodOptions {
  target: net.NetConnectOpts;
  connections: number;
  /** What each connection sends, by its number; nothing at all where it gives none. */
  send?: ((index: number) => Uint8Array | undefined) | undefined;
  /** Connections that are being made at a time: beyond the kernel's backlog it would take seconds. */
  atOnce?: number | undefined;
}

/** Connections that were made and stay open, unless the other end closes them. */
export interface Flood extends AsyncDisposable {
  /** Those that the other end has not closed yet. */
  readonly open: number;
  /** Those that came about. */
  readonly connected: number;
}

/**
 * Makes many connections that nobody waits for; resolves when all have been made, or have failed. They
 * are closed at the end of an `await using`.
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
      // Being closed is what they are made for.
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
