// A TCP proxy that delays bytes and breaks connections, for clients that keep their own protocol.
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/** What happens to one connection in place of being passed on. */
export type ProxyFault =
  /** Closed at once by a reset. */
  | { do: 'reset' }
  /** The request is read, this text is the answer, and the connection ends. */
  | { do: 'answer'; text: string }
  /** The request is passed on; the answer ends by a reset after so many bytes. */
  | { do: 'cut'; answerBytes: number }
  /** The request is passed on, no byte of the answer after so many is, and the connection stays open. */
  | { do: 'stall'; answerBytes: number };

/** A running proxy. */
export interface TcpProxy extends AsyncDisposable {
  readonly port: number;
  /** Time that each byte takes in each direction, in milliseconds; half of the round trip. */
  delayMs: number;
  /** What happens to the next connections, one entry each; the ones after them are passed on. */
  readonly faults: ProxyFault[];
  /** Connections accepted so far. */
  readonly accepted: number;
  /** Bytes that have come from the server so far. */
  readonly answerBytes: number;
}

/** Start a proxy on this machine in front of a port of this machine. */
export async function startTcpProxy(targetPort: number): Promise<TcpProxy> {
  const open = new Set<Socket>();
  const state = { delayMs: 0, faults: [] as ProxyFault[], accepted: 0, answerBytes: 0 };
  const track = (socket: Socket): void => {
    open.add(socket);
    socket.on('close', () => open.delete(socket)).on('error', () => {});
  };
  const server = createServer({ noDelay: true, allowHalfOpen: true }, (client) => {
    state.accepted += 1;
    track(client);
    const fault = state.faults.shift();
    if (fault?.do === 'reset') {
      client.resetAndDestroy();
      return;
    }
    if (fault?.do === 'answer') {
      client.once('data', () => client.end(fault.text));
      client.resume();
      return;
    }
    const target = connect({ port: targetPort, host: '127.0.0.1', noDelay: true });
    track(target);
    pass(client, target);
    let left = fault?.answerBytes ?? Number.POSITIVE_INFINITY;
    target.on('data', (chunk: Buffer) => {
      state.answerBytes += chunk.length;
      const part = chunk.length <= left ? chunk : chunk.subarray(0, left);
      left -= part.length;
      later(() => {
        if (part.length > 0) client.write(part);
        if (fault?.do === 'cut' && left === 0) client.resetAndDestroy();
      });
    });
    target.on('end', () => later(() => client.end()));
    target.on('close', () => later(() => client.destroy()));
  });

  /** Timers of one delay fire in the order in which they were set. */
  function later(work: () => void): void {
    if (state.delayMs > 0) setTimeout(work, state.delayMs);
    else work();
  }

  function pass(from: Socket, to: Socket): void {
    from.on('data', (chunk: Buffer) => later(() => to.write(chunk)));
    from.on('end', () => later(() => to.end()));
    from.on('close', () => later(() => to.destroy()));
  }

  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return Object.assign(state, {
    port,
    [Symbol.asyncDispose]: async () => {
      for (const socket of open) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  });
}
