// A snapshot store whose writers are killed and whose snapshots come and go, checked after each step.
import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { directoryStorage } from '../../adapters/index.ts';
import { QemuFileError } from '../../lib/index.ts';
import { SnapshotStore } from '../../lib/snapshot/index.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { MadeGuest, memoryDigest } from '../helpers/guests/made-guest.ts';
import { guestToWrite } from '../helpers/storage/writer-to-kill.ts';
import { below, type Chance, oneOf } from '../helpers/streams/mutate.ts';
import { attempt, type Outcome } from './outcome.ts';

const WRITER = fileURLToPath(new URL('../helpers/storage/writer-to-kill.ts', import.meta.url));
const STEPS = ['write', 'write', 'killed writer', 'remove', 'collect garbage', 'copy'] as const;
const NAMES = ['a', 'b', 'c', 'd'] as const;
const PAGES = 400;

/** Change a store by random steps and assert that each name holds what was written under it. */
export async function randomStore(chance: Chance): Promise<Outcome> {
  const steps = Array.from({ length: 3 + below(8, chance) }, () => oneOf(STEPS, chance));
  return attempt(steps.join(', '), () => carryOut(steps, chance));
}

async function carryOut(steps: readonly (typeof STEPS)[number][], chance: Chance): Promise<string> {
  await using dir = makeTempDir();
  const path = dir.join('store');
  const store = new SnapshotStore(directoryStorage(path));
  const expected = new Map<string, string>();
  let killed = 0;
  let copies = 0;
  let guest = randomGuest(new MadeGuest(PAGES), chance);
  try {
    for (const step of steps) {
      const name = oneOf(NAMES, chance);
      const names = [...expected.keys()];
      const parent = names.length > 0 && below(3, chance) > 0 ? oneOf(names, chance) : undefined;
      if (step === 'write') {
        guest = randomGuest(guest, chance);
        await store.writer(name, { parent, replace: true }).writeGuest(guest);
        expected.set(name, await memoryDigest(guest));
      } else if (step === 'killed writer') {
        const when = oneOf(['before', 'during', 'after'], chance);
        const args = [`store:${path}`, 'killed', parent ?? '-', String(below(8, chance)), when];
        await killedWriter(args);
        if (await exists(store, 'killed')) {
          expected.set('killed', await memoryDigest(guestToWrite()));
          await assertHolds(store, expected);
          await store.remove('killed');
          expected.delete('killed');
        }
        killed += 1;
      } else if (step === 'remove' && expected.delete(name)) await store.remove(name);
      else if (step === 'collect garbage' && names.length > 0) await store.gc({ graceMs: 0 });
      else if (step === 'copy' && parent !== undefined) {
        copies += 1;
        const other = new SnapshotStore(directoryStorage(dir.join(`copy-${copies}`)));
        await store.copy(parent, other);
        await assertHolds(other, new Map([[parent, expected.get(parent) ?? '']]));
        await other.close();
      }
      if (expected.size > 0) await assertHolds(store, expected);
    }
  } finally {
    await store.close();
  }
  return killed > 0 ? 'held, with killed writers' : 'held';
}

function randomGuest(guest: MadeGuest, chance: Chance): MadeGuest {
  const next = guest.clone();
  for (let change = below(5, chance); change >= 0; change--) {
    const first = below(PAGES, chance);
    next.fill(first, 1 + below(PAGES - first, chance), `seed ${below(1000, chance)}`);
  }
  return next;
}

/** Run a writer that kills itself, or ends because the name exists. */
async function killedWriter(args: string[]): Promise<void> {
  const child = fork(WRITER, args, { execArgv: ['--import', 'tsx'], stdio: 'ignore' });
  await once(child, 'exit');
}

/** Return whether the store has a snapshot; a writer that is killed early may leave no store at all. */
async function exists(store: SnapshotStore, name: string): Promise<boolean> {
  try {
    return (await store.list()).some((info) => info.name === name);
  } catch (error) {
    if (error instanceof QemuFileError && error.code === 'ENOENT') return false;
    throw error;
  }
}

async function assertHolds(
  store: SnapshotStore,
  expected: ReadonlyMap<string, string>,
): Promise<void> {
  const { damage } = await store.fsck({ deep: true });
  assert.deepEqual(
    damage.filter(({ snapshots }) => snapshots.length > 0),
    [],
  );
  const names = (await store.list()).map(({ name }) => name);
  assert.deepEqual(names, [...expected.keys()].sort());
  for (const [name, digest] of expected) {
    const reader = await store.reader(name);
    assert.equal(await memoryDigest(reader), digest, name);
    await reader.close();
  }
}
