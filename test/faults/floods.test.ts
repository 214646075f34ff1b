// A listening relay among many unwanted connections accepts the whole migration.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import { describe, test } from 'node:test';
import { connectSocket, openFrom, openTo, type SocketTarget } from '../../adapters/index.ts';
import { relay } from '../../lib/index.ts';
import { recording, unpack } from '../fixtures/recording.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { Command } from '../helpers/command/command.ts';
import { watchLeaks } from '../helpers/leaks.ts';
import { flood } from '../helpers/transports/flood.ts';
import { certificates } from '../helpers/transports/sockets.ts';
import { until, within } from '../helpers/until.ts';

/** Two processes at a time: each spends most of its life loading. */
const LIMITS = { timeout: 300_000, concurrency: 2 };
const CROWD = 1000;
/** Of the command: connections that have not shown what they are. */
const CANDIDATES = 64;
/** Descriptors that come and go, such as of a file that is read. */
const SOME = 8;

const [main] = recording('microvm').files;
assert.ok(main !== undefined);
const stream = unpack(main);
const garbage = Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');

/** The bytes that an unwanted connection sends, by its number. */
const CROWDS: Record<string, (index: number) => Buffer | undefined> = {
  'send nothing': () => undefined,
  'send garbage': () => garbage,
  'do each of that': (index) => [undefined, garbage, Buffer.from('Q')][index % 3],
};

const descriptorsOf = (pid: number) => fs.readdirSync(`/proc/${pid}/fd`).length;

/** Resident memory of a process in bytes. */
function memoryOf(pid: number): number {
  const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(
    fs.readFileSync(`/proc/${pid}/status`, 'utf8'),
  )?.[1];
  return Number(kilobytes) * 1024;
}

/** Sends a migration stream as QEMU does, and waits until it has been taken. */
async function migrate(target: net.NetConnectOpts): Promise<void> {
  const socket = net.connect(target);
  await once(socket, 'connect');
  socket.end(stream);
  socket.resume();
  await within(once(socket, 'close'), { what: 'the stream to be taken' });
}

/** Lines about connections that were refused. */
const refusals = (stderr: string) => stderr.match(/^qemu-file: .*rejected a connection.*$/gm) ?? [];

describe('a relay that listens', LIMITS, () => {
  for (const [what, send] of Object.entries(CROWDS)) {
    test(`accepts the migration after ${CROWD} connections that ${what}`, async () => {
      await using dir = makeTempDir();
      const command = new Command(['relay', 'tcp:127.0.0.1:0', dir.join('out')]);
      const target = { host: '127.0.0.1', port: await command.listening() };
      const pid = command.child.pid as number;
      const [descriptors, memory] = [descriptorsOf(pid), memoryOf(pid)];
      {
        await using crowd = await flood({ target, connections: CROWD, send });
        assert.equal(crowd.connected, CROWD);
        assert.ok(descriptorsOf(pid) <= descriptors + CANDIDATES + SOME);
        assert.ok(memoryOf(pid) < memory + 64 * 2 ** 20);
        await migrate(target);
      }
      const { code, stderr } = await command.ended();
      assert.equal(code, 0, stderr);
      assert.ok(fs.readFileSync(dir.join('out')).equals(stream));
      assert.ok(refusals(stderr).length <= 5, stderr);
      assert.doesNotMatch(stderr, /^ +at /m);
    });
  }

  test('accepts it among such connections', async () => {
    await using dir = makeTempDir();
    const path = dir.join('s');
    const command = new Command(['relay', `unix:${path}`, dir.join('out')]);
    await command.listening();
    const send = CROWDS['do each of that'];
    // Some connections arrive before the migration, some after it, and some during the stream.
    const flooding = flood({ target: { path }, connections: CROWD, send });
    await migrate({ path });
    await using crowd = await flooding;
    const { code, stderr } = await command.ended();
    assert.ok(crowd.connected > 0);
    assert.equal(code, 0, stderr);
    assert.ok(fs.readFileSync(dir.join('out')).equals(stream));
  });

  test('is not held up by connections that send a byte now and then', async () => {
    await using dir = makeTempDir();
    const command = new Command(['relay', 'tcp:127.0.0.1:0', dir.join('out')]);
    const target = { host: '127.0.0.1', port: await command.listening() };
    const slow = Array.from({ length: 2 * CANDIDATES }, () => net.connect(target));
    for (const socket of slow) {
      socket.on('error', () => {}).resume();
      socket.write('Q');
    }
    await until(() => slow.filter((socket) => socket.closed).length >= CANDIDATES, {
      what: 'half of them to make room',
    });
    for (const socket of slow) if (!socket.closed) socket.write('E');
    await migrate(target);
    const { code, stderr } = await command.ended();
    assert.equal(code, 0, stderr);
    assert.ok(fs.readFileSync(dir.join('out')).equals(stream));
    await until(() => slow.every((socket) => socket.closed), { what: 'all to be closed' });
  });

  test('reports the refused connections and the reasons in a few lines', async () => {
    const command = new Command(['relay', 'tcp:127.0.0.1:0', '/dev/null']);
    const target = { host: '127.0.0.1', port: await command.listening() };
    const socket = net.connect(target);
    await once(socket, 'connect');
    const { localPort } = socket;
    socket.on('error', () => {}).write(garbage);
    await once(socket.resume(), 'close');
    await migrate(target);
    const { code, stderr } = await command.ended();
    assert.equal(code, 0, stderr);
    assert.deepEqual(refusals(stderr), [
      `qemu-file: tcp:127.0.0.1:0: rejected a connection from 127.0.0.1:${localPort}: the peer sent ` +
        'an unknown file that begins with 47 45 54 20 2f 20 48 54, not a migration stream',
    ]);
  });

  test('accepts any first bytes with --no-check', async () => {
    await using dir = makeTempDir();
    const command = new Command(['relay', 'tcp:127.0.0.1:0', dir.join('out'), '--no-check']);
    const target = { host: '127.0.0.1', port: await command.listening() };
    await using crowd = await flood({ target, connections: 2 * CANDIDATES });
    assert.equal(crowd.connected, 2 * CANDIDATES);
    const socket = net.connect(target);
    socket.end(garbage);
    const { code, stderr } = await command.ended();
    assert.equal(code, 0, stderr);
    assert.ok(fs.readFileSync(dir.join('out')).equals(garbage));
    socket.destroy();
  });

  test(`accepts it over TLS after ${CROWD} connections without a handshake`, async () => {
    const { ca, cert, key } = certificates;
    await using dir = makeTempDir();
    const failures: string[] = [];
    await using leaks = await watchLeaks();
    let address: SocketTarget | undefined;
    const stop = new AbortController();
    const opening = openFrom('tcp:127.0.0.1:0', {
      signal: stop.signal,
      tls: { cert, key },
      admission: {},
      onListening: (where) => {
        address = where;
      },
      onConnectionError: ({ code }) => failures.push(code),
    });
    const target = await until(() => address, { what: 'it to listen' });
    try {
      await using crowd = await flood({
        target: target,
        connections: CROWD,
        send: (index) => (index % 2 === 0 ? undefined : Buffer.from('160301', 'hex')),
      });
      assert.equal(crowd.connected, CROWD);
      // Some of the crowd still come, and one that is in its handshake may have to make room for them.
      const source = await until(
        () => connectSocket(target, { tls: { ca, servername: 'localhost' } }).catch(() => false),
        { what: 'a handshake' },
      );
      assert.ok(source instanceof net.Socket);
      source.end(stream);
      const to = await openTo(dir.join('out'));
      const { complete, failure } = await relay(await opening, to);
      assert.ok(complete, failure?.error.message);
      source.destroy();
    } finally {
      stop.abort();
    }
    assert.ok(fs.readFileSync(dir.join('out')).equals(stream));
    // Not each: what found the kernel's queue full may not have come yet.
    assert.ok(failures.includes('ECONNABORTED'));
    await leaks.check();
  });
});
