// Connect to an address, retrying until a peer listens, and send a number of bytes.
import { createReadStream } from 'node:fs';
import { connect, type NetConnectOpts } from 'node:net';

/** Arguments of the process. */
export interface Push {
  to: NetConnectOpts;
  bytes: number;
  /** File to send; without one, the pusher sends one block again and again. */
  file?: string;
}

const RETRY_MS = 10;
const block = Buffer.alloc(256 * 1024, 0xa5);

function push(order: Push): void {
  const { to, bytes, file } = order;
  const socket = connect(to);
  let left = bytes;
  const next = (): void => {
    while (left > 0) {
      const part = left >= block.length ? block : block.subarray(0, left);
      left -= part.length;
      if (!socket.write(part)) {
        socket.once('drain', next);
        return;
      }
    }
    socket.end();
  };
  socket.on('error', () => {
    if (left === bytes) setTimeout(push, RETRY_MS, order);
  });
  socket.once('connect', () => {
    if (file === undefined) return next();
    left = 0;
    createReadStream(file, { highWaterMark: block.length }).pipe(socket);
  });
  socket.resume();
}

process.on('message', (message) => push(message as Push));
process.on('disconnect', () => process.exit());
process.send?.('ready');
