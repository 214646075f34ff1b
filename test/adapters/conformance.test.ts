import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { constants, openSync } from 'node:fs';
import net from 'node:net';
import { Duplex } from 'node:stream';
import { Duplex as ReadableStreamDuplex } from 'readable-stream';
import { memoryOps } from '../../adapters/memory/memory.ts';
import { memoryPair } from '../../adapters/memory/memory-pair.ts';
import { execOps } from '../../adapters/process/exec.ts';
import { type SocketOptions, socketOps } from '../../adapters/socket/socket.ts';
import type { StreamBase } from '../../lib/qemu-file/stream-base.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { type Backend, readOnce } from '../helpers/transports/backend.ts';
import { duplexPair } from '../helpers/transports/duplex-pair.ts';
import { plainSockets, tlsSockets } from '../helpers/transports/sockets.ts';
import { streamPeer, watchListeners } from '../helpers/transports/stream-peer.ts';
import { conformance } from './ops-conformance.ts';

const { O_NONBLOCK, O_RDONLY, O_RDWR } = constants;

/** Traits of every two-way connection. */
const CONNECTION = {
  direction: 'both',
  isBounded: true,
  canBreak: true,
  canHalfClose: true,
  hasReturnPath: true,
} as const;

conformance('memory, growing', { direction: 'both', isStore: true }, async () => {
  const ops = memoryOps();
  let read = 0;
  return {
    ops,
    peer: {
      async read() {
        const bytes = ops.contents().slice(read);
        read += bytes.length;
        return bytes;
      },
      async write(bytes) {
        ops.writevBuffer([bytes], 0);
      },
      async close() {},
    },
  };
});

conformance('memory, a pair', { ...CONNECTION, canReset: true }, async () => {
  const [ops, other] = memoryPair();
  return {
    ops,
    peer: {
      read: () => readOnce(other),
      write: async (bytes) => void (await other.writevBuffer([bytes], 0)),
      end: async () => other.shutDown(false, true),
      close: () => other.close(),
      reset: () => void other.close(new Error('reset by the test')),
    },
  };
});

conformance('socket over TCP', { ...CONNECTION, canReset: true }, async () => {
  // The side under test is one that its maker did not allow to be half open.
  const [socket, other] = await plainSockets(undefined, false);
  return socketBackend(socket, other, () => other.resetAndDestroy());
});

conformance('socket over a unix socket', CONNECTION, async () => {
  const directory = makeTempDir();
  const [socket, other] = await plainSockets(directory.join('s'));
  return { ...socketBackend(socket, other), dispose: async () => directory.remove() };
});

conformance('socket over TLS, connecting side', { ...CONNECTION, canReset: true }, async () => {
  const [socket, other] = await tlsSockets();
  return socketBackend(socket, other, () => resetTls(other));
});

conformance('socket over TLS, listening side', { ...CONNECTION, canReset: true }, async () => {
  const [other, socket] = await tlsSockets();
  return socketBackend(socket, other, () => resetTls(other));
});

conformance('command, both ways', CONNECTION, async () => {
  const directory = makeTempDir();
  const [input, output] = [directory.join('in'), directory.join('out')];
  execFileSync('mkfifo', [input, output]);
  // The command's output is read from the peer, and its input is written to the peer.
  // The first byte says that both FIFOs are open: none of their ends may leave before.
  const command = `exec 3< '${input}' 4> '${output}'; printf r >&4
    cat <&3 4>&- & exec cat >&4 3<&-`;
  const ops = execOps(command, 'both', { graceMs: 100 });
  const reader = streamPeer(openFifoEnd(output, O_RDONLY));
  // Opened for both, a FIFO does not wait for its other end.
  const writer = streamPeer(openFifoEnd(input, O_RDWR));
  assert.equal((await reader.read()).toString(), 'r');
  return {
    ops,
    peer: {
      read: reader.read,
      write: writer.write,
      end: writer.close,
      close: async () => void (await Promise.all([reader.close(), writer.close()])),
    },
    dispose: async () => directory.remove(),
  };
});

function openFifoEnd(path: string, flags: number): net.Socket {
  const isReader = flags === O_RDONLY;
  const fd = openSync(path, flags | O_NONBLOCK);
  return new net.Socket({ fd, readable: isReader, writable: !isReader });
}

const duplexClasses = {
  'node:stream': Duplex,
  'readable-stream': ReadableStreamDuplex as unknown as typeof StreamBase,
};

for (const [name, Base] of Object.entries(duplexClasses)) {
  conformance(`socket over a Duplex of ${name}`, { ...CONNECTION, canReset: true }, async () => {
    const [socket, other] = duplexPair(Base);
    return socketBackend(socket, other);
  });
}

function socketBackend(
  socket: Duplex,
  other: Duplex,
  reset?: () => void,
  options?: SocketOptions,
): Backend {
  const leftovers = watchListeners(socket);
  return { ops: socketOps(socket, options), peer: streamPeer(other, reset), leftovers };
}

function resetTls(socket: Duplex): void {
  (socket as unknown as { _parent: net.Socket })._parent.resetAndDestroy();
}
