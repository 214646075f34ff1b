// Connect to an address, retrying until a peer listens, and send a number of bytes.
import { createReadStream } from 'node:fs';
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';

/** Arguments of the process. */
export interface Push {
  to: NetConnectOpts;
  bytes: number;
  /** File to send; without one, the pusher sends one block again and again. */
  file?: string;
  /** Whether to speak TLS. */
  isTls?: boolean;
  /** Number of multifd channels that share the bytes, beside a main channel that ends after them. */
  channels?: number;
}

const RETRY_MS = 10;
const BLOCK_BYTES = 256 * 1024;
const block = Buffer.alloc(BLOCK_BYTES, 0xa5);
const MAIN_MAGIC = Buffer.from('QEVM');
const MULTIFD_MAGIC = Buffer.from('11223344', 'hex');

/** Connect as soon as a peer listens. */
function connectTo(order: Push, onConnect: (socket: Socket) => void): void {
  const socket = order.isTls
    ? connectTls({ ...order.to, rejectUnauthorized: false })
    : connect(order.to);
  let isConnected = false;
  socket.on('error', () => {
    if (!isConnected) setTimeout(connectTo, RETRY_MS, order, onConnect);
  });
  socket.once(order.isTls ? 'secureConnect' : 'connect', () => {
    isConnected = true;
    socket.resume();
    onConnect(socket);
  });
}

function send(socket: Socket, bytes: number): void {
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
  next();
}

function pushChannels(order: Push, channels: number): void {
  const bytes = order.bytes / channels;
  connectTo(order, (main) => {
    main.write(MAIN_MAGIC);
    let left = channels;
    for (let i = 0; i < channels; i++) {
      connectTo(order, (socket) => {
        socket.write(MULTIFD_MAGIC);
        send(socket, bytes - MULTIFD_MAGIC.length);
        socket.once('close', () => {
          left -= 1;
          if (left === 0) main.end();
        });
      });
    }
  });
}

function push(order: Push): void {
  const { bytes, file, channels } = order;
  if (channels !== undefined) {
    pushChannels(order, channels);
    return;
  }
  connectTo(order, (socket) => {
    if (file === undefined) send(socket, bytes);
    else createReadStream(file, { highWaterMark: BLOCK_BYTES }).pipe(socket);
  });
}

process.on('message', (message) => push(message as Push));
process.on('disconnect', () => process.exit());
process.send?.('ready');
