/*
 * A program that writes a snapshot and kills itself at its N-th object. Arguments: URL of the store, name, name of
 * the parent or "-", number of the object (from 0), and when: "before", "during" or "after" it is put.
 */
import { openStorage } from '../../../adapters/index.ts';
import { SnapshotStore } from '../../../lib/snapshot/index.ts';
import { MadeGuest } from '../guests/made-guest.ts';

const KILL_DELAY_MS = 3;

/** Return the guest that the program writes. */
export function guestToWrite(): MadeGuest {
  return new MadeGuest(6000).fill(0, 5000, 'golden').fill(5500, 100, 'more');
}

if (import.meta.url === `file://${process.argv[1]}`) {
  const [url, name, parent, number, when] = process.argv.slice(2) as [
    ...[string, string, string, string, string],
  ];
  const storage = await openStorage(url);
  let puts = 0;
  const put = storage.put.bind(storage);
  storage.put = async (...args) => {
    const isLast = puts === Number(number);
    puts += 1;
    if (isLast && when === 'before') process.kill(process.pid, 'SIGKILL');
    if (isLast && when === 'during') {
      setTimeout(() => process.kill(process.pid, 'SIGKILL'), KILL_DELAY_MS);
    }
    await put(...args);
    if (isLast) process.kill(process.pid, 'SIGKILL');
  };
  const store = new SnapshotStore(storage);
  const options = parent === '-' ? {} : { parent };
  await store.writer(name, options).writeGuest(guestToWrite());
  await store.close();
}
