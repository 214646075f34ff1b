// `qemu-file relay --channels N`, with sockets in place of QEMUs.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { describe, test } from 'node:test';
import { pattern } from '../../helpers/bytes.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { Command, run } from '../../helpers/command/command.ts';
import { reportIn } from '../../helpers/command/relay-report.ts';
import { until, within } from '../../helpers/until.ts';
import { xxh64 } from '../../helpers/xxh64.ts';

/** QEMU's last word on a return path: it has the guest. */
const WELL_DONE = Buffer.from('0001000400000000', 'hex');
const MAIN = Buffer.from('5145564d00000003', 'hex');
const MULTIFD = Buffer.from('1122334400000001', 'hex');

/** Collect the bytes of a socket up to its end. */
async function read(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  if (!socket.readableEnded) await once(socket, 'end');
  return Buffer.concat(chunks);
}

/** Waits until the other end has gone, in whatever way. */
async function closedByOther(socket: Socket): Promise<void> {
  socket.resume();
  await until(() => socket.readableEnded || socket.destroyed, { what: 'the connection to end' });
}

/** A destination that listens, the command before it, and the connections to the command. */
class Stage implements AsyncDisposable {
  readonly dir: TempDir = makeTempDir();
  readonly arrived: Socket[] = [];
  readonly command: Command;
  readonly #server: Server;
  readonly #sockets: Socket[] = [];

  private constructor(server: Server, args: readonly string[], dir: TempDir) {
    this.dir = dir;
    this.#server = server;
    server.on('connection', (socket) => this.arrived.push(this.#own(socket)));
    const [from, to] = [`unix:${dir.join('from')}`, `unix:${dir.join('to')}`];
    this.command = new Command(['relay', from, to, ...args]);
  }

  static async start(...args: string[]): Promise<Stage> {
    const dir = makeTempDir();
    const server = createServer({ allowHalfOpen: true }).listen(dir.join('to'));
    await once(server, 'listening');
    const stage = new Stage(server, args, dir);
    await stage.command.listening();
    return stage;
  }

  /** Connects as a source. */
  async connect(): Promise<Socket> {
    const socket = this.#own(connect({ path: this.dir.join('from'), allowHalfOpen: true }));
    await once(socket, 'connect');
    return socket;
  }

  /** The connection to the destination that was made as the `at`th. */
  async target(at: number): Promise<Socket> {
    await until(() => this.arrived.length > at, { what: `connection ${at} to arrive` });
    return this.arrived[at] as Socket;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.command.child.kill('SIGKILL');
    await this.command.ended();
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    this.dir.remove();
  }

  #own(socket: Socket): Socket {
    this.#sockets.push(socket.on('error', () => {}));
    return socket;
  }
}

describe('relay --channels', () => {
  test('connects for the main channel first even if it arrives last, and reports each channel', async () => {
    await using stage = await Stage.start('--channels', '3', '--json', '--digest');
    const [first, second, main] = [
      await stage.connect(),
      await stage.connect(),
      await stage.connect(),
    ];
    const sent = [Buffer.concat([MAIN, pattern(500_000)])];
    for (const [at, size] of [70_000, 3_000_000].entries()) {
      sent.push(Buffer.concat([MULTIFD, Buffer.from([at]), pattern(size)]));
    }
    first.write(sent[1] as Buffer);
    second.write(sent[2] as Buffer);
    main.write(sent[0] as Buffer);
    const targets = [await stage.target(0), await stage.target(1), await stage.target(2)];
    const reading = targets.map(read);
    for (const socket of [main, first, second]) socket.end();
    const received = await Promise.all(reading);
    assert.ok(received[0]?.equals(sent[0] as Buffer), 'the first one is the main channel');
    const side = received.slice(1).sort((a, b) => a.length - b.length);
    assert.ok(side[0]?.equals(sent[1] as Buffer) && side[1]?.equals(sent[2] as Buffer));
    targets[0]?.write(WELL_DONE);
    const answer = read(main);
    for (const target of targets) target.end();
    assert.deepEqual(await answer, WELL_DONE);
    const { code, stdout, stderr } = await stage.command.ended();
    assert.equal(code, 0, stderr);
    assert.match(stderr, /relayed .* \(3570026 bytes\) and 8 .*back over 3 channels in /);
    const result = reportIn(stdout);
    assert.equal(result.complete, true);
    assert.deepEqual(result.forward, { bytes: 3_570_026, xxh64: null });
    assert.deepEqual(
      result.channels?.map(({ forward }) => forward),
      received.map((bytes) => ({ bytes: bytes.length, xxh64: xxh64(bytes) })),
    );
    assert.equal(result.channels?.[0]?.return?.bytes, 8);
  });

  test('prints a line for each direction of each channel', async () => {
    await using stage = await Stage.start('--channels', '2', '--digest');
    const main = await stage.connect().catch(assert.fail);
    main.end(MAIN);
    const target = await stage.target(0);
    await read(target);
    target.end();
    await read(main);
    const { stdout } = await stage.command.ended();
    assert.equal(
      stdout.toString(),
      `main channel  forward  ${xxh64(MAIN)}  8\n` +
        `main channel  return   ${xxh64(Buffer.alloc(0))}  0\n`,
    );
  });

  test('accepts a silent channel beside the main one, and refuses unknown first bytes', async () => {
    await using stage = await Stage.start('--channels', '2');
    const stranger = await stage.connect();
    stranger.write('GET / HTTP/1.0\r\n\r\n');
    await closedByOther(stranger);
    const main = await stage.connect();
    main.write(MAIN);
    const target = await stage.target(0);
    const silent = await stage.connect();
    const silentTarget = await stage.target(1);
    for (const socket of [main, silent]) socket.end();
    for (const socket of [target, silentTarget]) void read(socket).then(() => socket.end());
    const { code, stderr } = await stage.command.ended();
    assert.equal(code, 0, stderr);
    assert.match(stderr, /rejected a connection/);
    assert.match(stderr, /over 2 channels/);
  });

  test('passes on that one channel broke to all others, and says which', async () => {
    await using stage = await Stage.start('--channels', '2');
    const main = await stage.connect();
    main.write(MAIN);
    const target = await stage.target(0);
    const side = await stage.connect();
    side.write(MULTIFD);
    const sideTarget = await stage.target(1);
    await once(sideTarget, 'data');
    const closed = Promise.all([main, target].map(closedByOther));
    sideTarget.destroy();
    side.write(pattern(3_000_000));
    const { code, stderr } = await stage.command.ended();
    await within(closed, { what: 'the main channel to be closed' });
    assert.equal(code, 4, stderr);
    assert.match(stderr, /"to" \(unix:.*to\) of channel 1 failed after .*: (ECONNRESET|EPIPE)/);
  });

  test('keeps one limit for all, and ends in order when it is interrupted', async () => {
    await using stage = await Stage.start('--channels', '3', '--max-bandwidth', '100K', '--json');
    const main = await stage.connect();
    main.write(Buffer.concat([MAIN, pattern(5_000_000)]));
    const target = await stage.target(0);
    const side = await stage.connect();
    side.write(Buffer.concat([MULTIFD, pattern(5_000_000)]));
    const received: number[] = [0, 0];
    for (const [at, socket] of [target, await stage.target(1)].entries()) {
      socket.on('data', (chunk: Buffer) => {
        received[at] = (received[at] as number) + chunk.length;
      });
    }
    await until(() => received.every((bytes) => bytes > 10_000), { what: 'bytes on both' });
    stage.command.child.kill('SIGINT');
    const { code, stderr, stdout } = await stage.command.ended();
    assert.equal(code, 130);
    assert.match(stderr, /interrupted by SIGINT after /);
    const { forward, limitedSeconds, seconds, complete } = reportIn(stdout);
    assert.equal(complete, false);
    assert.ok(limitedSeconds > 0 && limitedSeconds <= seconds);
    assert.ok(forward.bytes <= 102_400 * (seconds + 0.015), `${forward.bytes} in ${seconds} s`);
  });

  test('of 1 accepts any connection, as without the option', async () => {
    const { code, stdout } = await run(
      ['relay', '-', '-', '--channels', '1', '--quiet'],
      'anything',
    );
    assert.deepEqual([code, stdout.toString()], [0, 'anything']);
  });

  const wrong: [string, string[], RegExp][] = [
    ['no number', ['unix:/a', 'unix:/b', '--channels', 'many'], /from 1 to 1024/],
    ['none', ['unix:/a', 'unix:/b', '--channels', '0'], /from 1 to 1024/],
    ['a source that is no socket', ['-', 'unix:/b', '--channels', '2'], /<from> is not/],
    ['a destination that is none', ['unix:/a', 'exec:cat', '--channels', '2'], /<to> is not/],
    [
      '--tee',
      ['unix:/a', 'unix:/b', '--channels', '2', '--tee', 'x'],
      /--tee works with one connection only/,
    ],
    [
      '--check',
      ['unix:/a', 'unix:/b', '--channels', '2', '--check'],
      /--check works with one connection only/,
    ],
    [
      '--manifest',
      ['unix:/a', 'tcp::1', '--channels', '2', '--manifest', 'x'],
      /--manifest works with one connection only/,
    ],
  ];
  for (const [name, args, reason] of wrong) {
    test(`refuses ${name}`, async () => {
      const { code, stderr } = await run(['relay', ...args]);
      assert.equal(code, 2, stderr);
      assert.match(stderr, reason);
    });
  }
});
