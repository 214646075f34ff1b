// A guest of a machine type whose device sections nothing delimits, saved by a real QEMU.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openTo } from '../../adapters/index.ts';
import { QmpClient, saveVm } from '../../lib/vm/index.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { requireQemu, startQemu } from '../qemu/harness/harness.ts';
import { assertSays, run } from './field-stream.ts';

test('a save of pc-i440fx-2.1 is checked up to the end of RAM, and says so', {
  skip: requireQemu(),
}, async () => {
  const dir = makeTempDir();
  const monitor = `unix:${dir.join('qmp')},server=on,wait=off`;
  await using qemu = await startQemu({
    machine: 'pc-i440fx-2.1',
    bootSector: Buffer.concat([
      Buffer.from('ebfe', 'hex'),
      Buffer.alloc(508),
      Buffer.from('55aa', 'hex'),
    ]),
    extraArgs: ['-qmp', monitor],
  });
  assert.ok(qemu);
  const qmp = await QmpClient.connect(dir.join('qmp'));
  try {
    const { warnings } = await saveVm(qmp, await openTo(dir.join('old.mig')));
    const only = warnings.filter((warning) =>
      warning.startsWith('only the stream up to the end of RAM was checked'),
    );
    assert.equal(only.length, 1, warnings.join('\n'));
    assertSays(await run(['verify', dir.join('old.mig')]), 5, /all of RAM was read/);
  } finally {
    await qmp.close();
    dir.remove();
  }
});
