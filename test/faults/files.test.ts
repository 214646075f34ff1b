// Files that really fail: full disks, full devices, unreadable files, directories that vanish.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import net from 'node:net';
import { describe, test } from 'node:test';
import { openFd } from '../../adapters/file/open-file.ts';
import { openTo } from '../../adapters/index.ts';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import { Command, run } from '../helpers/command/command.ts';
import { assertSays, jsonIn, put, putRecording } from '../helpers/command/reading-command.ts';
import { withoutLeaks } from '../helpers/leaks.ts';
import { mountSmallDisk, requireSmallDisk, type SmallDisk } from '../helpers/storage/small-disk.ts';
import { workedExample } from '../helpers/streams/stream-bytes.ts';
import { until } from '../helpers/until.ts';

/** Two processes at a time: each spends most of its life loading. */
const concurrency = 2;
const PAGE = 4096;

/** The path of a recorded stream of 8 MiB, more than a small disk has room for. */
function bigStream(dir: TempDir): string {
  const [path] = putRecording(dir, 'microvm');
  assert.ok(path);
  return path;
}

function list(place: TempDir | SmallDisk): string[] {
  return fs.readdirSync(place.path).sort();
}

describe('a full disk', { concurrency, skip: requireSmallDisk() }, () => {
  test('fails a relay to a file: nothing of it stays, and what had the name does', async () => {
    await using dir = makeTempDir();
    await using disk = mountSmallDisk();
    fs.writeFileSync(disk.join('vm.mig'), 'old');
    const ended = await run(['relay', bigStream(dir), disk.join('vm.mig'), '--json']);
    assertSays(
      ended,
      4,
      /"to" \(\S+vm\.mig\) failed after .*: ENOSPC: .*no space left.*at byte \d+; free some space/,
    );
    assert.equal(jsonIn(ended).complete, false);
    assert.deepEqual(list(disk), ['vm.mig']);
    assert.equal(fs.readFileSync(disk.join('vm.mig'), 'latin1'), 'old');
  });

  test('of a copy fails the relay as well, and neither file appears', async () => {
    await using dir = makeTempDir();
    await using to = makeTempDir();
    await using disk = mountSmallDisk();
    const path = bigStream(dir);
    const ended = await run(['relay', path, to.join('vm.mig'), '--tee', disk.join('copy')]);
    assertSays(ended, 4, /"tee" \(\S+copy\) failed after .*: ENOSPC: .*; free some space/);
    assert.deepEqual([...list(disk), ...list(to)], []);
  });

  test('without room for the manifest says so, and the stream that was saved stays', async () => {
    await using dir = makeTempDir();
    await using disk = mountSmallDisk();
    disk.fill();
    const to = dir.join('vm.mig');
    const ended = await run(['relay', '-', to, '--manifest', disk.join('m.json')], workedExample());
    assertSays(ended, 4, /the manifest \(\S+m\.json\): ENOSPC: .*; free some space/);
    assert.deepEqual(list(disk), ['fill']);
    assert.ok(fs.readFileSync(to).equals(workedExample()));
  });

  for (const [what, flags] of [
    ['one block', ['--block', 'microvm.ram', '--raw', 'ram.raw']],
    ['all blocks', ['--all-blocks', '']],
    ['an ELF core', ['--elf', 'vm.core']],
  ] as const) {
    test(`fails to take ${what} out of a stream, and of the files nothing is left`, async () => {
      await using dir = makeTempDir();
      await using disk = mountSmallDisk();
      const place = [...flags.slice(0, -1), disk.join(flags.at(-1) ?? '')];
      const ended = await run(['extract', bigStream(dir), ...place]);
      const says = `ENOSPC: write: cannot write ${disk.path}/.* at byte \\d+; free some space`;
      assertSays(ended, 4, new RegExp(says));
      assert.deepEqual(list(disk), []);
    });
  }

  for (const [what, args] of [
    ['report', ['inspect', '--json', '--quiet', '--html']],
    ['manifest', ['extract', '--manifest']],
  ] as const) {
    test(`without room for the ${what} names that file, and not the stream`, async () => {
      await using dir = makeTempDir();
      await using disk = mountSmallDisk();
      disk.fill();
      const path = put(dir, 'vm.mig', workedExample());
      const ended = await run([...args, disk.join('out'), path]);
      assertSays(ended, 4, new RegExp(`^qemu-file: ${disk.path}/out: ENOSPC: .*; free some space`));
      assert.deepEqual(list(disk), ['fill']);
    });
  }

  test('that the partial file of a killed process has filled has room again for the next one', async () => {
    await using disk = mountSmallDisk();
    const killed = new Command(['relay', 'exec:yes', disk.join('vm.mig'), '--max-bandwidth', '1M']);
    await until(() => list(disk).some((name) => fs.statSync(disk.join(name)).size > 0), {
      what: 'bytes in the temporary file',
    });
    killed.child.kill('SIGKILL');
    await killed.ended();
    const [left] = list(disk);
    fs.truncateSync(disk.join(left ?? ''), 0);
    fs.writeFileSync(disk.join(left ?? ''), Buffer.alloc(1 << 20));
    const ended = await run(['relay', '-', disk.join('vm.mig')], workedExample());
    assertSays(ended, 0, /relayed/);
    assert.deepEqual(list(disk), ['vm.mig']);
  });
});

// One after the other, since each looks at what this process holds.
describe('a disk that becomes full', { skip: requireSmallDisk() }, () => {
  test('takes what just fits, and not one byte more', async () => {
    await using disk = mountSmallDisk();
    disk.fill(4 * PAGE);
    await withoutLeaks(async () => {
      for (const [size, fits] of [
        [4 * PAGE + 1, false],
        [4 * PAGE, true],
      ] as const) {
        // Small enough that the first write is that of the close.
        const to = await openTo(`file:${disk.join('out')}`);
        to.write(Buffer.alloc(size, 7));
        if (fits) {
          await to.close();
          assert.deepEqual(fs.readFileSync(disk.join('out')), Buffer.alloc(size, 7));
        } else {
          await assert.rejects(to.close(), { code: 'ENOSPC' });
          assert.deepEqual(list(disk), ['fill']);
        }
      }
    });
  });

  test('has all that a flush had reported, where the file is kept', async () => {
    await using disk = mountSmallDisk();
    await withoutLeaks(async () => {
      let kept = '';
      const to = await openTo(`file:${disk.join('out')}`, {
        keepPartial: (_, path) => {
          kept = path;
          return true;
        },
      });
      const sent = Buffer.alloc(3 << 20);
      for (let at = 0; at < sent.length; at += 4) sent.writeUInt32LE(at, at);
      let taken = 0;
      const writing = async (): Promise<void> => {
        for (let at = 0; at < sent.length; at += 100_000) {
          to.write(sent.subarray(at, at + 100_000));
          await to.flush();
          taken = at + 100_000;
        }
      };
      await assert.rejects(writing(), { code: 'ENOSPC', position: 1 << 20 });
      await assert.rejects(to.close(), { code: 'ENOSPC', position: 1 << 20 });
      const there = fs.readFileSync(kept);
      assert.equal(taken, 1_000_000);
      assert.ok(there.length >= taken && there.equals(sent.subarray(0, there.length)));
      assert.deepEqual(list(disk), [kept.slice(disk.path.length + 1)]);
    });
  });

  test('without room for one more name fails the close of a new file', async () => {
    // Its own directory and one file; where nothing is to be replaced the file has two names for a moment.
    await using disk = mountSmallDisk({ inodes: 2 });
    await withoutLeaks(async () => {
      const ops = await openFd(disk.join('out'), { direction: 'write', replace: false });
      await ops.writevBuffer([Buffer.from('abc')], 0);
      await assert.rejects(ops.close(), { code: 'ENOSPC', operation: 'close' });
      assert.deepEqual(list(disk), []);
    });
  });
});

describe('a full device', { concurrency }, () => {
  test('fails as the place of a copy, of a manifest and of a report', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.mig', workedExample());
    const [copy, manifest, report] = await Promise.all([
      run(['relay', path, dir.join('out'), '--tee', '/dev/full']),
      run(['relay', path, '/dev/null', '--manifest', '/dev/full']),
      run(['inspect', path, '--html', '/dev/full', '--json', '--quiet']),
    ]);
    assertSays(copy, 4, /"tee" \(\/dev\/full\) failed after .*: ENOSPC: .*; free some space/);
    assertSays(manifest, 4, /the manifest \(\/dev\/full\): ENOSPC: .*; free some space/);
    assertSays(report, 4, /^qemu-file: \/dev\/full: ENOSPC: .*; free some space/);
    assert.deepEqual(list(dir), ['vm.mig']);
  });
});

describe('an input that cannot be read', { concurrency }, () => {
  test('fails a relay at the byte that it failed at, and no file appears', async () => {
    await using dir = makeTempDir();
    const ended = await run(['relay', '/proc/self/mem', dir.join('vm.mig')]);
    assertSays(ended, 4, /"from" \(\/proc\/self\/mem\) failed after 0 bytes: EIO: .*at byte 0/);
    assert.deepEqual(list(dir), []);
  });

  test('is named by the commands that read a stream', async () => {
    for (const command of ['inspect', 'verify']) {
      const ended = await run([command, '/proc/self/mem']);
      assertSays(ended, 4, /^qemu-file: \/proc\/self\/mem: EIO: .*at byte 0/);
    }
  });

  test('is a directory, at either end', async () => {
    await using dir = makeTempDir();
    const path = put(dir, 'vm.mig', workedExample());
    const [from, to] = await Promise.all([
      run(['relay', dir.path, '/dev/null']),
      run(['relay', path, dir.path]),
    ]);
    assertSays(from, 4, /"from" \(\S+\) cannot be opened: EISDIR: open: \S+ is a directory/);
    assertSays(to, 4, /"to" \(\S+\) cannot be opened: EISDIR: open: \S+ is a directory/);
    assert.deepEqual(list(dir), ['vm.mig']);
  });
});

describe('a directory that is removed while a file in it is written', () => {
  test('fails the relay, which says that the file is not there', async () => {
    await using dir = makeTempDir();
    await using sockets = makeTempDir();
    fs.mkdirSync(dir.join('saves'));
    const relaying = new Command(['relay', `unix:${sockets.join('s')}`, dir.join('saves/vm.mig')]);
    await relaying.listening();
    const source = net.connect(sockets.join('s'));
    source.write(workedExample());
    await until(() => fs.readdirSync(dir.join('saves')).length > 0, { what: 'a file' });
    fs.rmSync(dir.join('saves'), { recursive: true });
    source.end();
    const ended = await relaying.ended();
    assertSays(ended, 4, /"to" \(\S+saves\/vm\.mig\) failed after .*: ENOENT: .*; check the path/);
    assert.deepEqual(list(dir), []);
  });
});
