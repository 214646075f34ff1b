import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { describe, test } from 'node:test';
import { execOps, processOps } from '../../../adapters/process/exec.ts';
import type { QemuFileOps } from '../../../lib/contract/ops.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import {
  collect,
  isSettled,
  pattern,
  promised,
  readOnce,
  rejectsWith,
} from '../../helpers/transports/backend.ts';
import { until, within } from '../../helpers/until.ts';
import { conformance } from '../ops-conformance.ts';

const MIB = 1024 * 1024;

/** Writes until the other side has had enough. */
async function writeOn(ops: QemuFileOps): Promise<void> {
  const chunk = Buffer.alloc(65536);
  for (let i = 0; i < 1000; i++) await ops.writevBuffer?.([chunk], i * chunk.length);
}

function write(ops: QemuFileOps, text: string): Promise<number> {
  return promised(() => ops.writevBuffer?.([Buffer.from(text)], 0) ?? -1);
}

/** Waits for a command to have written a line into a file. */
function lineIn(directory: TempDir, name: string): Promise<string> {
  const path = directory.join(name);
  return until(
    () => {
      const text = fs.existsSync(path) ? fs.readFileSync(path, 'latin1') : '';
      return text.endsWith('\n') && text.trim();
    },
    { what: `a line in ${name}` },
  );
}

/** Return whether a process group has running processes; zombies do not count. */
function isAlive(group: string): boolean {
  return fs.readdirSync('/proc').some((name) => {
    if (!/^\d+$/.test(name)) return false;
    const fields = /\) (\S) \d+ (\d+) /.exec(readIfThere(`/proc/${name}/stat`));
    return fields !== null && fields[2] === group && fields[1] !== 'Z';
  });
}

function readIfThere(path: string): string {
  try {
    return fs.readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

conformance('command that reads', { direction: 'write', isStore: true }, async () => {
  const directory = makeTempDir();
  const path = directory.join('file');
  let read = 0;
  return {
    ops: execOps(`cat > '${path}'`, 'write'),
    peer: {
      async read() {
        const bytes = fs.readFileSync(path).subarray(read);
        read += bytes.length;
        return bytes;
      },
      close: async () => {},
    },
    dispose: async () => directory.remove(),
  };
});

conformance('command that writes', { direction: 'read' }, async () => {
  const directory = makeTempDir();
  const path = directory.join('fifo');
  execFileSync('mkfifo', [path]);
  let fifo: fs.promises.FileHandle | undefined;
  return {
    ops: execOps(`exec cat '${path}'`, 'read'),
    peer: {
      async write(bytes) {
        fifo ??= await fs.promises.open(path, 'w');
        await fifo.writeFile(bytes);
      },
      async end() {
        await fifo?.close();
      },
      async close() {},
    },
    dispose: async () => directory.remove(),
  };
});

describe('a command that writes', () => {
  test('returns its output, and then the end', async () => {
    const ops = execOps('echo one; echo two', 'read');
    assert.equal((await collect(() => readOnce(ops))).toString(), 'one\ntwo\n');
    await ops.close();
  });

  test('reports an error instead of the end when it fails, after all its output', async () => {
    const ops = execOps('echo some; echo "no more disks" >&2; exit 3', 'read');
    assert.equal((await readOnce(ops)).toString(), 'some\n');
    const said = { code: 'EIO', message: /exited with status 3, .*"no more disks"/ };
    await assert.rejects(
      promised(() => ops.getBuffer(Buffer.alloc(1), 5)),
      {
        ...said,
        operation: 'getBuffer',
        position: 5,
      },
    );
    await assert.rejects(ops.close(), { ...said, operation: 'close' });
  });

  test('reports an error when a signal kills it', async () => {
    const ops = execOps('echo some; kill -KILL $$', 'read');
    const read = collect(() => readOnce(ops));
    await assert.rejects(read, { code: 'EIO', message: /killed by SIGKILL/ });
    await assert.rejects(ops.close(), { code: 'EIO', message: /killed by SIGKILL/ });
  });

  test('ends only after it has exited', async () => {
    await using directory = makeTempDir();
    execFileSync('mkfifo', [directory.join('go')]);
    const ops = execOps(`exec >&-; read line < '${directory.join('go')}'; exit 5`, 'read');
    const read = readOnce(ops);
    assert.equal(await isSettled(read), false);
    const failed = rejectsWith(read, 'EIO');
    fs.writeFileSync(directory.join('go'), '\n');
    await failed;
    await rejectsWith(ops.close(), 'EIO');
  });

  for (const how of ['closed', 'shut down'] as const) {
    test(`is not waited for when ${how}, though it closed its output`, async () => {
      await using directory = makeTempDir();
      const ops = execOps(`exec >&-; echo $$ > '${directory.join('pid')}'; sleep 1000`, 'read');
      const pid = await lineIn(directory, 'pid');
      const read = readOnce(ops);
      assert.equal(await isSettled(read), false);
      const failed = rejectsWith(read, 'ECANCELED');
      if (how === 'shut down') {
        await ops.shutDown(true, false);
        await failed;
        await ops.close();
      } else {
        failed.catch(() => {});
        await ops.close(new Error('enough'));
        await rejectsWith(read);
      }
      assert.equal(isAlive(pid), false);
    });
  }

  test('is ended without an error by a close before its end', async () => {
    await using directory = makeTempDir();
    const ops = execOps(`echo $$ > '${directory.join('pid')}'; while :; do echo y; done`, 'read');
    assert.match((await readOnce(ops)).toString(), /^y\n/);
    const pid = await lineIn(directory, 'pid');
    await ops.close();
    assert.equal(isAlive(pid), false);
  });
});

describe('a command that reads', () => {
  test('has ended in order when close answers', async () => {
    await using directory = makeTempDir();
    const done = directory.join('done');
    const ops = execOps(`cat > /dev/null; echo done > '${done}'`, 'write');
    assert.equal(await write(ops, 'abc'), 3);
    assert.equal(fs.existsSync(done), false);
    await ops.close();
    assert.equal(fs.readFileSync(done, 'latin1'), 'done\n');
  });

  test('fails the close when it fails', async () => {
    const ops = execOps('cat > /dev/null; echo "quota exceeded" >&2; exit 7', 'write');
    await write(ops, 'abc');
    await assert.rejects(ops.close(), {
      code: 'EIO',
      operation: 'close',
      message: /exited with status 7, .*"quota exceeded"/,
    });
  });

  test('breaks the pipe when it exits early, even with status 0', async () => {
    const ops = execOps('exit 0', 'write');
    await assert.rejects(writeOn(ops), {
      code: 'EPIPE',
      operation: 'writevBuffer',
      message: /exited with status 0/,
    });
    await rejectsWith(write(ops, 'more'), 'EPIPE');
    await rejectsWith(ops.close(), 'EPIPE');
  });

  test('breaks the pipe when it fails early, and its last words say why', async () => {
    const ops = execOps('head -c 100000 > /dev/null; echo "disk full" >&2; exit 2', 'write');
    const broken = { code: 'EPIPE', message: /exited with status 2, .*"disk full"/ };
    await assert.rejects(writeOn(ops), broken);
    await ops.close(new Error('the file failed'));
  });

  test('breaks the pipe when it stops reading, though it runs on', async () => {
    await using directory = makeTempDir();
    const command = `exec <&-; echo $$ > '${directory.join('pid')}'; exec sleep 1000`;
    const ops = execOps(command, 'write', { graceMs: 50 });
    const pid = await lineIn(directory, 'pid');
    await assert.rejects(writeOn(ops), { code: 'EPIPE', message: /stopped reading/ });
    assert.equal(isAlive(pid), true);
    await ops.close(new Error('the file failed'));
    assert.equal(isAlive(pid), false);
  });

  test('can exit with 0 without reading all of its input', async () => {
    await using directory = makeTempDir();
    const ops = execOps(`head -c 3 > '${directory.join('file')}'`, 'write');
    await write(ops, 'abcdef');
    await until(() => fs.existsSync(directory.join('file')), { what: 'the command to start' });
    await ops.close();
    assert.equal(fs.readFileSync(directory.join('file'), 'latin1'), 'abc');
  });

  test('holds up a big write when it never reads, until it is ended', async () => {
    await using directory = makeTempDir();
    const ops = execOps(`echo $$ > '${directory.join('pid')}'; exec sleep 1000`, 'write');
    const pid = await lineIn(directory, 'pid');
    const written = promised(() => ops.writevBuffer([pattern(MIB)], 0));
    assert.equal(await isSettled(written), false);
    const failed = rejectsWith(written);
    await ops.close(new Error('enough'));
    await failed;
    assert.equal(isAlive(pid), false);
  });

  test('is ended by a close in the middle of a batch, which is an error', async () => {
    const ops = execOps('exec sleep 1000', 'write');
    const failed = rejectsWith(promised(() => ops.writevBuffer([pattern(MIB)], 0)));
    await rejectsWith(ops.close(), 'ECANCELED');
    await failed;
  });

  test('does not take a cut stream for a whole one', async () => {
    await using directory = makeTempDir();
    const [pid, whole] = ['pid', 'whole'].map((name) => directory.join(name));
    const command = `trap '' TERM; echo $$ > '${pid}'; cat > /dev/null; echo whole > '${whole}'`;
    const ops = execOps(command, 'write', { graceMs: 50 });
    const group = await lineIn(directory, 'pid');
    await write(ops, 'half of i');
    await ops.close(new Error('the connection broke'));
    await until(() => !isAlive(group), { what: 'the group to be gone' });
    assert.equal(fs.existsSync(whole ?? ''), false);
  });

  test('sees the end when its input is shut down', async () => {
    await using directory = makeTempDir();
    const ops = execOps(`wc -c > '${directory.join('count')}'`, 'write');
    await write(ops, 'abc');
    await ops.shutDown(false, true);
    assert.equal(await lineIn(directory, 'count'), '3');
    await rejectsWith(write(ops, 'more'), 'ECANCELED');
    await ops.close();
  });

  test('does not see an end when its input is shut down in the middle of a batch', async () => {
    await using directory = makeTempDir();
    execFileSync('mkfifo', [directory.join('go')]);
    const whole = directory.join('whole');
    const command = `read line < '${directory.join('go')}'; cat > /dev/null; echo > '${whole}'`;
    const ops = execOps(command, 'write');
    const written = promised(() => ops.writevBuffer([pattern(MIB)], 0));
    assert.equal(await isSettled(written), false);
    const failed = rejectsWith(written, 'ECANCELED');
    await ops.shutDown(true, true);
    await failed;
    await ops.close();
    assert.equal(fs.existsSync(whole), false);
  });
});

describe('a command', () => {
  test('is ended with the group that it leads, those too that do not heed SIGTERM', async () => {
    await using directory = makeTempDir();
    const [pid, ready] = [directory.join('pid'), directory.join('ready')];
    const stubborn = `(trap '' TERM; echo ready > '${ready}'; while :; do sleep 1000; done) &`;
    const ops = execOps(`${stubborn} echo $$ > '${pid}'; exec cat`, 'read', { graceMs: 50 });
    const group = await lineIn(directory, 'pid');
    await lineIn(directory, 'ready');
    await ops.close(new Error('enough'));
    await until(() => !isAlive(group), { what: 'the group to be gone' });
  });

  test('has its last words kept, the last 2 KiB of them, in one line', async () => {
    const command = `cat > /dev/null
      i=0; while [ $i -lt 2000 ]; do echo "line $i of very many lines"; i=$((i+1)); done >&2
      printf 'in the\\r\\n\\033end' >&2; exit 1`;
    const ops = execOps(command, 'write');
    await assert.rejects(ops.close(), (error: Error) => {
      assert.match(error.message, /line 1999 of very many lines \| in the \| end"$/);
      assert.doesNotMatch(error.message, /\p{Cc}/u);
      assert.ok(error.message.length < 2048 + 500, `${error.message.length} characters`);
      return true;
    });
  });

  test('whose child keeps its stderr open does not delay the close', async () => {
    await using directory = makeTempDir();
    const command = `sleep 1000 & echo $! > '${directory.join('pid')}'; echo words >&2; exit 4`;
    const ops = execOps(command, 'write');
    await assert.rejects(within(ops.close(), { what: 'close' }), {
      code: 'EIO',
      message: /status 4, .*"words"/,
    });
    process.kill(Number(await lineIn(directory, 'pid')), 'SIGKILL');
  });

  test('that cannot be started fails every operation', async () => {
    const options = { cwd: '/nonexistent/directory' };
    const reader = execOps('cat', 'read', options);
    await assert.rejects(readOnce(reader), { code: 'ENOENT', operation: 'getBuffer' });
    await assert.rejects(reader.close(), { code: 'ENOENT', operation: 'close' });
    const writer = execOps('cat', 'write', options);
    await assert.rejects(write(writer, 'abc'), { code: 'ENOENT', operation: 'writevBuffer' });
    await rejectsWith(writer.close(), 'ENOENT');
    const failed = execOps('cat', 'write', options);
    await failed.close(new Error('something else failed first'));
    assert.throws(() => execOps('echo\0', 'read'), { code: 'EINVAL' });
  });

  test('runs in the directory and the environment that it is given', async () => {
    await using directory = makeTempDir();
    const options = { cwd: directory.path, env: { ...process.env, GREETING: 'hello' } };
    const ops = execOps('echo $GREETING; pwd -P', 'read', options);
    const said = (await collect(() => readOnce(ops))).toString();
    assert.equal(said, `hello\n${fs.realpathSync(directory.path)}\n`);
    await ops.close();
  });

  test('is not started when its signal has ended it already', () => {
    const signal = AbortSignal.abort(new Error('enough'));
    assert.throws(() => execOps('cat', 'read', { signal }), {
      code: 'ECANCELED',
      cause: signal.reason as Error,
    });
  });

  for (const direction of ['read', 'write'] as const) {
    test(`is ended by its signal while it ${direction}s`, async () => {
      await using directory = makeTempDir();
      const controller = new AbortController();
      const command = `echo $$ > '${directory.join('pid')}'; exec sleep 1000`;
      const { signal } = controller;
      const ops = execOps(command, direction as 'read' | 'write' | 'both', { signal });
      const group = await lineIn(directory, 'pid');
      const waiting = direction === 'read' ? readOnce(ops) : writeOn(ops);
      assert.equal(await isSettled(waiting), false);
      const failed = rejectsWith(waiting, 'ECANCELED');
      controller.abort();
      await failed;
      await rejectsWith(direction === 'read' ? readOnce(ops) : write(ops, 'x'), 'ECANCELED');
      await rejectsWith(ops.close(), 'ECANCELED');
      assert.equal(isAlive(group), false);
    });
  }

  test('is ended by its signal while its end is waited for', async () => {
    await using directory = makeTempDir();
    const controller = new AbortController();
    const command = `cat > /dev/null; echo $$ > '${directory.join('pid')}'; exec sleep 1000`;
    const ops = execOps(command, 'write', { signal: controller.signal });
    const failed = rejectsWith(ops.close(), 'ECANCELED');
    await lineIn(directory, 'pid');
    controller.abort();
    await failed;
  });

  test('is killed when this process exits', async () => {
    await using directory = makeTempDir();
    const pid = directory.join('pid');
    const adapter = new URL('../../../adapters/process/exec.ts', import.meta.url).href;
    const script = `
      import fs from 'node:fs';
      import { execOps } from '${adapter}';
      execOps("echo $$ > '${pid}'; exec cat > /dev/null", 'write');
      setInterval(() => {
        if (fs.existsSync('${pid}') && fs.readFileSync('${pid}', 'latin1').endsWith('\\n')) process.exit(0);
      }, 10);
    `;
    const args = ['--import', 'tsx', '--input-type=module', '-e', script];
    const child = spawn(process.execPath, args, { stdio: 'inherit' });
    assert.deepEqual(await once(child, 'exit'), [0, null]);
    const group = await lineIn(directory, 'pid');
    await until(() => !isAlive(group), { what: 'the group to be gone' });
  });

  test('leaves no listener, no descriptor and no timer', async () => {
    const state = () => ({
      fds: fs.readdirSync('/proc/self/fd').length,
      exitListeners: process.listenerCount('exit'),
      timers: process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length,
    });
    const before = state();
    const { signal } = new AbortController();
    const whole = execOps('cat > /dev/null', 'write', { signal });
    await write(whole, 'abc');
    await whole.close();
    const failing = execOps('exit 1', 'read', { signal });
    await rejectsWith(collect(() => readOnce(failing)));
    await rejectsWith(failing.close());
    const cut = execOps('exec sleep 1000', 'write', { signal });
    await cut.close(new Error('enough'));
    assert.deepEqual(state(), before);
  });
});

describe('a command that does both', () => {
  test('replies to its input, and ends after it', async () => {
    const ops = execOps('tr a-z A-Z', 'both');
    await write(ops, 'question');
    await ops.shutDown(false, true);
    assert.equal((await collect(() => readOnce(ops))).toString(), 'QUESTION');
    await ops.close();
  });

  test('has a return path, and ends when both are closed', async () => {
    const ops = execOps('cat', 'both');
    const back = ops.getReturnPath();
    assert.ok(back);
    await write(ops, 'there');
    assert.equal((await readOnce(back)).toString(), 'there');
    await ops.close();
    await back.close();
  });

  test('fails the close when it fails', async () => {
    const ops = execOps('cat; exit 6', 'both');
    await write(ops, 'x');
    await assert.rejects(ops.close(), { code: 'EIO', message: /status 6/ });
  });
});

describe('a ready child process', () => {
  test('is read, written or both by the streams that it has', async () => {
    const reader = processOps(spawn('echo', ['hello'], { stdio: ['ignore', 'pipe', 'inherit'] }));
    assert.equal('writevBuffer' in reader, false);
    assert.equal((await collect(() => readOnce(reader))).toString(), 'hello\n');
    await reader.close();
    const script = 'cat > /dev/null; echo words >&2; exit 9';
    const writer = processOps(spawn('sh', ['-c', script], { stdio: ['pipe', 'ignore', 'pipe'] }));
    assert.equal('getBuffer' in writer, false);
    await write(writer, 'abc');
    await assert.rejects(writer.close(), { code: 'EIO', message: /status 9, .*"words"/ });
    const both = processOps(spawn('cat'));
    await write(both, 'abc');
    assert.equal((await readOnce(both)).toString(), 'abc');
    await both.close();
  });

  test('is ended by a close with an error', async () => {
    const child = spawn('sleep', ['1000'], { stdio: ['pipe', 'ignore', 'ignore'] });
    const ops = processOps(child);
    await ops.close(new Error('enough'));
    assert.equal(child.signalCode, 'SIGTERM');
  });

  test('can have exited before', async () => {
    const child = spawn('sh', ['-c', 'echo early >&2; exit 2'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    await once(child, 'exit');
    const ops = processOps(child);
    await assert.rejects(ops.close(), { code: 'EIO', message: /status 2/ });
  });

  test('that could not be started fails every operation', async () => {
    const ops = processOps(spawn('/nonexistent/command'));
    await rejectsWith(write(ops, 'abc'), 'ENOENT');
    await rejectsWith(readOnce(ops), 'ENOENT');
    await rejectsWith(
      promised(() => ops.close()),
      'ENOENT',
    );
  });
});
