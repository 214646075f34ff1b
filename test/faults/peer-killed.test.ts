// One of the three processes of a relayed migration is killed, at every tenth of the stream.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { after, before, describe, test } from 'node:test';
import { recording, unpack } from '../fixtures/recording.ts';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import { Command, type Ended } from '../helpers/command/command.ts';
import { receiver, sender } from '../helpers/command/victim.ts';
import { type LeakWatch, watchLeaks } from '../helpers/leaks.ts';
import { portOf } from '../helpers/transports/sockets.ts';
import { until } from '../helpers/until.ts';

const LIMITS = { timeout: 600_000, concurrency: 2 };
const [MAIN] = recording('microvm').files;
assert.ok(MAIN !== undefined);
const STREAM = unpack(MAIN);
const TENTHS = Array.from({ length: 10 }, (_, tenth) => tenth);

let leaks: LeakWatch | undefined;
before(async () => {
  leaks = await watchLeaks();
});
after(() => leaks?.end());

type Kind = 'tcp' | 'unix';

/** Both kinds of connections come, in turn. */
function kindAt(tenth: number): Kind {
  return tenth % 2 === 0 ? 'tcp' : 'unix';
}

/** At 0 % a few bytes: the relay keeps listening while a connection has sent nothing. */
function bytesAt(tenth: number): number {
  return Math.max(100, Math.floor((STREAM.length * tenth) / 10));
}

/** A relay that listens, and where. */
async function listening(kind: Kind, dir: TempDir, to: string, ...options: string[]) {
  const path = dir.join('from.sock');
  const command = new Command([
    'relay',
    kind === 'tcp' ? 'tcp:127.0.0.1:0' : `unix:${path}`,
    to,
    '--json',
    ...options,
  ]);
  const port = await command.listening();
  const address = kind === 'tcp' ? { port, host: '127.0.0.1' } : { path };
  return { command, address };
}

function reportIn({ stdout }: Ended): { complete: boolean; forward: { bytes: number } } {
  return JSON.parse(stdout.toString()) as ReturnType<typeof reportIn>;
}

/** A destination in this process, which notes what comes and how that ends. */
class Destination {
  readonly #server: net.Server;
  #bytes: Buffer[] = [];
  #socket: net.Socket | undefined;
  /** How it ended: `end`, or the code of an error. */
  how: string | undefined;

  private constructor(server: net.Server) {
    this.#server = server;
    server.on('connection', (socket) => {
      this.#socket = socket;
      socket.on('data', (chunk) => this.#bytes.push(chunk));
      socket.on('end', () => {
        this.how ??= 'end';
        socket.end();
      });
      socket.on('error', (error: NodeJS.ErrnoException) => {
        this.how ??= error.code ?? 'broken';
      });
    });
  }

  static async open(kind: Kind, dir: TempDir): Promise<Destination> {
    const server = net.createServer({ allowHalfOpen: true });
    server.listen(kind === 'tcp' ? { port: 0, host: '127.0.0.1' } : { path: dir.join('to.sock') });
    await once(server, 'listening');
    return new Destination(server);
  }

  get uri(): string {
    const address = this.#server.address();
    return typeof address === 'string'
      ? `unix:${address}`
      : `tcp:127.0.0.1:${portOf(this.#server)}`;
  }

  get received(): number {
    return this.#bytes.reduce((sum, chunk) => sum + chunk.length, 0);
  }

  get isConnected(): boolean {
    return this.#socket !== undefined;
  }

  /** Waits for the end; what came must be the beginning of the stream. */
  async ended(): Promise<string> {
    const how = await until(() => this.how, { what: 'the destination to see an end' });
    const bytes = Buffer.concat(this.#bytes);
    assert.ok(bytes.equals(STREAM.subarray(0, bytes.length)), 'other bytes came');
    return how;
  }

  async close(): Promise<void> {
    this.#socket?.destroy();
    await once(this.#server.close(), 'close');
  }
}

/** A source in this process that has sent so many bytes and stays. */
function source(
  address: net.NetConnectOpts,
  bytes: number,
): { gone: Promise<void>; socket: net.Socket } {
  const socket = net.connect(address);
  socket.on('error', () => {}).resume();
  socket.write(STREAM.subarray(0, bytes));
  return { socket, gone: new Promise((resolve) => socket.on('close', () => resolve())) };
}

describe('the sender is killed', LIMITS, () => {
  for (const tenth of TENTHS) {
    const [kind, bytes] = [kindAt(tenth), bytesAt(tenth)];

    test(`after ${tenth}0 %, over ${kind} into a file: no file appears`, async () => {
      await using dir = makeTempDir();
      writeFileSync(dir.join('in'), STREAM);
      const out = dir.join('out');
      const { command, address } = await listening(kind, dir, out);
      await using victim = sender(address, dir.join('in'), bytes);
      await victim.says('sent');
      await victim.kill();
      const ended = await command.ended();
      assert.equal(ended.code, 3, ended.stderr);
      assertCutShort(ended, bytes);
      assert.equal(existsSync(out), false);
      // The received part is kept, and named in the message.
      const partial = readdirSync(dir.path).filter((name) => name.startsWith('.out.'));
      assert.equal(partial.length, 1);
      assert.ok(ended.stderr.includes(partial[0] ?? '?'), ended.stderr);
    });

    test(`after ${tenth}0 %, over ${kind} to another socket: that breaks`, async () => {
      await using dir = makeTempDir();
      writeFileSync(dir.join('in'), STREAM);
      const destination = await Destination.open(kind, dir);
      const { command, address } = await listening(kind, dir, destination.uri, '--check');
      await using victim = sender(address, dir.join('in'), bytes);
      await victim.says('sent');
      await victim.kill();
      const ended = await command.ended();
      assert.equal(ended.code, 3, ended.stderr);
      assertCutShort(ended, bytes);
      await destination.ended();
      assert.ok(destination.received <= bytes);
      await destination.close();
    });
  }

  test('without a check an end is an end: the destination gets it where it was', async () => {
    await using dir = makeTempDir();
    writeFileSync(dir.join('in'), STREAM);
    const destination = await Destination.open('tcp', dir);
    const { command, address } = await listening('tcp', dir, destination.uri, '--no-check');
    await using victim = sender(address, dir.join('in'), 60_000);
    await victim.says('sent');
    await victim.kill();
    const ended = await command.ended();
    assert.deepEqual([ended.code, reportIn(ended).forward.bytes], [0, 60_000], ended.stderr);
    await until(() => destination.how, { what: 'the end' });
    assert.equal(destination.received, 60_000);
    await destination.close();
  });
});

/** The command blames the source, and says where it stopped. */
function assertCutShort(ended: Ended, bytes: number): void {
  assert.equal(reportIn(ended).complete, false);
  assert.equal(reportIn(ended).forward.bytes, bytes);
  assert.match(ended.stderr, /"from" \(.*\) is not a valid migration stream: ENODATA: /);
  const position = Number(/ at byte (\d+)/.exec(ended.stderr)?.[1]);
  assert.ok(position > 0 && position <= bytes, ended.stderr);
}

describe('the receiver is killed', LIMITS, () => {
  for (const tenth of TENTHS) {
    const [kind, bytes] = [kindAt(tenth), bytesAt(tenth)];
    test(`after ${tenth}0 %, over ${kind}: the source sees its connection break`, async () => {
      await using dir = makeTempDir();
      const path = dir.join('to.sock');
      const at = kind === 'tcp' ? { port: 0, host: '127.0.0.1' } : { path };
      await using victim = receiver(at, bytes);
      const port = await victim.says('listens');
      const to = kind === 'tcp' ? `tcp:127.0.0.1:${port}` : `unix:${path}`;
      const { command, address } = await listening(kind, dir, to);
      const { gone, socket } = source(address, STREAM.length);
      await victim.says('got');
      await victim.kill();
      const ended = await command.ended();
      assert.equal(ended.code, 4, ended.stderr);
      const blamed =
        /"to" \((?:tcp|unix):.*\) failed after .*bytes?\)?: (?:ECONNRESET|EPIPE): .* at byte \d+/;
      assert.match(ended.stderr, blamed);
      assert.equal(reportIn(ended).complete, false);
      await gone;
      assert.ok(socket.errored !== null || socket.readableEnded);
    });
  }
});

describe('the relay is killed', LIMITS, () => {
  for (const tenth of TENTHS) {
    const [kind, bytes] = [kindAt(tenth), bytesAt(tenth)];
    test(`after ${tenth}0 %, over ${kind}: both its neighbours see it`, async () => {
      await using dir = makeTempDir();
      const destination = await Destination.open(kind, dir);
      const { command, address } = await listening(kind, dir, destination.uri);
      const { gone } = source(address, bytes);
      await until(() => destination.isConnected && destination.received === bytes, {
        what: 'the bytes to arrive',
      });
      command.child.kill('SIGKILL');
      const { signal } = await command.ended();
      assert.equal(signal, 'SIGKILL');
      await gone;
      await destination.ended();
      assert.equal(destination.received, bytes);
      await destination.close();
    });
  }

  test('half-way into a file: it does not appear, and the temporary one is recognisable', async () => {
    await using dir = makeTempDir();
    const { command, address } = await listening('tcp', dir, dir.join('out'));
    const { gone } = source(address, bytesAt(5));
    await until(() => readdirSync(dir.path).length > 0, { what: 'the temporary file' });
    command.child.kill('SIGKILL');
    await command.ended();
    await gone;
    const [left, ...more] = readdirSync(dir.path);
    assert.match(left ?? '', /^\.out\..*\.qemu-file-partial$/);
    assert.deepEqual(more, []);
  });
});
