// Our stream at one end, or in the middle, of migrations of real QEMUs.
import assert from 'node:assert/strict';
import { closeSync, constants, existsSync, openSync, readdirSync, statSync } from 'node:fs';
import net from 'node:net';
import { pipeline } from 'node:stream/promises';
import { describe, test } from 'node:test';
import { openFrom, openTo } from '../../../adapters/index.ts';
import type { QemuFile } from '../../../lib/index.ts';
import { relay } from '../../../lib/relay/relay.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { makeFifo } from '../../helpers/files.ts';
import { firmware, type GuestProgram } from '../harness/guest.ts';
import {
  differingPages,
  type Qemu,
  type QemuOptions,
  requireQemu,
  startQemu,
} from '../harness/harness.ts';

const program: GuestProgram = { patternBytes: 2 << 20, dirtyBytes: 1 << 20 };
const guest: QemuOptions = { firmware: firmware(program) };
/** As fast as it goes: QEMU's own default is 128 MiB/s. */
const unlimited = { parameters: { 'max-bandwidth': 2 ** 40 } };

/** How a migration gets from QEMU to us and from us to QEMU, over one kind of transport. */
interface Way {
  name: string;
  /** Start saving `source`; return the file from which the stream can be read. */
  save(dir: TempDir): Promise<{ options: QemuOptions; begin(source: Qemu): Promise<QemuFile> }>;
  restore(dir: TempDir): Promise<{ options: QemuOptions; begin(qemu: Qemu): Promise<QemuFile> }>;
}

const defer: QemuOptions = { ...guest, incoming: 'defer', startStopped: true };

const ways: Way[] = [
  {
    name: 'unix:',
    save: async (dir) => ({
      options: guest,
      begin: async (source) => {
        const path = dir.join('socket');
        const from = openFrom(`unix:${path}`, {
          onListening: () => void source.startMigration(`unix:${path}`, unlimited),
        });
        return from;
      },
    }),
    restore: async (dir) => ({
      options: defer,
      begin: async (qemu) => {
        await qemu.migrateIncoming(`unix:${dir.join('socket')}`);
        return openTo(`unix:${dir.join('socket')}`);
      },
    }),
  },
  {
    name: 'tcp:',
    save: async () => ({
      options: guest,
      begin: (source) =>
        openFrom('tcp:127.0.0.1:0', {
          onListening: (address) => {
            assert.ok('port' in address);
            void source.startMigration(`tcp:127.0.0.1:${address.port}`, unlimited);
          },
        }),
    }),
    restore: async () => ({
      options: defer,
      begin: async (qemu) => {
        await qemu.migrateIncoming('tcp:127.0.0.1:0');
        return openTo(`tcp:127.0.0.1:${await qemu.incomingPort()}`);
      },
    }),
  },
  {
    name: 'fd:',
    save: async (dir) => {
      const path = makeFifo(dir);
      const ours = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      return {
        options: guest,
        begin: async (source) => {
          await source.passDescriptor('fifo', openSync(path, constants.O_WRONLY));
          await source.startMigration('fd:fifo', unlimited);
          return openFrom(`fd:${ours}`);
        },
      };
    },
    restore: async (dir) => {
      const path = makeFifo(dir);
      const theirs = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      const ours = openSync(path, constants.O_WRONLY);
      return {
        options: { ...guest, inherit: [theirs], incoming: 'fd:3', startStopped: true },
        begin: async () => {
          closeSync(theirs);
          return openTo(`fd:${ours}`);
        },
      };
    },
  },
  {
    name: 'exec:',
    save: async (dir) => {
      const path = makeFifo(dir);
      return {
        options: guest,
        begin: async (source) => {
          await source.startMigration(`exec:cat > ${path}`, unlimited);
          return openFrom(`exec:cat ${path}`);
        },
      };
    },
    restore: async (dir) => {
      const path = makeFifo(dir);
      return {
        options: { ...guest, incoming: `exec:cat ${path}`, startStopped: true },
        begin: () => openTo(`exec:cat > ${path}`),
      };
    },
  },
];

describe('a guest is saved and restored through our stream', { skip: requireQemu() }, () => {
  for (const way of ways) {
    test(`over ${way.name}, and its memory is unchanged`, async () => {
      await using dir = makeTempDir();
      await using toUs = makeTempDir();
      await using fromUs = makeTempDir();
      const image = dir.join('vm.mig');

      const save = await way.save(toUs);
      await using source = await startQemu(save.options);
      await source.waitGuestReady();
      const from = await save.begin(source);
      const to = await openTo(`file:${image}`);
      await pipeline(from, to);
      await from.close();
      assert.equal((await source.waitMigrationEnd()).status, 'completed');
      assert.equal(statSync(image).mode & 0o777, 0o600);

      const restore = await way.restore(fromUs);
      await using destination = await startQemu(restore.options);
      const back = await restore.begin(destination);
      await pipeline(await openFrom(`file:${image}`), back);
      await back.close();
      await destination.waitStatus(['paused']);
      assert.deepEqual(differingPages(await source.readRam(), await destination.readRam()), []);
      await destination.resume();
      await destination.waitCounterRises();
    });
  }
});

describe('between two live QEMUs', { skip: requireQemu() }, () => {
  test('relay carries a migration with return path, and both sides are done', async () => {
    await using dir = makeTempDir();
    await using source = await startQemu(guest);
    await using destination = await startQemu({ ...guest, incoming: 'defer' });
    const returnPath = { capabilities: { 'return-path': true } };
    await source.waitGuestReady();
    await destination.migrateIncoming(`unix:${dir.join('to')}`, returnPath);
    const to = await openTo(`unix:${dir.join('to')}`);
    const from = await openFrom(`unix:${dir.join('from')}`, {
      onListening: () =>
        void source.startMigration(`unix:${dir.join('from')}`, { ...unlimited, ...returnPath }),
    });
    const result = await relay(from, to);
    assert.equal((await source.waitMigrationEnd()).status, 'completed');
    await destination.waitRunning();
    await destination.waitCounterRises();
    assert.equal(result.complete, true);
    assert.ok(result.forward.bytes > 2 << 20);
    // PONG for QEMU's PING, and SHUT at the end: be16 type, be16 length, be32 value, twice.
    assert.equal(result.return?.bytes, 16);
  });
});

describe('a limited save', { skip: requireQemu() }, () => {
  test('takes as long as the limit says, and QEMU sees the same rate', async () => {
    await using dir = makeTempDir();
    // A guest that stands still, so that the amount does not depend on the time.
    const still = { ...guest, firmware: firmware({ patternBytes: 6 << 20 }) };
    await using source = await startQemu(still);
    await source.waitGuestReady();
    const limit = 4 << 20;
    const from = await openFrom(`unix:${dir.join('socket')}`, {
      onListening: () => void source.startMigration(`unix:${dir.join('socket')}`, unlimited),
    });
    const to = await openTo(`file:${dir.join('vm.mig')}`, { file: { maxBandwidth: limit } });
    const started = performance.now();
    await pipeline(from, to);
    const seconds = (performance.now() - started) / 1000;
    await from.close();
    const info = await source.waitMigrationEnd();
    const { size } = statSync(dir.join('vm.mig'));
    // From below only: a machine under load may always take longer.
    assert.ok(seconds > (size / limit) * 0.95, `${size} bytes took ${seconds} s`);
    assert.ok(to.limitedMs > 0);
    const seen = ((info.ram?.mbps ?? 0) * 1e6) / 8;
    assert.ok(seen > 0 && seen < limit * 1.3, `QEMU saw ${seen} bytes/s of ${limit}`);
  });
});

describe('a save whose connection breaks half-way', { skip: requireQemu() }, () => {
  test('leaves no file under the final name, and the error says so', async () => {
    await using dir = makeTempDir();
    await using source = await startQemu(guest);
    await source.waitGuestReady();
    // A proxy between them resets the connection after one MiB.
    const middle = net.createServer((incoming) => {
      const outgoing = net.connect(port);
      let bytes = 0;
      incoming.on('data', (chunk) => {
        bytes += chunk.length;
        outgoing.write(chunk);
        if (bytes < 1 << 20) return;
        outgoing.resetAndDestroy();
        incoming.resetAndDestroy();
      });
    });
    await new Promise<void>((resolve) => middle.listen(0, '127.0.0.1', resolve));
    let port = 0;
    const from = await openFrom('tcp:127.0.0.1:0', {
      onListening: (address) => {
        assert.ok('port' in address);
        port = address.port;
        const { port: through } = middle.address() as net.AddressInfo;
        // Slow enough that it is not over, for QEMU, before the connection breaks.
        const slow = { parameters: { 'max-bandwidth': 8 << 20 } };
        void source.startMigration(`tcp:127.0.0.1:${through}`, slow);
      },
    });
    const to = await openTo(`file:${dir.join('vm.mig')}`);
    await assert.rejects(pipeline(from, to), (error: Error) => {
      assert.match(error.message, /ECONNRESET.*getBuffer.*at byte \d+/s);
      return true;
    });
    await to.close().catch(() => {});
    middle.close();
    assert.deepEqual(readdirSync(dir.path), []);
    assert.equal(existsSync(dir.join('vm.mig')), false);
    assert.equal((await source.waitMigrationEnd()).status, 'failed');
    // The guest was not lost: it runs on where it was.
    await source.waitRunning();
    await source.waitCounterRises();
  });
});
