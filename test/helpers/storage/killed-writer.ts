// Writes a child of "base" into a store, and kills this process at a call that changes the storage.
//
//   killed-writer.ts STORE CALLS before|during
import { directoryStorage, type ObjectStorage } from '../../../adapters/index.ts';
import { SnapshotStore } from '../../../lib/snapshot/index.ts';
import { MadeGuest } from '../guests/made-guest.ts';

const [path = '', calls = '0', when] = process.argv.slice(2);
let left = Number(calls);

const storage: ObjectStorage = new Proxy(directoryStorage(path), {
  get(target, property) {
    const value: unknown = Reflect.get(target, property, target);
    if (typeof value !== 'function') return value;
    return (...args: unknown[]) => {
      const isChange = property === 'put' || property === 'remove';
      const isLast = isChange && left-- === 0;
      if (isLast && when === 'before') process.kill(process.pid, 'SIGKILL');
      const result = Reflect.apply(value, target, args) as unknown;
      if (isLast) setImmediate(() => process.kill(process.pid, 'SIGKILL'));
      return result;
    };
  },
});
const base = new MadeGuest(300).fill(0, 100, 'base');
const child = base.clone('changed').fill(20, 30, 'child');
await new SnapshotStore(storage).writer('child', { parent: 'base' }).writeGuest(child);
