import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { answerLine, startControl, statusLine } from '../../../lib/cli/relay/control-socket.ts';
import type { RelayControl, RelayStatus } from '../../../lib/cli/relay/relay-status.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { Command, run } from '../../helpers/command/command.ts';
import { until } from '../../helpers/until.ts';

const STATUS: RelayStatus = {
  state: 'moving',
  channels: 3,
  forward: 8727063,
  return: 16,
  seconds: 2.1,
  bytesPerSecond: 4 << 20,
  maxBandwidth: 0,
  limitedSeconds: 0,
  pending: 262144,
};

/** Record the calls. */
class Steering implements RelayControl {
  maxBandwidth = 0;
  stopped = 0;

  status(): RelayStatus {
    return { ...STATUS, maxBandwidth: this.maxBandwidth };
  }

  setMaxBandwidth(bytesPerSecond: number): void {
    this.maxBandwidth = bytesPerSecond;
  }

  stop(): void {
    this.stopped += 1;
  }
}

/** A client of a control socket. */
async function dial(
  path: string,
): Promise<{ socket: Socket; ask: (line: string) => Promise<unknown> }> {
  const socket = connect(path);
  await once(socket, 'connect');
  const lines = createInterface({ input: socket });
  // Some are cut off: that they close is what counts.
  for (const emitter of [socket, lines]) emitter.on('error', () => {});
  const ask = async (line: string): Promise<unknown> => {
    const answer = once(lines, 'line');
    socket.write(`${line}\n`);
    const [text] = (await answer) as [string];
    return JSON.parse(text);
  };
  return { socket, ask };
}

function noInput(): void {
  assert.fail('nothing comes from standard input');
}

test('a command changes the limit, and its answer is the status with the new one', () => {
  const steering = new Steering();
  const answer: unknown = JSON.parse(answerLine('max-bandwidth 10 MiB', steering));
  assert.equal(steering.maxBandwidth, 10_485_760);
  assert.deepEqual(answer, { ok: true, ...STATUS, maxBandwidth: 10_485_760 });
});

test('an unknown command or an invalid size changes nothing and lists the commands', () => {
  const steering = new Steering();
  for (const line of ['max-bandwidth', 'max-bandwidth fast', 'max-bandwidth -1', 'faster', '{}']) {
    const answer: unknown = JSON.parse(answerLine(line, steering));
    const { ok, error } = answer as { ok: boolean; error: string };
    assert.equal(ok, false);
    assert.match(error, /max-bandwidth/);
  }
  assert.equal(steering.maxBandwidth, 0);
});

test('the status is one line that a person can read', () => {
  assert.equal(
    statusLine({ ...STATUS, maxBandwidth: 4 << 20, limitedSeconds: 1.25 }),
    'moving: 8.32 MiB (8727063 bytes) in 2.1 s, 16 bytes back, 4 MiB/s now, limit 4 MiB/s, ' +
      'limited for 1.3 s, 3 channels, 256 KiB pending',
  );
  assert.equal(statusLine({ ...STATUS, state: 'waiting' }), 'waiting for a connection');
});

test('a control socket is private, serves several clients, and is gone when it is closed', async () => {
  await using dir = makeTempDir();
  const path = dir.join('control');
  const steering = new Steering();
  const control = await startControl(path, steering, noInput);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  const one = await dial(path);
  const other = await dial(path);
  assert.deepEqual(await one.ask('max-bandwidth 1k'), { ok: true, ...STATUS, maxBandwidth: 1024 });
  assert.deepEqual(await other.ask('status'), { ok: true, ...STATUS, maxBandwidth: 1024 });
  const closed = Promise.all([once(one.socket, 'close'), once(other.socket, 'close')]);
  await one.ask('stop');
  assert.equal(steering.stopped, 1);
  await control[Symbol.asyncDispose]();
  await closed;
  assert.throws(() => statSync(path), { code: 'ENOENT' });
});

test('a client that sends an endless line is cut off, and others are not', async () => {
  await using dir = makeTempDir();
  const path = dir.join('control');
  await using control = await startControl(path, new Steering(), noInput);
  assert.ok(control);
  const flood = await dial(path);
  const other = await dial(path);
  const gone = new Promise((resolve) => flood.socket.once('close', resolve));
  flood.socket.write('x'.repeat(1 << 20));
  await gone;
  assert.deepEqual(await other.ask('status'), { ok: true, ...STATUS });
});

test('a client that never reads its answers is let go of when the relay has ended', async () => {
  await using dir = makeTempDir();
  const path = dir.join('control');
  const control = await startControl(path, new Steering(), noInput);
  const deaf = connect(path).pause();
  let isGone = false;
  deaf.on('error', () => {
    isGone = true;
  });
  // Their answers are more than a socket holds.
  const lines = 'status\n'.repeat(9000);
  deaf.write(lines);
  const hasAll = (): boolean => deaf.bytesWritten === lines.length && deaf.writableLength === 0;
  await until(hasAll, { what: 'the commands to be taken' });
  await control[Symbol.asyncDispose]();
  const notices = (): boolean => {
    if (!isGone) deaf.write('help\n');
    return isGone;
  };
  await until(notices, { what: 'the connection to be closed', intervalMs: 100 });
});

test('the ninth client is refused with the reason', async () => {
  await using dir = makeTempDir();
  const path = dir.join('control');
  await using control = await startControl(path, new Steering(), noInput);
  assert.ok(control);
  for (let count = 0; count < 8; count += 1) {
    const { ask } = await dial(path);
    assert.deepEqual(await ask('status'), { ok: true, ...STATUS });
  }
  const ninth = connect(path);
  const closed = once(ninth, 'close');
  const [text] = (await once(ninth.setEncoding('utf8'), 'data')) as [string];
  assert.deepEqual(JSON.parse(text), { ok: false, error: '8 clients are connected already' });
  await closed;
});

test('a running relay reports, is slowed down and stopped over its socket, and reports on SIGUSR1', async () => {
  await using dir = makeTempDir();
  const control = dir.join('control');
  const relay = new Command([
    ...['relay', `unix:${dir.join('from')}`, dir.join('to.mig'), '--no-check'],
    ...['--control', control, '--max-bandwidth', '1MiB'],
  ]);
  await relay.listening();
  const { ask } = await dial(control);
  const waiting = (await ask('status')) as RelayStatus;
  assert.deepEqual([waiting.state, waiting.forward, waiting.maxBandwidth], ['waiting', 0, 1 << 20]);

  const source = connect(dir.join('from')).on('error', () => {});
  source.write(Buffer.alloc(4 << 20, 'x'));
  const slow = (await ask('max-bandwidth 1KiB')) as RelayStatus;
  assert.equal(slow.maxBandwidth, 1024);
  const moving = await until(
    async () => {
      const status = (await ask('status')) as RelayStatus;
      return status.state === 'moving' && status.forward > 0 && status;
    },
    { what: 'bytes to move' },
  );
  assert.ok(moving.forward < 4 << 20 && moving.pending > 0);
  relay.child.kill('SIGUSR1');
  await until(() => /moving: .* limit 1 KiB\/s.* pending\n/.test(relay.stderr), {
    what: 'a line on SIGUSR1',
  });
  assert.equal(((await ask('stop')) as RelayStatus).state, 'ending');
  const { code, stderr } = await relay.ended();
  assert.equal(code, 130, stderr);
  assert.match(stderr, /interrupted/);
  assert.deepEqual(readdirSync(dir.path), []);
});

test('a limit that held all back is lifted by a line on standard input', async () => {
  await using dir = makeTempDir();
  const args = [dir.join('from'), dir.join('to'), '--no-check', '--json', '--quiet'];
  writeFileSync(dir.join('from'), Buffer.alloc(4 << 20, 'x'));
  const input = 'max-bandwidth 0\nfaster\n';
  const { code, stdout, stderr } = await run(
    ['relay', ...args, '--control', '-', '--max-bandwidth', '1k'],
    input,
  );
  assert.equal(code, 0, stderr);
  const lines = stdout.toString().trim().split('\n');
  const answers = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.deepEqual(
    answers.map(({ ok, complete }) => ok ?? complete),
    [true, false, true],
  );
  assert.equal(statSync(dir.join('to')).size, 4 << 20);
});

test('standard input cannot be both the stream and the commands', async () => {
  const { code, stderr } = await run(['relay', '-', '/dev/null', '--control', '-'], '');
  assert.equal(code, 2);
  assert.match(stderr, /--control the path of a socket/);
});

test('a control socket that cannot be made ends the relay before it begins', async () => {
  await using dir = makeTempDir();
  const { code, stderr } = await run([
    ...['relay', '/dev/null', dir.join('to'), '--control', dir.join('no/such/folder')],
  ]);
  assert.equal(code, 4);
  assert.match(stderr, /--control \(.*no\/such\/folder\): ENOENT/);
});
