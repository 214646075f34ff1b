// The command, as its users meet it: processes, files, sockets, exit codes and messages.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import { describe, test } from 'node:test';
import { noticeStall } from '../../lib/cli/relay/stall-notice.ts';
import { showProgress } from '../../lib/cli/shell/progress.ts';
import { parseSize, showExactSize } from '../../lib/cli/shell/sizes.ts';
import { QemuFile } from '../../lib/index.ts';
import { pattern } from '../helpers/bytes.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { Command, type Ended, run } from '../helpers/command/command.ts';
import { Sink } from '../helpers/transports/backends.ts';
import { portOf } from '../helpers/transports/sockets.ts';
import { until } from '../helpers/until.ts';

/** Two processes at a time: each spends most of its life loading. */
const concurrency = 2;

/** XXH64 (seed 0) from the vectors that its other implementations are tested with. */
const XXH64_OF_ABC = '44bc2cf5ad770999';
const XXH64_OF_REPETITION = 'fbcea83c8a378bf1';
const REPETITION = 'Nobody inspects the spammish repetition';

const bytes = pattern(1_000_003);

interface Report {
  from: string;
  to: string;
  forward: { bytes: number; xxh64: string | null };
  return: { bytes: number; xxh64: string | null } | null;
  seconds: number;
  limitedSeconds: number;
  complete: boolean;
}

function reportIn(text: string | Buffer): Report {
  const line = /^\{.*\}$/m.exec(text.toString());
  assert.ok(line !== null, `no JSON in: ${text.toString()}`);
  return JSON.parse(line[0]) as Report;
}

/** Check a failed command: its exit code and its message, one line without a stack trace. */
function assertFailed(ended: Ended, code: number, ...says: RegExp[]): void {
  assert.equal(ended.code, code, ended.stderr);
  const messages = ended.stderr.split('\n').filter((line) => !/ listening on |^\{|^$/.test(line));
  assert.equal(messages.length, 1, ended.stderr);
  for (const what of says) assert.match(messages[0] as string, what);
}

async function listen(onSocket: (socket: net.Socket) => void): Promise<net.Server> {
  const server = net.createServer({ allowHalfOpen: true }, onSocket);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

async function textOf(socket: net.Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk) => chunks.push(chunk));
  await once(socket, 'end');
  return Buffer.concat(chunks);
}

describe('relay', { concurrency }, () => {
  test('from a file to a file, with the JSON object on standard output', async () => {
    await using dir = makeTempDir();
    const [input, output] = [dir.join('in'), dir.join('out')];
    fs.writeFileSync(input, REPETITION);
    const { code, stdout, stderr } = await run(['relay', input, output, '--json', '--digest']);
    assert.equal(code, 0, stderr);
    assert.equal(fs.readFileSync(output, 'utf8'), REPETITION);
    const report = reportIn(stdout);
    assert.equal(stdout.toString(), `${JSON.stringify(report)}\n`);
    const { seconds } = report;
    assert.ok(seconds > 0);
    assert.deepEqual(Object.entries(report), [
      ['from', input],
      ['to', output],
      ['forward', { bytes: 39, xxh64: XXH64_OF_REPETITION }],
      ['return', null],
      ['seconds', seconds],
      ['limitedSeconds', 0],
      ['complete', true],
    ]);
    assert.match(stderr, /^qemu-file: relayed 39 bytes in .*\n$/);
    assert.deepEqual(fs.readdirSync(dir.path).sort(), ['in', 'out']);
  });

  test('from standard input to standard output, with the JSON object on standard error', async () => {
    const { code, stdout, stderr } = await run(['relay', '-', '-', '--json', '--quiet'], bytes);
    assert.equal(code, 0, stderr);
    assert.ok(stdout.equals(bytes));
    const report = reportIn(stderr);
    assert.equal(stderr, `${JSON.stringify(report)}\n`);
    assert.deepEqual(report.forward, { bytes: bytes.length, xxh64: null });
  });

  test('through two relays in a chain, with a return path through both', async () => {
    await using dir = makeTempDir();
    const sockets: net.Socket[] = [];
    const server = await listen((socket) => sockets.push(socket));
    const unix = `unix:${dir.join('s')}`;
    const options = ['--json', '--digest', '--no-check'];
    const second = new Command(['relay', unix, `tcp:127.0.0.1:${portOf(server)}`, ...options]);
    const first = new Command(['relay', 'tcp:127.0.0.1:0', unix, ...options]);
    await second.listening();
    const source = net.connect({
      port: await first.listening(),
      host: '127.0.0.1',
      allowHalfOpen: true,
    });
    source.end(bytes);
    const target = await until(() => sockets[0], { what: 'the second relay to connect' });
    server.close();
    assert.ok((await textOf(target)).equals(bytes));
    target.end('abc');
    assert.equal((await textOf(source)).toString(), 'abc');
    for (const command of [first, second]) {
      const { code, stdout, stderr } = await command.ended();
      assert.equal(code, 0, stderr);
      const report = reportIn(stdout);
      assert.equal(report.complete, true);
      assert.equal(report.forward.bytes, bytes.length);
      assert.deepEqual(report.return, { bytes: 3, xxh64: XXH64_OF_ABC });
    }
    assert.deepEqual(fs.readdirSync(dir.path), []);
  });

  test('from a command to a command', async () => {
    await using dir = makeTempDir();
    const output = dir.join('out');
    const { code, stdout } = await run(['relay', 'exec:printf abc', `exec:cat > ${output}`]);
    assert.equal(code, 0);
    assert.equal(stdout.length, 0);
    assert.equal(fs.readFileSync(output, 'utf8'), 'abc');
  });

  test('prints digests, limits the rate, and writes a copy', async () => {
    await using dir = makeTempDir();
    const [input, output, copy] = [dir.join('in'), dir.join('out'), dir.join('copy:1')];
    fs.writeFileSync(input, bytes);
    const { code, stdout, stderr } = await run([
      'relay',
      input,
      output,
      '--digest',
      '--tee',
      copy,
      '--max-bandwidth',
      '4 MiB/s',
    ]);
    assert.equal(code, 0, stderr);
    assert.match(stdout.toString(), new RegExp(`^forward {2}[0-9a-f]{16} {2}${bytes.length}\n$`));
    assert.match(stderr, /limited for /);
    assert.ok(fs.readFileSync(output).equals(bytes));
    assert.ok(fs.readFileSync(copy).equals(bytes));
  });

  test('prints only the requested output with --quiet', async () => {
    await using dir = makeTempDir();
    const args = ['relay', '-', dir.join('out'), '--quiet', '--digest'];
    const { code, stdout, stderr } = await run(args, 'abc');
    assert.equal(code, 0);
    assert.equal(stderr, '');
    assert.equal(stdout.toString(), `forward  ${XXH64_OF_ABC}  3\n`);
  });
});

describe('exit code', { concurrency }, () => {
  test('2: a scheme that is not known, with those that are', async () => {
    const ended = await run(['relay', 'foo:x', '-']);
    assertFailed(
      ended,
      2,
      /known are tcp:host:port, unix:path/,
      /path with a colon as \.\/foo:x or file:foo:x/,
    );
    assert.equal(ended.stdout.length, 0);
  });

  test('2: a scheme that is not supported, and why', async () => {
    assertFailed(await run(['relay', '-', 'vsock:2:1234']), 2, /not supported, because/);
  });

  for (const args of [
    ['relay', '-', '-', '--max-bandwidth', '100MiX'],
    ['relay', '-'],
    ['relay', '-', '-', '--nonsense'],
    ['nonsense'],
  ]) {
    test(`2: ${args.join(' ')}`, async () => {
      const { code, stdout, stderr } = await run(args);
      assert.equal(code, 2);
      assert.equal(stdout.length, 0);
      assert.match(stderr, /error: /);
    });
  }

  test('2: nothing asked for, with the help', async () => {
    const { code, stdout, stderr } = await run([]);
    assert.equal(code, 2);
    assert.equal(stdout.length, 0);
    assert.match(stderr, /Usage: qemu-file/);
  });

  test('3: an empty input, and no file appears', async () => {
    await using dir = makeTempDir();
    fs.writeFileSync(dir.join('in'), '');
    const ended = await run(['relay', dir.join('in'), dir.join('out'), '--json']);
    assertFailed(ended, 3, /"from" \(.*in\) is empty/);
    const report = reportIn(ended.stdout);
    assert.equal(report.complete, false);
    assert.equal(report.forward.bytes, 0);
    assert.deepEqual(fs.readdirSync(dir.path), ['in']);
  });

  test('4: a file that is not there', async () => {
    await using dir = makeTempDir();
    const ended = await run(['relay', dir.join('in'), dir.join('out'), '--json']);
    assertFailed(ended, 4, /"from" \(.*in\) cannot be opened: ENOENT/);
    assert.equal(reportIn(ended.stdout).complete, false);
    assert.deepEqual(fs.readdirSync(dir.path), []);
  });

  test('4: no listener at the destination', async () => {
    const server = await listen(() => {});
    const to = `tcp:127.0.0.1:${portOf(server)}`;
    server.close();
    await once(server, 'close');
    const ended = await run(['relay', '-', to], 'abc');
    assertFailed(ended, 4, new RegExp(`"to" \\(${to}\\) cannot be opened: ECONNREFUSED`));
  });

  test('4: a directory that cannot be written to is known before a source connects', async () => {
    await using dir = makeTempDir();
    const ended = await run(['relay', `unix:${dir.join('s')}`, dir.join('no/out')]);
    assertFailed(ended, 4, /"to" \(.*no\/out\) cannot be opened: ENOENT/);
    assert.deepEqual(fs.readdirSync(dir.path), []);
  });

  test('4: a failing command, with its standard error', async () => {
    await using dir = makeTempDir();
    const from = 'exec:printf abc; echo no such guest >&2; exit 5';
    const ended = await run(['relay', from, dir.join('out')]);
    assertFailed(ended, 4, /"from".* failed after .*status 5.*no such guest/);
    assert.deepEqual(fs.readdirSync(dir.path), []);
  });

  test('4: a full device', async () => {
    assertFailed(await run(['relay', '-', '/dev/full'], bytes), 4, /"to" \(\/dev\/full\).*ENOSPC/);
  });

  test('4: the reader of standard output is gone, for data and for the report', async () => {
    const data = new Command(['relay', '/dev/zero', '-']);
    data.child.stdout?.once('data', () => data.child.stdout?.destroy());
    assertFailed(await data.ended(), 4, /"to" \(-\) failed after .*EPIPE/);
    const report = new Command(['relay', '-', '/dev/null', '--json', '--quiet'], 'abc');
    report.child.stdout?.destroy();
    const { code, stderr } = await report.ended();
    assert.deepEqual({ code, stderr }, { code: 4, stderr: '' });
  });

  test('4: the destination breaks off: which end it was, and how far it got', async () => {
    await using dir = makeTempDir();
    const sockets: net.Socket[] = [];
    const server = await listen((socket) => sockets.push(socket));
    const command = new Command([
      ...['relay', 'tcp:127.0.0.1:0', `tcp:127.0.0.1:${portOf(server)}`],
      ...['--no-check', '--json', '--tee', dir.join('copy')],
    ]);
    const source = net.connect({ port: await command.listening(), host: '127.0.0.1' });
    source.write(bytes.subarray(0, 5000));
    const target = await until(() => sockets[0], { what: 'the relay to connect' });
    server.close();
    await until(() => (target.read() as Buffer | null) ?? undefined, { what: 'the first bytes' });
    target.resetAndDestroy();
    const [error] = (await once(source, 'error')) as [NodeJS.ErrnoException];
    assert.equal(error.code, 'ECONNRESET');
    const ended = await command.ended();
    assertFailed(ended, 4, /"to" \(tcp:.*\) failed after 4\.88 KiB \(5000 bytes\): ECONNRESET/);
    const report = reportIn(ended.stdout);
    assert.equal(report.complete, false);
    assert.equal(report.forward.bytes, 5000);
    assert.deepEqual(fs.readdirSync(dir.path), []);
  });

  test('4: the source breaks off: no file appears, and no temporary one stays', async () => {
    await using dir = makeTempDir();
    const command = new Command(['relay', 'tcp:127.0.0.1:0', dir.join('out'), '--no-check']);
    const source = net.connect({ port: await command.listening(), host: '127.0.0.1' });
    source.write(bytes);
    await until(() => fs.readdirSync(dir.path).some((name) => sizeIn(dir.path, name) > 0), {
      what: 'bytes in the temporary file',
    });
    source.resetAndDestroy();
    assertFailed(
      await command.ended(),
      4,
      /"from" \(tcp:127\.0\.0\.1:0\) failed after .*ECONNRESET/,
    );
    assert.deepEqual(fs.readdirSync(dir.path), []);
  });

  test('130: SIGINT while it waits for a connection', async () => {
    await using dir = makeTempDir();
    const command = new Command(['relay', `unix:${dir.join('s')}`, dir.join('out')]);
    await command.listening();
    command.child.kill('SIGINT');
    assertFailed(await command.ended(), 130, /interrupted by SIGINT before the relay began/);
    assert.deepEqual(fs.readdirSync(dir.path), []);
  });

  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    test(`${code}: ${signal}, even twice, ends both ends in order`, async () => {
      await using dir = makeTempDir();
      const args = ['relay', 'tcp:127.0.0.1:0', dir.join('out'), '--json', '--no-check'];
      const command = new Command(args);
      const source = net.connect({ port: await command.listening(), host: '127.0.0.1' });
      source.write(bytes.subarray(0, 70_000));
      await until(
        () => fs.readdirSync(dir.path).some((name) => sizeIn(dir.path, name) === 70_000),
        {
          what: 'bytes in the temporary file',
        },
      );
      const broken = once(source, 'error');
      command.child.kill(signal);
      command.child.kill(signal);
      await broken;
      const ended = await command.ended();
      assertFailed(ended, code, new RegExp(`interrupted by ${signal} after .*\\(70000 bytes\\)`));
      assert.equal(reportIn(ended.stdout).forward.bytes, 70_000);
      assert.deepEqual(fs.readdirSync(dir.path), []);
    });
  }
});

function sizeIn(directory: string, name: string): number {
  return fs.statSync(`${directory}/${name}`).size;
}

describe('without a relay', { concurrency }, () => {
  test('prints its version', async () => {
    const manifest = JSON.parse(
      fs.readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
    ) as { version: string };
    const { code, stdout, stderr } = await run(['--version']);
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    assert.equal(stdout.toString(), `${manifest.version}\n`);
  });

  test('prints help on standard output', async () => {
    const { code, stdout, stderr } = await run(['relay', '--help']);
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    for (const what of ['--max-bandwidth', '--digest', '--tee', '--json', '--quiet', 'unix:path']) {
      assert.ok(stdout.includes(what), what);
    }
  });
});

describe('sizes', () => {
  test('are read as people write them, in powers of 1024', () => {
    const sizes: Record<string, number | undefined> = {
      '1048576': 1048576,
      '0': 0,
      '100MiB': 100 * 2 ** 20,
      '100MB': 100 * 2 ** 20,
      '100M': 100 * 2 ** 20,
      '100m': 100 * 2 ** 20,
      '1.5GiB': 1.5 * 2 ** 30,
      '64 KiB/s': 65536,
      '64kb': 65536,
      '2T': 2 ** 41,
      '10B': 10,
      '1.7': 1,
    };
    for (const [text, size] of Object.entries(sizes)) assert.equal(parseSize(text), size, text);
    for (const text of [
      '',
      'x',
      '-1',
      '1e3',
      '100MiX',
      '10Mbit',
      '1 2',
      '0x10',
      'Infinity',
      '9999999T',
    ]) {
      assert.equal(parseSize(text), undefined, text);
    }
  });

  test('are shown to the byte where that differs', () => {
    assert.equal(showExactSize(0), '0 bytes');
    assert.equal(showExactSize(1), '1 byte');
    assert.equal(showExactSize(1572864), '1.5 MiB (1572864 bytes)');
  });
});

describe('a silent source', () => {
  /** A file that delivers three bytes and then stays silent. */
  const silent = (twoWay: boolean): QemuFile => {
    const answers = [Buffer.from('abc')];
    const getBuffer = (): Uint8Array | Promise<Uint8Array> =>
      answers.shift() ?? new Promise<Uint8Array>(() => {});
    return new QemuFile(twoWay ? { getBuffer, writevBuffer: () => 0 } : { getBuffer });
  };

  test('is reported once if it may wait for a reply that cannot arrive', async () => {
    const from = silent(true);
    const to = new QemuFile(new Sink());
    let noted = 0;
    const stop = noticeStall(from, to, () => (noted += 1), 5);
    from.pipe(to);
    await until(() => noted > 0, { what: 'the silence to be noted' });
    stop();
    assert.equal(noted, 1);
    from.destroy();
    to.destroy();
  });

  test('is not reported if it cannot receive a reply, or may still receive one', () => {
    for (const [from, to] of [
      [silent(false), new QemuFile(new Sink())],
      [silent(true), silent(true)],
    ] as const) {
      // An interval of its own would keep this process from ending.
      noticeStall(from, to, () => assert.fail(), 1);
    }
  });
});

describe('progress line', () => {
  test('shows bytes and rate, and the limit while it holds bytes back', () => {
    const line = { bytes: 1572864, bytesPerSecond: 1048576, isLimited: false };
    assert.equal(showProgress(line), '1.5 MiB  1 MiB/s');
    assert.equal(showProgress({ ...line, isLimited: true }), '1.5 MiB  1 MiB/s  limited');
  });

  test('shows the share and the time left where the size is known', () => {
    const line = { bytes: 2 ** 20, total: 4 * 2 ** 20, bytesPerSecond: 2 ** 20, isLimited: false };
    assert.equal(showProgress(line), '[=====---------------]  1 MiB  1 MiB/s  25 %  ETA 0:03');
    const slow = { ...line, bytesPerSecond: 300 };
    assert.match(showProgress(slow), /ETA 2:54:46$/);
    assert.doesNotMatch(showProgress({ ...line, bytesPerSecond: 0 }), /ETA/);
    assert.match(showProgress({ ...line, bytes: 4 * 2 ** 20 }), /^\[={20}\].* 100 %$/);
  });
});
