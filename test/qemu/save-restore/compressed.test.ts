// A compressed file that its program sends to QEMU: what is reported, and what is left when that fails.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { openFrom, openTo } from '../../../adapters/index.ts';
import { QemuFileError } from '../../../lib/index.ts';
import { MigrationReader, type Section } from '../../../lib/migration/index.ts';
import {
  type RestoreOptions,
  type RestoreResult,
  restoreVm,
  saveVm,
} from '../../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { Command } from '../../helpers/command/command.ts';
import { until } from '../../helpers/until.ts';
import { differingPages } from '../harness/harness.ts';
import { type Machine, machine, QEMUS } from '../lazy/machine.ts';

/** Descriptors of this process that are neither pipes of the test runner nor Node's own. */
function openFiles(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)].filter((name) => !name.startsWith('anon_inode'));
    } catch {
      return [];
    }
  });
}

/** Process ids of the programs that read a file as their standard input. */
function readersOf(path: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/0`) === path;
      } catch {
        return false;
      }
    })
    .map(Number);
}

async function sectionsOf(stream: Buffer): Promise<Section[]> {
  const sections: Section[] = [];
  for await (const event of new MigrationReader(Readable.from([stream]))) {
    if (event.type === 'section') sections.push(event.section);
  }
  return sections;
}

for (const { version, skip, options: which } of QEMUS) {
  describe(`a .zst file of QEMU ${version}`, { skip }, () => {
    let dir: TempDir;
    let stream: Buffer;
    let ram: readonly Section[];
    let memory: Buffer;
    before(async () => {
      dir = makeTempDir();
      await using source = await machine(which);
      await source.qemu.waitGuestReady();
      await saveVm(source.qmp, await openTo(dir.join('plain')), { pause: true });
      memory = await source.qemu.readRam();
      stream = readFileSync(dir.join('plain'));
      ram = (await sectionsOf(stream)).filter(({ name }) => name === 'ram');
      assert.ok(ram.length >= 2);
    });
    after(() => dir.remove());

    /** Write a compressed file, and return its path. */
    const pack = (name: string, bytes: Buffer): string => {
      const path = dir.join(name);
      execFileSync('zstd', ['-q', '-o', path], { input: bytes });
      return path;
    };

    const restore = async (
      waiting: Machine,
      path: string,
      options: RestoreOptions = {},
    ): Promise<RestoreResult> => restoreVm(waiting.qmp, await openFrom(path), options);

    const waitingMachine = (): Promise<Machine> => machine({ ...which, incoming: 'defer' });

    /** Have a restore fail, and check that no guest and nothing else is left of it. */
    const fails = async (
      path: string,
      codes: string | readonly string[],
      reason: RegExp,
      options: RestoreOptions = {},
    ): Promise<QemuFileError> => {
      await using waiting = await waitingMachine();
      const before = openFiles();
      const error = await restore(waiting, path, options).then(
        () => assert.fail('it was restored'),
        (failure: unknown) => failure,
      );
      assert.ok(error instanceof QemuFileError, String(error));
      assert.ok([codes].flat().includes(error.code), error.message);
      assert.match(error.message, reason);
      assert.deepEqual(readersOf(path), []);
      await until(() => waiting.qmp.isClosed, { what: 'the end of QEMU' });
      assert.deepEqual(
        openFiles().filter((name) => name.includes(path)),
        before.filter((name) => name.includes(path)),
      );
      await assert.rejects(waiting.qemu.status());
      return error;
    };

    test('is restored with its memory, and its bytes are counted', async () => {
      const path = pack('whole', stream);
      await using waiting = await waitingMachine();
      const { bytes, status, limitedSeconds, warnings } = await restore(waiting, path);
      assert.deepEqual([bytes, status, limitedSeconds], [stream.length, 'paused', 0]);
      assert.deepEqual(warnings, []);
      assert.deepEqual(readersOf(path), []);
      assert.ok(!openFiles().some((name) => name.includes(path)));
      assert.deepEqual(differingPages(memory, await waiting.qemu.readRam()), []);
    });

    test('is sent and checked by this process where setpriv is missing', async () => {
      const path = pack('relayed', stream);
      const damaged = pack('relayed-short', stream.subarray(0, 2_000_000));
      await using waiting = await waitingMachine();
      await using other = await waitingMachine();
      const { PATH } = process.env;
      await using tools = makeTempDir();
      symlinkSync(execFileSync('which', ['zstd'], { encoding: 'utf8' }).trim(), tools.join('zstd'));
      process.env.PATH = tools.path;
      try {
        const { bytes, status } = await restore(waiting, path);
        assert.deepEqual([bytes, status], [stream.length, 'paused']);
        await assert.rejects(restore(other, damaged), { code: 'ENODATA' });
      } finally {
        process.env.PATH = PATH;
      }
    });

    test('is restored from an offset in a file, also with bytes after the stream', async () => {
      const padded = readFileSync(pack('padded', Buffer.concat([stream, Buffer.alloc(4 << 20)])));
      writeFileSync(dir.join('inside'), Buffer.concat([Buffer.alloc(100_000, 'x'), padded]));
      await using waiting = await waitingMachine();
      const { status } = await restore(waiting, `file:${dir.join('inside')},offset=100000`);
      assert.equal(status, 'paused');
    });

    test('that is cut off is reported as such', async () => {
      const packed = readFileSync(pack('complete', stream));
      writeFileSync(dir.join('cut'), packed.subarray(0, packed.length >> 1));
      await fails(dir.join('cut'), 'EIO', /premature end|unexpected end/i);
    });

    test('with a flipped bit is refused, even in its checksum', async () => {
      const packed = readFileSync(pack('sound', stream));
      const flip = (offset: number): string => {
        const flipped = Buffer.from(packed);
        flipped[offset] = (flipped[offset] as number) ^ 1;
        const path = dir.join(`flipped-${offset}`);
        writeFileSync(path, flipped);
        return path;
      };
      // Of a flipped bit, zstd can make another stream before it comes to the checksum.
      await fails(flip(packed.length >> 1), ['EIO', 'EBADMSG', 'ENODATA'], /./);
      await fails(flip(packed.length - 1), 'EIO', /checksum|corrupt|Decoding error/);
    });

    test('whose stream ends too early is refused with the place', async () => {
      const path = pack('short', stream.subarray(0, 2_000_000));
      await fails(path, 'ENODATA', /the stream ends inside .* at byte \d+/);
    });

    test('whose stream is damaged is refused with the place', async () => {
      const end = ram.at(-1) as Section;
      const damaged = Buffer.from(stream);
      // The type of the section after RAM.
      damaged[end.offset + end.bytes] = 0x55;
      const error = await fails(
        pack('damaged', damaged),
        'EBADMSG',
        /byte 0x55 after section "ram"/,
      );
      assert.equal(error.position, end.offset + end.bytes);
      const reason = version === '7.2' ? /see its standard error/ : /load of migration failed/;
      await fails(dir.join('damaged'), 'EIO', reason, { check: false });
    });

    describe('that takes long', () => {
      let path: string;
      before(() => {
        // Pages of zeros: the first record names its block, all others continue it.
        const [{ sectionId }, last] = [ram[0] as Section, ram.at(-1) as Section];
        const id = Buffer.alloc(4);
        id.writeUInt32BE(sectionId);
        const block = Buffer.from('\x0bmicrovm.ram\0', 'latin1');
        const first = Buffer.concat([Buffer.from([2]), id, Buffer.from('0000000000000002', 'hex')]);
        const more = Buffer.alloc(9 << 22, Buffer.from('000000000000002200', 'hex'));
        const end = Buffer.concat([
          Buffer.from('0000000000000010', 'hex'),
          Buffer.from([0x7e]),
          id,
        ]);
        const head = Buffer.concat([stream.subarray(0, last.offset), first, block]);
        const tail = Buffer.concat([end, stream.subarray(last.offset)]);
        const [start, middle, rest] = [head, more, tail].map((bytes) =>
          execFileSync('zstd', ['-q', '-1'], { input: bytes }),
        ) as [Buffer, Buffer, Buffer];
        path = dir.join('long');
        writeFileSync(path, Buffer.concat([start, ...new Array<Buffer>(24).fill(middle), rest]));
      });

      test('is given up when the caller aborts', async () => {
        const controller = new AbortController();
        await using waiting = await waitingMachine();
        const restoring = restore(waiting, path, { signal: controller.signal });
        restoring.catch(() => {});
        const isSent = (): boolean => senders(path).length > 0;
        await until(isSent, { what: 'the program to send' });
        controller.abort();
        await assert.rejects(restoring, /ECANCELED.*aborted/);
        assert.deepEqual(readersOf(path), []);
        await until(() => waiting.qmp.isClosed, { what: 'the end of QEMU' });
      });

      test('is not loaded when the command is killed', async () => {
        await using waiting = await waitingMachine();
        const restoring = new Command(['restore', '--qmp', waiting.monitor, path]);
        await until(() => senders(path).length > 0, { what: 'the program to send' });
        restoring.child.kill('SIGKILL');
        await restoring.ended();
        await until(() => readersOf(path).length === 0, { what: 'the end of the program' });
        const isFailed = async (): Promise<boolean> => {
          if (waiting.qmp.isClosed) return true;
          const status = await waiting.qemu.migrationInfo().then(
            (info) => info.status,
            () => 'failed',
          );
          return status === 'failed';
        };
        await until(isFailed, { what: 'the end of the migration' });
      });
    });
  });
}

/** Process ids of the programs that decompress a file into a socket. */
function senders(path: string): number[] {
  return readersOf(path).filter((pid) => {
    try {
      const args = readFileSync(`/proc/${pid}/cmdline`, 'latin1');
      return args.startsWith('zstd\0-dcv');
    } catch {
      return false;
    }
  });
}
