import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { type ConnectionOps, memoryPair, openFd, socketOps } from '../../../adapters/index.ts';
import type { QemuFileOps } from '../../../lib/contract/ops.ts';
import { makeTempDir } from '../cleanup.ts';
import { readOnce } from './backend.ts';
import { plainSockets } from './sockets.ts';

/** Bytes that arrived at the far end of a backend, and how the stream ended. */
export interface Received {
  bytes: Buffer;
  /** `end`, `absent` for a file that did not appear, or an error's code. */
  how: string;
}

/** A real backend with its far end. */
export interface FarEnd {
  ops: QemuFileOps;
  /** Whether the far end can distinguish a reset from an end. */
  tells: boolean;
  /** Whether bytes that the backend took arrive although the connection is reset after them; TCP drops them. */
  keeps: boolean;
  /** Whether bytes can go in both directions. */
  isTwoWay: boolean;
  /** Read everything that arrives. */
  receive(): Promise<Received>;
  /** Send bytes and the end; a reset in the meantime is not a failure. */
  send(bytes: Uint8Array): Promise<void>;
  /** Free everything that is left. */
  close(): Promise<void>;
}

async function drain(read: () => Promise<Uint8Array>): Promise<Received> {
  const chunks: Uint8Array[] = [];
  try {
    for (;;) {
      const chunk = await read();
      if (chunk.length === 0) return { bytes: Buffer.concat(chunks), how: 'end' };
      chunks.push(Buffer.from(chunk));
    }
  } catch (error) {
    const { code = 'broken' } = error as NodeJS.ErrnoException;
    return { bytes: Buffer.concat(chunks), how: code };
  }
}

function overConnection(
  ops: QemuFileOps,
  other: ConnectionOps,
  traits: Pick<FarEnd, 'tells' | 'keeps'>,
): FarEnd {
  return {
    ops,
    ...traits,
    isTwoWay: true,
    receive: () => drain(() => readOnce(other)),
    send: async (bytes) => {
      try {
        if (bytes.length > 0) await other.writevBuffer([bytes], 0);
        await other.shutDown(false, true);
      } catch {
        // The connection was reset.
      }
    },
    close: () => other.close(new Error('the test is over')),
  };
}

/** The far end is a backend of this package, because a plain Node socket can report a reset as an end. */
async function overTcp(): Promise<FarEnd> {
  const [socket, other] = await plainSockets();
  return overConnection(socketOps(socket), socketOps(other), { tells: true, keeps: false });
}

async function overUnix(): Promise<FarEnd> {
  await using directory = makeTempDir();
  const [socket, other] = await plainSockets(directory.join('s'));
  return overConnection(socketOps(socket), socketOps(other), { tells: false, keeps: true });
}

async function overMemory(): Promise<FarEnd> {
  const [ops, other] = memoryPair();
  return overConnection(ops, other, { tells: true, keeps: true });
}

/** A file that appears when it is complete. */
async function overFile(): Promise<FarEnd> {
  const directory = makeTempDir();
  const path = directory.join('file');
  const ops = await openFd(path, { direction: 'write' });
  return {
    ops,
    tells: true,
    keeps: true,
    isTwoWay: false,
    receive: async () => {
      const left = readdirSync(directory.path).filter((name) => name !== basename(path));
      if (existsSync(path)) return { bytes: readFileSync(path), how: left[0] ?? 'end' };
      return { bytes: Buffer.alloc(0), how: left[0] ?? 'absent' };
    },
    send: async () => {},
    close: async () => directory.remove(),
  };
}

/** Factories of real backends, by name. */
export const farEnds: Readonly<Record<'memory' | 'tcp' | 'unix' | 'file', () => Promise<FarEnd>>> =
  {
    memory: overMemory,
    tcp: overTcp,
    unix: overUnix,
    file: overFile,
  };
