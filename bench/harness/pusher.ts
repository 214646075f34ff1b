// Connect to an address, retrying until a peer listens, and send a number of bytes.
import { connect, type NetConnectOpts } from 'node:net';

/** Arguments of the process. */
export interface Push {
  to: NetConnectOpts;
  bytes: number;
}

const RETRY_MS = 10;
const block = Buffer.alloc(256 * 1024, 0xa5);

function push({ to, bytes }: Push): void {
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
    if (left === bytes) setTimeout(push, RETRY_MS, { to, bytes });
  });
  socket.once('connect', next);
  socket.resume();
}

process.on('message', (message) => push(message as Push));
process.on('disconnect', () => process.exit());
process.send?.('ready');
