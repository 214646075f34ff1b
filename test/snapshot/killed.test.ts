import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { directoryStorage } from '../../adapters/index.ts';
import { SnapshotStore } from '../../lib/snapshot/index.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { MadeGuest, memoryDigest } from '../helpers/guests/made-guest.ts';

const WRITER = fileURLToPath(new URL('../helpers/storage/killed-writer.ts', import.meta.url));

/** Starts a writer that kills itself at its nth call of the storage; returns whether it was killed. */
async function writeAndDie(path: string, calls: number, isBefore: boolean): Promise<boolean> {
  const args = ['--import', 'tsx', WRITER, path, `${calls}`, isBefore ? 'before' : 'during'];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  if (signal === 'SIGKILL') return true;
  assert.equal(code, 0);
  return false;
}

test('a writer that is killed at any write leaves a store that is whole', async () => {
  const dir = makeTempDir();
  try {
    const base = new MadeGuest(300).fill(0, 100, 'base');
    const child = base.clone('changed').fill(20, 30, 'child');
    const store = new SnapshotStore(directoryStorage(dir.join('store')));
    await store.writer('base').writeGuest(base);
    let calls = 0;
    for (; calls < 12; calls++) {
      const isKilled = await writeAndDie(dir.join('store'), calls, calls % 2 === 0);
      const { damage } = await store.fsck({ deep: true });
      assert.deepEqual(
        damage.filter(({ snapshots }) => snapshots.length > 0),
        [],
      );
      const names = (await store.list()).map(({ name }) => name);
      assert.ok(names.includes('base'));
      assert.equal(await memoryDigest(await store.reader('base')), await memoryDigest(base));
      if (names.includes('child')) {
        assert.equal(await memoryDigest(await store.reader('child')), await memoryDigest(child));
      }
      if (!isKilled) break;
      if (names.includes('child')) await store.remove('child');
    }
    assert.ok(calls >= 4 && calls < 12, `${calls} calls`);
    await store.remove('child');
    // Marks of killed writers still count, so their garbage stays for now.
    await store.gc({ graceMs: 0 });
    assert.equal(await memoryDigest(await store.reader('base')), await memoryDigest(base));
    await store.close();
  } finally {
    dir.remove();
  }
});
