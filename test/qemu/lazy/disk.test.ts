// Lazy restores from a block device, and those whose disk fails in the middle.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  fsyncSync,
  openSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { openFrom } from '../../../adapters/index.ts';
import { QemuFile, QemuFileError } from '../../../lib/index.ts';
import { openSavedGuest, type SavedGuest, unwrap } from '../../../lib/migration/index.ts';
import { recoverLazily, restoreLazily } from '../../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { Command, run } from '../../helpers/command/command.ts';
import {
  attachLoopDevice,
  mountLoopDisk,
  requireLoopDisk,
} from '../../helpers/storage/loop-disk.ts';
import { assertSound, type Machine, machine, openGuest, QEMUS, saveGuest } from './machine.ts';

/** A disk whose bytes from some place on cannot be read. */
interface FailingDisk {
  failsFrom: number;
}

/** Opens a saved guest on a disk that fails as the kernel reports it. */
async function openOnDisk(path: string, disk: FailingDisk): Promise<SavedGuest> {
  const file = await openFrom(path);
  const onDisk = new QemuFile({
    getBuffer: async (buffer, position) => file.getBufferAt(buffer, position),
    getBufferAt: async (buffer, offset) => {
      if (offset + buffer.length > disk.failsFrom) {
        throw Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO', errno: -5 });
      }
      return file.getBufferAt(buffer, offset);
    },
    setOffset: (offset, whence) => file.setOffset(offset, whence),
    getOffset: () => file.getOffset(),
    close: () => file.close(),
  });
  return openSavedGuest(await unwrap(onDisk));
}

/** Checks that the guest waits for its pages: the end was not sent. */
async function assertWaits({ qmp }: Machine): Promise<void> {
  const { data } = await qmp.waitForEvent('MIGRATION', {
    since: 0,
    matches: ({ data: { status } }) => status !== 'setup' && !String(status).endsWith('active'),
  });
  assert.equal(data.status, 'postcopy-paused');
}

const hasNoLoopDisk = requireLoopDisk();

for (const { version, skip, options } of QEMUS) {
  describe(`a lazy restore to QEMU ${version} whose disk fails`, { skip, timeout: 300_000 }, () => {
    let dir: TempDir;
    before(async () => {
      dir = makeTempDir();
      await saveGuest(dir.join('vm.mig'), options);
    });
    after(() => dir.remove());

    test('names page and cause, and goes on with an intact copy of the file', async () => {
      await using restored = await machine({ ...options, incoming: 'defer' });
      const disk: FailingDisk = { failsFrom: Number.POSITIVE_INFINITY };
      const failing = await openOnDisk(dir.join('vm.mig'), disk);
      restored.qmp.on('event', ({ event }) => {
        if (event === 'RESUME') disk.failsFrom = statSync(dir.join('vm.mig')).size / 2;
      });
      try {
        await assert.rejects(
          // Slow enough that the guest runs before its memory is there.
          restoreLazily(restored.qmp, failing, { maxBandwidth: 4 << 20 }),
          (error) => {
            assert.ok(error instanceof QemuFileError);
            assert.equal(error.code, 'EIO');
            assert.match(
              error.message,
              /the pages from 0x\w+ of "microvm.ram".*: i\/o error.*; the guest keeps what has arrived and waits/,
            );
            return true;
          },
        );
      } finally {
        // The file has failed, and says so once more.
        await failing.close().catch(() => {});
      }
      await assertWaits(restored);
      const guest = await openGuest(dir.join('vm.mig'));
      const { status } = await recoverLazily(restored.qmp, guest);
      await guest.close();
      assert.equal(status, 'running');
      await assertSound(restored);
    });

    test('from a block device needs no file, whatever follows the stream on it', {
      skip: hasNoLoopDisk,
    }, async () => {
      // A volume is larger than the stream on it, and keeps what it had before.
      const volume = dir.join('volume');
      const stream = readFileSync(dir.join('vm.mig'));
      const sectors = Math.ceil(stream.length / 512) + 100;
      writeFileSync(volume, Buffer.concat([stream, randomBytes(sectors * 512 - stream.length)]));
      using device = attachLoopDevice(volume);
      for (const lazy of [['--lazy'], []]) {
        await using restored = await machine({ ...options, incoming: 'defer' });
        const { code, stderr } = await run([
          ...['restore', ...lazy, '--qmp', restored.monitor, device.path],
        ]);
        assert.equal(code, 0, stderr);
        await assertSound(restored);
      }
      // The directory of the device has no place for an index.
      const indexed = await run(['save', '--qmp', 'none', '--index', device.path]);
      assert.equal(indexed.code, 2, indexed.stderr);
      assert.match(
        indexed.stderr,
        /--index writes a file beside the stream, but \S+ is not a file/,
      );
    });

    test('under the command says so, and goes on with an intact copy of the file', {
      skip: hasNoLoopDisk,
    }, async () => {
      await using restored = await machine({ ...options, incoming: 'defer' });
      using disk = mountLoopDisk();
      const bad = disk.join('vm.mig');
      copyFileSync(dir.join('vm.mig'), bad);
      const file = openSync(bad, 'r+');
      fsyncSync(file);
      closeSync(file);
      const running = restored.qmp.waitForEvent('RESUME');
      const restoring = new Command([
        ...['restore', '--lazy', '--qmp', restored.monitor, '--max-bandwidth', '1M', bad],
      ]);
      await running;
      disk.failFrom(2_498_560, bad);
      const { code, stderr } = await restoring.ended();
      assert.equal(code, 4, stderr);
      assert.match(stderr, /EIO.*the pages from 0x\w+ of "microvm.ram"/);
      assert.match(stderr, /the guest keeps what has arrived and waits.*--recover/s);
      await assertWaits(restored);
      const guest = await openGuest(dir.join('vm.mig'));
      await recoverLazily(restored.qmp, guest);
      await guest.close();
      await assertSound(restored);
    });
  });
}
