// Relays in this process, over random backends that go wrong at random.
//
//   sender ──► [ from ]  relay  [ to ] ──► receiver        in brackets: faulty, by a random plan
//     all over memory, a unix socket, TCP, a child process or a file
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { type Fault, faultyOps, randomFaults } from '../../adapters/faulty/index.ts';
import { execOps, memoryPair, openFd, socketOps } from '../../adapters/index.ts';
import { QemuFile, type QemuFileOps, relay } from '../../lib/index.ts';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import { below, type Chance, oneOf } from '../helpers/streams/mutate.ts';
import { plainSockets } from '../helpers/transports/sockets.ts';
import { within } from '../helpers/until.ts';
import type { Outcome } from './outcome.ts';

const BACKENDS = ['memory', 'unix', 'tcp', 'child', 'file'] as const;

/** A backend for the relay, and its peer. */
interface End {
  ops: QemuFileOps;
  /** Gives what arrived there and whether that ended in order; sends, if it is the sender. */
  peer: Promise<{ bytes: Buffer; isWhole: boolean }>;
}

/** Relays random bytes and asserts that nothing is lost in silence. */
export async function randomRelay(chance: Chance): Promise<Outcome> {
  await using dir = makeTempDir();
  const bytes = randomBytes(below(2 ** (1 + below(22, chance)), chance), chance);
  const kinds = [oneOf(BACKENDS, chance), oneOf(BACKENDS, chance)] as const;
  const plan = (): Fault[] =>
    below(3, chance) === 0 ? [] : randomFaults(below(2 ** 31, chance), { bytes: bytes.length + 1 });
  const plans = [plan(), plan()] as const;
  const what = JSON.stringify({ kinds, bytes: bytes.length, plans });
  try {
    const sender = await sendOver(kinds[0], bytes, dir);
    const receiver = await receiveOver(kinds[1], dir);
    const from = new QemuFile(faultyOps(sender.ops, plans[0]));
    const to = new QemuFile(faultyOps(receiver.ops, plans[1]));
    const result = await within(relay(from, to, { lingerMs: 50 }), { what: 'the relay to end' });
    const [, arrived] = await within(Promise.all([sender.peer, receiver.peer]), {
      what: 'both other sides to end',
    });
    const changes = plans.flat().some((fault) => fault.do === 'corrupt');
    if (result.complete) {
      // A source can end early by its plan, and the relay ends with it; the bytes before must have arrived.
      assert.ok(arrived.isWhole, 'what is complete has ended in order');
      assert.equal(arrived.bytes.length, result.forward.bytes);
      if (!changes) assert.deepEqual(arrived.bytes, bytes.subarray(0, arrived.bytes.length));
      const ends = plans[0].some((fault) => fault.do === 'end' || fault.do === 'short');
      if (!ends) assert.equal(arrived.bytes.length, bytes.length);
      return { what, how: 'complete' };
    }
    assert.ok(result.failure, 'what is not complete has failed');
    const { end, error } = result.failure;
    // A source over a socket is closed last, when a file has got all and has its name.
    const isLate = end === 'from' && error.operation === 'close' && kinds[0] !== 'file';
    if (kinds[1] === 'file' && !isLate) assert.ok(!arrived.isWhole, 'no file appears');
    if (kinds[1] === 'file' && arrived.isWhole && !changes) {
      assert.deepEqual(arrived.bytes, bytes.subarray(0, arrived.bytes.length));
    }
    return { what, how: `${end ?? 'the relay'} failed` };
  } catch (error) {
    throw new Error(`${what}: ${String(error)}`, { cause: error });
  }
}

function randomBytes(length: number, chance: Chance): Buffer {
  const bytes = Buffer.alloc(length);
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, length >> 2);
  let word = below(2 ** 31, chance);
  for (let i = 0; i < words.length; i++) {
    word = (Math.imul(word, 0x19660d) + 0x3c6ef35f) >>> 0;
    words[i] = word;
  }
  return bytes;
}

async function sendOver(
  kind: (typeof BACKENDS)[number],
  bytes: Buffer,
  dir: TempDir,
): Promise<End> {
  const sent = { bytes, isWhole: true };
  switch (kind) {
    case 'memory': {
      const [here, there] = memoryPair();
      return { ops: there, peer: feed(new QemuFile(here), bytes).then(() => sent) };
    }
    case 'unix':
    case 'tcp': {
      const [here, there] = await plainSockets(kind === 'unix' ? dir.join('socket') : undefined);
      return {
        ops: socketOps(there),
        peer: feed(new QemuFile(socketOps(here)), bytes).then(() => sent),
      };
    }
    case 'child': {
      writeFileSync(dir.join('from'), bytes);
      return { ops: execOps(`cat '${dir.join('from')}'`, 'read'), peer: Promise.resolve(sent) };
    }
    case 'file': {
      writeFileSync(dir.join('from'), bytes);
      const ops = await openFd(dir.join('from'), { direction: 'read' });
      return { ops, peer: Promise.resolve(sent) };
    }
  }
}

async function receiveOver(kind: (typeof BACKENDS)[number], dir: TempDir): Promise<End> {
  switch (kind) {
    case 'memory': {
      const [here, there] = memoryPair();
      return { ops: here, peer: collect(new QemuFile(there)) };
    }
    case 'unix':
    case 'tcp': {
      const [here, there] = await plainSockets(kind === 'unix' ? dir.join('socket') : undefined);
      return { ops: socketOps(here), peer: collect(new QemuFile(socketOps(there))) };
    }
    case 'child':
      return atClose(execOps(`cat > '${dir.join('to')}'`, 'write'), dir.join('to'));
    case 'file':
      return atClose(await openFd(dir.join('to'), { direction: 'write' }), dir.join('to'));
  }
}

/** A table whose bytes are in a file once it has closed. */
function atClose(ops: QemuFileOps, path: string): End {
  let closed = (): void => {};
  const peer = new Promise<void>((resolve) => {
    closed = resolve;
  }).then(() => {
    try {
      return { bytes: readFileSync(path), isWhole: true };
    } catch {
      return { bytes: Buffer.alloc(0), isWhole: false };
    }
  });
  const close = async (error?: Error): Promise<void> => {
    try {
      await ops.close?.(error);
    } finally {
      closed();
    }
  };
  return { ops: { ...ops, close }, peer };
}

/** Sends all, if the other end lets it, and drops what comes back. */
async function feed(file: QemuFile, bytes: Buffer): Promise<void> {
  file.on('error', () => {}).resume();
  file.end(bytes);
  await new Promise((resolve) => file.once('close', resolve));
  await file.close().catch(() => {});
}

async function collect(file: QemuFile): Promise<{ bytes: Buffer; isWhole: boolean }> {
  const chunks: Uint8Array[] = [];
  let isWhole = true;
  file.on('error', () => {
    isWhole = false;
  });
  file.on('data', (chunk: Uint8Array) => chunks.push(Buffer.from(chunk)));
  file.on('end', () => file.end());
  await new Promise((resolve) => file.once('close', resolve));
  await file.close().catch(() => {});
  return { bytes: Buffer.concat(chunks), isWhole };
}
