// The peer of a FIFO or of a socket is missing, exits, or half-closes.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import { buffer } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { openFrom, openTo } from '../../adapters/index.ts';
import { relay } from '../../lib/relay/relay.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { Command, run } from '../helpers/command/command.ts';
import { assertSays, put } from '../helpers/command/reading-command.ts';
import { makeFifo } from '../helpers/files.ts';
import { withoutLeaks } from '../helpers/leaks.ts';
import { workedExample } from '../helpers/streams/stream-bytes.ts';
import { portOf } from '../helpers/transports/sockets.ts';
import { until, within } from '../helpers/until.ts';

/** Two processes at a time: each spends most of its life loading. */
const concurrency = 2;

/** Waits until a process has a descriptor of a file. */
async function opened(pid: number | undefined, path: string): Promise<void> {
  const directory = `/proc/${pid}/fd`;
  const isIt = (fd: string): boolean => {
    try {
      return fs.readlinkSync(`${directory}/${fd}`) === path;
    } catch {
      return false;
    }
  };
  await until(() => fs.readdirSync(directory).some(isIt), {
    what: `the command to open ${path}`,
  });
}

async function hear(listener: (socket: net.Socket) => void): Promise<net.Server> {
  const server = net.createServer({ allowHalfOpen: true }, listener);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

describe('a FIFO', { concurrency }, () => {
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    test(`without a writer is waited for until ${signal}, and no file appears`, async () => {
      await using dir = makeTempDir();
      const fifo = makeFifo(dir);
      const relaying = new Command(['relay', fifo, dir.join('out')]);
      await opened(relaying.child.pid, fs.realpathSync(fifo));
      await until(() => fs.readdirSync(dir.path).length === 2, { what: 'the temporary file' });
      relaying.child.kill(signal);
      assertSays(await relaying.ended(), code, new RegExp(`interrupted by ${signal}`));
      assert.deepEqual(fs.readdirSync(dir.path), ['fifo']);
    });

    test(`without a reader is waited for until ${signal}`, async () => {
      await using dir = makeTempDir();
      const fifo = makeFifo(dir);
      const path = put(dir, 'vm.mig', workedExample());
      const relaying = new Command(['relay', path, fifo]);
      // The source is open first.
      await opened(relaying.child.pid, fs.realpathSync(path));
      relaying.child.kill(signal);
      const ended = await relaying.ended();
      assertSays(ended, code, new RegExp(`interrupted by ${signal} before the relay began`));
    });
  }

  test('whose writer exits in mid-stream leaves no file, but keeps the bytes received', async () => {
    await using dir = makeTempDir();
    const fifo = makeFifo(dir);
    const relaying = new Command(['relay', fifo, dir.join('out')]);
    const sent = workedExample().subarray(0, 3000);
    const writer = await fs.promises.open(fifo, 'w');
    await writer.writeFile(sent);
    await writer.close();
    const ended = await relaying.ended();
    assertSays(
      ended,
      3,
      /"from" \(\S+fifo\) is not a valid migration stream: ENODATA: .*at byte \d+/,
    );
    const [, kept = ''] = /; the part that arrived is in (\S+)\n/.exec(ended.stderr) ?? [];
    assert.ok(fs.readFileSync(kept).equals(sent));
    assert.equal(fs.existsSync(dir.join('out')), false);
  });

  test('whose reader leaves in mid-stream fails the relay', async () => {
    await using dir = makeTempDir();
    const fifo = makeFifo(dir);
    const relaying = new Command(['relay', '/dev/zero', fifo]);
    const reader = await fs.promises.open(fifo, 'r');
    await reader.read(Buffer.alloc(100_000), 0, 100_000);
    await reader.close();
    const ended = await relaying.ended();
    assertSays(
      ended,
      4,
      /"to" \(\S+fifo\) failed after .*: EPIPE: .*the other end stopped reading/,
    );
  });

  test('that is removed while a reader is waited for is an error and no endless wait', async () => {
    await using dir = makeTempDir();
    const fifo = makeFifo(dir);
    const path = put(dir, 'vm.mig', workedExample());
    const relaying = new Command(['relay', path, fifo]);
    await opened(relaying.child.pid, fs.realpathSync(path));
    fs.rmSync(fifo);
    const ended = await relaying.ended();
    assertSays(ended, 4, /"to" \(\S+fifo\) cannot be opened: ENOENT: .*check the path/);
  });
});

describe('a socket', { concurrency }, () => {
  test('whose return path the destination ends early carries the stream to its end', async () => {
    const got: Buffer[] = [];
    const server = await hear((socket) => {
      socket.end();
      socket.on('data', (chunk) => got.push(chunk));
    });
    const relaying = new Command([
      ...['relay', 'tcp:127.0.0.1:0', `tcp:127.0.0.1:${portOf(server)}`, '--json'],
    ]);
    const port = await relaying.listening();
    const source = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    const bytes = workedExample();
    source.write(bytes.subarray(0, 1000));
    // The end of the way back comes through while the way there is still open.
    source.resume();
    await within(once(source, 'end'), { what: 'the end of the return path' });
    source.end(bytes.subarray(1000));
    const ended = await relaying.ended();
    server.close();
    assertSays(ended, 0, /relayed 4\.55 KiB/);
    // The relay has sent them; this process may still have to read them.
    await until(() => Buffer.concat(got).length >= bytes.length, { what: 'all bytes' });
    assert.deepEqual(Buffer.concat(got), bytes);
  });

  test('that the source has ended for its part still has its return path', async () => {
    const got: Buffer[] = [];
    const server = await hear((socket) => {
      socket.on('data', (chunk) => got.push(chunk));
      // The word that QEMU has the guest, once everything is there.
      socket.on('end', () => socket.end(Buffer.from('0001000400000000', 'hex')));
    });
    const relaying = new Command([
      ...['relay', 'tcp:127.0.0.1:0', `tcp:127.0.0.1:${portOf(server)}`, '--json'],
    ]);
    const port = await relaying.listening();
    const source = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    source.end(workedExample());
    const answer = buffer(source);
    const ended = await relaying.ended();
    server.close();
    assertSays(ended, 0, /and 8 bytes back/);
    assert.equal((await answer).toString('hex'), '0001000400000000');
    assert.deepEqual(Buffer.concat(got), workedExample());
  });

  test('of a source that resets it in mid-stream is reset for the destination as well', async () => {
    const bytes = workedExample().subarray(0, 3000);
    let got = 0;
    const broken = new Promise<string>((resolve) => {
      void hear((socket) => {
        socket.on('data', (chunk) => {
          got += chunk.length;
        });
        socket.on('end', () => resolve('end'));
        socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''));
      }).then((server) => servers.push(server));
    });
    const servers: net.Server[] = [];
    const server = await until(() => servers[0], { what: 'a server' });
    const relaying = new Command(['relay', 'tcp:127.0.0.1:0', `tcp:127.0.0.1:${portOf(server)}`]);
    const source = net.connect({ port: await relaying.listening(), host: '127.0.0.1' });
    source.write(bytes);
    await until(() => got === bytes.length, { what: 'all bytes' });
    source.resetAndDestroy();
    assertSays(await relaying.ended(), 4, /"from" \(tcp:\S+\) failed after 2\.93 KiB .*ECONNRESET/);
    assert.equal(await within(broken, { what: 'the destination to notice' }), 'ECONNRESET');
    server.close();
  });

  test('whose path is not there, or is left over, fails the relay and says what to do', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.mig', workedExample());
    const missing = await run(['relay', path, `unix:${dir.join('missing')}`]);
    assertSays(missing, 4, /"to" \(unix:\S+\) cannot be opened: ENOENT: .*; /);
    const server = net.createServer().listen(dir.join('kept'));
    await once(server, 'listening');
    // Closing would remove it.
    fs.renameSync(dir.join('kept'), dir.join('left'));
    server.close();
    const left = await run(['relay', path, `unix:${dir.join('left')}`]);
    assertSays(left, 4, /"to" \(unix:\S+\) cannot be opened: ECONNREFUSED: .*; /);
  });

  test('whose path is removed while it listens can still be given up in order', async () => {
    await using dir = makeTempDir();
    await using to = makeTempDir();
    const relaying = new Command(['relay', `unix:${dir.join('s')}`, to.join('out')]);
    await relaying.listening();
    fs.rmSync(dir.join('s'));
    relaying.child.kill('SIGINT');
    assertSays(await relaying.ended(), 130, /interrupted by SIGINT before the relay began/);
    assert.deepEqual([...fs.readdirSync(dir.path), ...fs.readdirSync(to.path)], []);
  });
});

// One after the other, since each looks at what this process holds.
describe('nothing is left in a process', () => {
  test('that waited for a FIFO in vain, on either side', async () => {
    await using dir = makeTempDir();
    const fifo = makeFifo(dir);
    await withoutLeaks(async () => {
      await assert.rejects(openTo(fifo, { timeoutMs: 50 }), { code: 'ETIMEDOUT' });
      const controller = new AbortController();
      const waiting = openTo(fifo, { signal: controller.signal });
      controller.abort();
      await assert.rejects(waiting, { code: 'ECANCELED' });

      const file = await openFrom(fifo, { file: { signal: AbortSignal.timeout(50) } });
      await assert.rejects(file.fill(1), { code: 'ECANCELED' });
      await file.close().catch(() => {});
      const ending = new AbortController();
      const to = await openTo(dir.join('out'));
      const relaying = relay(await openFrom(fifo), to, { signal: ending.signal });
      ending.abort();
      assert.equal((await relaying).failure?.error.code, 'ECANCELED');
    });
    assert.deepEqual(fs.readdirSync(dir.path), ['fifo']);
  });

  test('of which either peer of a relay went away', async () => {
    await using dir = makeTempDir();
    const fifo = makeFifo(dir);
    await withoutLeaks(async () => {
      const [to, reader] = await Promise.all([openTo(fifo), fs.promises.open(fifo, 'r')]);
      const relaying = relay(await openFrom('/dev/zero'), to);
      await reader.read(Buffer.alloc(100_000), 0, 100_000);
      await reader.close();
      const { failure } = await relaying;
      assert.deepEqual([failure?.end, failure?.error.code], ['to', 'EPIPE']);
    });
  });

  test('after the source closed its socket at once, which is not an end for the destination', async () => {
    await withoutLeaks(async () => {
      const heard: string[] = [];
      const server = await hear((socket) => {
        for (const event of ['data', 'end', 'close'] as const) {
          socket.on(event, () => heard.push(event));
        }
        socket.on('error', (error: NodeJS.ErrnoException) => heard.push(error.code ?? ''));
      });
      let source: net.Socket | undefined;
      const from = await openFrom('tcp:127.0.0.1:0', {
        onListening: (address) => {
          assert.ok('port' in address);
          source = net.connect(address.port, '127.0.0.1').on('error', () => {});
          source.end();
        },
      });
      const { failure } = await relay(from, await openTo(`tcp:127.0.0.1:${portOf(server)}`));
      assert.deepEqual([failure?.end, failure?.error.code], ['from', 'ENODATA']);
      await until(() => heard.includes('close'), { what: 'the destination to notice' });
      assert.deepEqual(heard, ['ECONNRESET', 'close']);
      source?.destroy();
      server.close();
      await once(server, 'close');
    });
  });

  for (const who of ['source', 'destination'] as const) {
    test(`after the ${who} was reset in the middle`, async () => {
      await withoutLeaks(async () => {
        const far: net.Socket[] = [];
        const server = await hear((socket) => far.push(socket.on('error', () => {})));
        let source: net.Socket | undefined;
        const from = await openFrom('tcp:127.0.0.1:0', {
          onListening: (address) => {
            assert.ok('port' in address);
            source = net.connect(address.port, '127.0.0.1').on('error', () => {});
            source.write(workedExample());
          },
        });
        const relaying = relay(from, await openTo(`tcp:127.0.0.1:${portOf(server)}`));
        const target = await until(() => far[0], { what: 'the relay to connect' });
        await until(() => (target.read() as Buffer | null) ?? undefined, { what: 'bytes' });
        (who === 'source' ? source : target)?.resetAndDestroy();
        const { failure } = await relaying;
        assert.equal(failure?.end, who === 'source' ? 'from' : 'to');
        assert.match(failure?.error.code ?? '', /ECONNRESET|EPIPE/);
        source?.destroy();
        target.destroy();
        server.close();
        await once(server, 'close');
      });
    });
  }
});
