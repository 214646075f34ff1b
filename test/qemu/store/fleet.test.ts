// From one golden guest to clones that work, are saved, die with their host, and go on elsewhere.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { directoryStorage, s3Storage } from '../../../adapters/index.ts';
import { type SnapshotInfo, SnapshotStore } from '../../../lib/snapshot/index.ts';
import { makeTemplate } from '../../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { type S3Server, startS3Server, withoutS3 } from '../../helpers/storage/s3.ts';
import { type GuestProgram, memoryProblems } from '../harness/guest.ts';
import { requireQemu } from '../harness/harness.ts';
import {
  cloneTemplate,
  copyDisk,
  emptyDisk,
  type FleetOptions,
  GOLDEN,
  kill,
  makeGolden,
  restoreGuest,
  save,
  writeDisk,
} from './fleet.ts';

const CLONES = 8;
const MIB = 1 << 20;
const PAGE = 4096;
/** 64 pages of 4 MiB of pattern are written to. */
const program: GuestProgram = { patternBytes: 4 * MIB, dirtyBytes: 64 * PAGE };
const options: FleetOptions = { program, memoryMiB: 16 };

/** What is known of a clone when its host dies. */
interface Saved {
  readonly name: string;
  readonly info: SnapshotInfo;
  readonly memory: string;
  readonly counter: number;
  readonly disk: string;
}

describe('a fleet', { skip: requireQemu() || withoutS3 }, () => {
  let server: S3Server;
  let here: TempDir;
  let there: TempDir;
  before(async () => {
    server = await startS3Server();
    here = makeTempDir();
    there = makeTempDir();
  });
  after(async () => {
    await server[Symbol.asyncDispose]();
    here.remove();
    there.remove();
  });

  test('of eight clones goes on elsewhere, with its memory and its disks', {
    timeout: 300_000,
  }, async (t) => {
    const { endpoint, region, credentials } = server;
    const bucket = await server.makeBucket();
    const stores = {
      here: new SnapshotStore(directoryStorage(here.join('store'))),
      bucket: new SnapshotStore(
        await s3Storage({ bucket, prefix: 'fleet', endpoint, region, credentials }),
      ),
      there: new SnapshotStore(directoryStorage(there.join('store'))),
    };
    const disk = here.join('golden.img');
    writeFileSync(disk, emptyDisk());
    const golden = await makeGolden(options, disk, stores.here);
    const template = await makeTemplate(await stores.here.reader(GOLDEN), here.join('template'));

    const clones: Saved[] = [];
    for (let number = 1; number <= CLONES; number += 1) {
      const name = `clone-${number}`;
      const own = copyDisk(disk, here.join(`${name}.img`));
      const clone =
        number % 2 === 0
          ? await restoreGuest(options, own, stores.here, GOLDEN, false)
          : await cloneTemplate(options, own, here.join('template'), template);
      try {
        await clone.qemu.waitCounterRises(5 * number);
        await writeDisk(clone, number);
        const info = await save(clone, stores.here, name, GOLDEN);
        const memory = await clone.qemu.ramSha256();
        clones.push({ name, info, memory, counter: await clone.qemu.counter(), disk: own });
      } finally {
        await kill(clone);
      }
    }
    assert.ok(new Set(clones.map(({ memory }) => memory)).size > 1, 'they worked');
    let own = 0;
    for (const { info } of clones) own += info.ownBytes;
    // The pages that are written to, the page of the counter, the stack, and what else the machine touches.
    const changed = CLONES * 72 * PAGE;
    assert.ok(own <= golden.ownBytes + 1.1 * changed, `${own} bytes of their own`);
    t.diagnostic(`golden ${golden.ownBytes} bytes, ${CLONES} clones ${own} bytes`);

    for (const { name, disk: image } of clones) {
      await stores.here.copy(name, stores.bucket);
      await stores.bucket.copy(name, stores.there);
      copyDisk(image, there.join(`${name}.img`));
    }
    here.remove();

    for (const [index, { name, memory, counter }] of clones.entries()) {
      const store = index % 4 === 0 ? stores.bucket : stores.there;
      const image = there.join(`${name}.img`);
      const guest = await restoreGuest(options, image, store, name, true);
      try {
        assert.equal(await guest.qemu.ramSha256(), memory, `the memory of ${name}`);
        assert.equal(await guest.qemu.counter(), counter);
        await guest.qemu.resume();
        await guest.qemu.waitCounterRises();
        await guest.qemu.pause();
        assert.deepEqual(memoryProblems(await guest.qemu.readRam(), program), []);
        assert.deepEqual(readFileSync(image).subarray(4096, 4608), Buffer.alloc(512, index + 1));
      } finally {
        await guest[Symbol.asyncDispose]();
      }
    }
    for (const store of Object.values(stores)) await store.close();
  });
});
