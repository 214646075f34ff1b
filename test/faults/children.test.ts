// The commands of `exec:` fail in every way in which a process can.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { openFrom, openTo } from '../../adapters/index.ts';
import { relay } from '../../lib/relay/relay.ts';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import { Command, run } from '../helpers/command/command.ts';
import { assertSays, jsonIn, put, putRecording } from '../helpers/command/reading-command.ts';
import { withoutLeaks } from '../helpers/leaks.ts';
import { workedExample } from '../helpers/streams/stream-bytes.ts';
import { until } from '../helpers/until.ts';

/** Two processes at a time: each spends most of its life loading. */
const concurrency = 2;

/** A directory with a recorded stream of 8 MiB in it, which no pipe holds. */
function withStream(): TempDir & { stream: string } {
  const dir = makeTempDir();
  return { ...dir, stream: putRecording(dir, 'microvm')[0] ?? '' };
}

/** Return the processes of a group, without zombies. */
function livingIn(group: number): string[] {
  return membersOf(group).filter((stat) => !/\) [XZ] /.test(stat));
}

/** Everyone in a process group, the dead included. */
function membersOf(group: number): string[] {
  return fs
    .readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => textOf(`/proc/${pid}/stat`))
    .filter((stat) => stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2] === String(group));
}

/** Empty if it is not there. */
function textOf(path: string): string {
  try {
    return fs.readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

/** Wait until a command has printed its process id, which is also its group's. */
async function groupIn(path: string): Promise<number> {
  return until(() => /^(\d+)\n$/.test(textOf(path)) && Number(textOf(path)), {
    what: 'the command to begin',
  });
}

describe('a command that is the source', { concurrency }, () => {
  for (const [how, command, says] of [
    ['fails at once', 'exit 3', /failed after 0 bytes: EIO: .*exited with status 3/],
    ['is killed at once', 'kill -9 $$', /failed after 0 bytes: EIO: .*killed by SIGKILL/],
    [
      'is killed in mid-stream',
      'head -c 300000 "$STREAM"; kill -9 $$',
      /failed after .*: EIO: .*killed by SIGKILL at byte 300000/,
    ],
    [
      'fails behind a whole stream',
      'cat "$STREAM"; echo no more >&2; exit 5',
      /failed after .*: EIO: .*status 5, stderr: "no more"/,
    ],
    [
      'has closed its output, and fails later',
      'cat "$STREAM"; exec >&-; sleep 0.2; exit 6',
      /failed after .*: EIO: .*exited with status 6/,
    ],
    [
      'fails and says very much',
      'cat "$STREAM"; yes | head -c 3000000 >&2; echo disk lost >&2; exit 7',
      /: EIO: .*status 7, stderr: ".{100,5000}disk lost"/,
    ],
    ['is not there', 'no-such-command-anywhere', /: EIO: .*status 127.*not found/],
  ] as const) {
    test(`that ${how} fails the relay, and no file appears`, async () => {
      await using dir = withStream();
      const from = `exec:STREAM='${dir.stream}'; ${command}`;
      const ended = await run(['relay', from, dir.join('out')]);
      assertSays(ended, 4, /"from" \(exec:/, says);
      assert.deepEqual(fs.readdirSync(dir.path), ['microvm.mig']);
    });
  }

  test('can write any amount to its standard error', async () => {
    await using dir = withStream();
    const from = `exec:yes | head -c 3000000 >&2; cat '${dir.stream}'; yes | head -c 3000000 >&2`;
    const ended = await run(['relay', from, dir.join('out')]);
    assertSays(ended, 0, /relayed 8\.32 MiB/);
    assert.ok(fs.readFileSync(dir.join('out')).equals(fs.readFileSync(dir.stream)));
  });

  test('whose own children keep its output open ends with them, or by a signal together with them', async () => {
    await using dir = withStream();
    const begin = `echo $$ > '${dir.join('pid')}'; cat '${dir.stream}'`;
    const patient = await run(['relay', `exec:cat '${dir.stream}'; sleep 1 &`, dir.join('out')]);
    assertSays(patient, 0, /relayed 8\.32 MiB/);
    fs.rmSync(dir.join('out'));

    const relaying = new Command(['relay', `exec:${begin}; sleep 600 &`, dir.join('out')]);
    const group = await groupIn(dir.join('pid'));
    const all = fs.statSync(dir.stream).size;
    const isThere = (name: string): boolean =>
      name.startsWith('.out.') && fs.statSync(dir.join(name)).size === all;
    await until(() => fs.readdirSync(dir.path).some(isThere), { what: 'all bytes to be there' });
    relaying.child.kill('SIGINT');
    assertSays(await relaying.ended(), 130, /interrupted by SIGINT after 8\.32 MiB/);
    assert.deepEqual(livingIn(group), []);
    assert.deepEqual(fs.readdirSync(dir.path).sort(), ['microvm.mig', 'pid']);
  });
});

describe('a command that is the destination', { concurrency }, () => {
  for (const [how, command, says] of [
    ['fails at once', 'exit 3', /EPIPE: .*exited with status 3/],
    ['ends at once, as if all was well', 'exit 0', /EPIPE: .*exited with status 0/],
    ['is killed at once', 'kill -9 $$', /EPIPE: .*killed by SIGKILL/],
    [
      'is killed in mid-stream',
      'head -c 1000000 >/dev/null; kill -TERM $$',
      /EPIPE: .*killed by SIGTERM/,
    ],
    [
      'closes its input and goes on',
      'exec 0<&-; sleep 600',
      /EPIPE: .*the command stopped reading/,
    ],
    [
      'closes its input and fails',
      'head -c 1000000 >/dev/null; exec 0<&-; echo disk lost >&2; exit 9',
      /EPIPE: .*status 9, stderr: "disk lost"/,
    ],
    [
      'fails after it has taken everything',
      'cat >/dev/null; exit 7',
      /failed after 8\.32 MiB .*EIO: close: the command exited with status 7/,
    ],
    [
      'fails and says very much',
      'cat >/dev/null; yes | head -c 3000000 >&2; echo disk lost >&2; exit 8',
      /: EIO: .*status 8, stderr: ".{100,5000}disk lost"/,
    ],
  ] as const) {
    test(`that ${how} fails the relay with the reason, and leaves no process`, async () => {
      await using dir = withStream();
      const to = `exec:echo $$ > '${dir.join('pid')}'; ${command}`;
      const ended = await run(['relay', dir.stream, to]);
      assertSays(ended, 4, /"to" \(exec:.*\) failed after /, says);
      assert.deepEqual(livingIn(await groupIn(dir.join('pid'))), []);
    });
  }

  test('that fails in mid-stream keeps the bytes that it took, and the relay fails', async () => {
    await using dir = withStream();
    const copy = dir.join('copy');
    const to = `exec:head -c 3000000 > '${copy}'; exit 3`;
    const ended = await run(['relay', dir.stream, to, '--json', '--quiet']);
    assertSays(ended, 4, /EPIPE: .*exited with status 3/);
    const whole = fs.readFileSync(dir.stream);
    assert.ok(fs.readFileSync(copy).equals(whole.subarray(0, 3_000_000)));
    const { complete, forward } = jsonIn(ended) as {
      complete: boolean;
      forward: { bytes: number };
    };
    assert.equal(complete, false);
    assert.ok(forward.bytes < whole.length, `${forward.bytes}`);
  });

  test('that never reads is ended with the relay, and so are its own children', async () => {
    await using dir = withStream();
    const to = `exec:sleep 600 & echo $$ > '${dir.join('pid')}'; trap '' TERM; sleep 600`;
    const relaying = new Command(['relay', dir.stream, to]);
    const group = await groupIn(dir.join('pid'));
    assert.equal(livingIn(group).length > 0, true);
    relaying.child.kill('SIGINT');
    assertSays(await relaying.ended(), 130, /interrupted by SIGINT after/);
    assert.deepEqual(livingIn(group), []);
  });

  test('can leave a child that keeps its streams open', async () => {
    await using dir = withStream();
    const to = `exec:echo $$ > '${dir.join('pid')}'; sleep 600 & cat > '${dir.join('copy')}'`;
    const ended = await run(['relay', dir.stream, to]);
    assertSays(ended, 0, /relayed 8\.32 MiB/);
    assert.ok(fs.readFileSync(dir.join('copy')).equals(fs.readFileSync(dir.stream)));
    process.kill(-(await groupIn(dir.join('pid'))), 'SIGKILL');
  });
});

// One after the other, since each looks at what this process holds.
describe('of a command that failed', () => {
  test('nothing is left, not even its zombie, whichever end it was', async () => {
    await using dir = makeTempDir();
    const file = put(dir, 'vm.mig', workedExample());
    for (const [from, to, end, code] of [
      ['exec:printf QEVM; exit 3', `file:${dir.join('out')}`, 'from', 'EIO'],
      ['exec:printf QEVM; kill -9 $$', `file:${dir.join('out')}`, 'from', 'EIO'],
      [`file:${file}`, 'exec:cat > /dev/null; exit 3', 'to', 'EIO'],
      ['file:/dev/zero', 'exec:head -c 100000 >/dev/null; exit 3', 'to', 'EPIPE'],
      ['file:/dev/zero', 'exec:exec 0<&-; sleep 600 & sleep 600', 'to', 'EPIPE'],
      ['exec:cat /dev/zero', 'exec:head -c 100000 >/dev/null; kill -9 $$', 'to', 'EPIPE'],
    ] as const) {
      await withoutLeaks(async () => {
        const { failure } = await relay(await openFrom(from), await openTo(to));
        assert.deepEqual([failure?.end, failure?.error.code], [end, code], `${from} ${to}`);
      });
    }
    assert.deepEqual(fs.readdirSync(dir.path), ['vm.mig']);
  });

  test('and never read, nothing is left when its relay is ended', async () => {
    await using dir = makeTempDir();
    await withoutLeaks(async () => {
      const ending = new AbortController();
      const to = await openTo(`exec:echo $$ > '${dir.join('pid')}'; sleep 600 & sleep 600`);
      const relaying = relay(await openFrom('/dev/zero'), to, { signal: ending.signal });
      const group = await groupIn(dir.join('pid'));
      ending.abort();
      const { failure } = await relaying;
      assert.equal(failure?.error.code, 'ECANCELED');
      assert.deepEqual(livingIn(group), []);
    });
  });
});
