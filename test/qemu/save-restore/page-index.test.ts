// A guest that is saved with an index of its pages while it runs and writes to its memory.
import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { openFrom } from '../../../adapters/index.ts';
import { openSavedGuest, unwrap } from '../../../lib/migration/index.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';
import { firmware, type GuestProgram, memoryProblems } from '../harness/guest.ts';
import { type Qemu, type QemuOptions, requireQemu, startQemu } from '../harness/harness.ts';
import { findQemu10, requireQemu10 } from '../harness/qemu10.ts';

const program: GuestProgram = { patternBytes: 3 << 20, dirtyBytes: 1 << 20 };
const image = firmware(program);

for (const { version, skip, options } of [
  { version: '7.2', skip: requireQemu(), options: {} },
  { version: '10.0', skip: requireQemu10(), options: { binary: findQemu10() ?? '' } },
]) {
  test(`a running guest is saved with an index and restored lazily with it: QEMU ${version}`, {
    skip,
  }, async () => {
    await using dir = makeTempDir();
    const start = (name: string, more: QemuOptions = {}): Promise<Qemu> =>
      startQemu({
        firmware: image,
        extraArgs: ['-qmp', `unix:${dir.join(name)},server=on,wait=off`],
        ...options,
        ...more,
      });
    const path = dir.join('vm.mig');
    {
      await using source = await start('source');
      await source.waitGuestReady();
      // Slow enough for several rounds, in which pages come again.
      const flags = ['--index', '--max-bandwidth', '8MiB'];
      const saved = await run(['save', '--qmp', dir.join('source'), ...flags, path]);
      assert.equal(saved.code, 0, saved.stderr);
    }
    const index = readFileSync(`${path}.qemu-file-index`);
    const bytes = readFileSync(path);
    const open = async (given?: Uint8Array): ReturnType<typeof openSavedGuest> =>
      openSavedGuest(await unwrap(await openFrom(`file:${path}`)), { index: given });
    const [indexed, passed] = [await open(index), await open()];
    for (const [block, { usedLength }] of passed.pages.blocks.entries()) {
      const [a, b] = [Buffer.alloc(usedLength), Buffer.alloc(usedLength)];
      await indexed.pages.read(block, 0, a);
      await passed.pages.read(block, 0, b);
      assert.ok(a.equals(b));
    }
    assert.deepEqual(indexed.sections, passed.sections);
    await Promise.all([indexed.close(), passed.close()]);

    await using restored = await start('destination', { incoming: 'defer' });
    const lazily = ['restore', '--lazy', '--qmp', dir.join('destination'), path];
    // The last byte of the stream belongs to the VM description, which is read before anything is sent.
    const last = bytes.at(-1) as number;
    writeFileSync(path, Buffer.concat([bytes.subarray(0, -1), Buffer.of(last ^ 1)]));
    const refused = await run(lazily);
    assert.notEqual(refused.code, 0);
    assert.match(refused.stderr, /page index does not fit the file.*remove the index/);
    writeFileSync(path, bytes);
    const { code, stderr } = await run(lazily);
    assert.equal(code, 0, stderr);
    await restored.waitCounterRises();
    await restored.pause();
    assert.deepEqual(memoryProblems(await restored.readRam(), program), []);

    // Another guest of that name has no index, and must not be read with this one.
    const again = await run(['save', '--qmp', dir.join('destination'), path]);
    assert.equal(again.code, 0, again.stderr);
    assert.ok(!existsSync(`${path}.qemu-file-index`));
  });
}
