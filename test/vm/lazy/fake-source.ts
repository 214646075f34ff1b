import { QemuFileError } from '../../../lib/contract/errors.ts';
import type { PageSource } from '../../../lib/migration/page-source/page-source.ts';
import type { PageSink } from '../../../lib/vm/lazy/page-server/page-server-types.ts';

export const PAGE = 4096;

/** A block of a fake guest: its name, its pages, and the ranges of pages with data as first page and end. */
export type FakeBlock = readonly [
  name: string,
  pages: number,
  data: readonly (readonly [number, number])[],
  hostPageSize?: number,
];

/** A source whose reads can be watched and made to fail. */
export interface FakeSource extends PageSource {
  /** The reads so far: block, first page, pages. */
  readonly reads: [number, number, number][];
  /** Called before each read is answered. */
  beforeRead: (block: number, page: number) => Promise<void> | void;
  /** The error of `checkUnchanged`. */
  change: Error | null;
}

/** Fill a page as the fake guest has it: each page has contents of its own. */
export function fillPage(target: Buffer, block: number, page: number): void {
  target.fill(0x40 + block);
  target.writeUInt32LE(page + 1, 8);
}

/** Return a guest in which pages with data have contents of their own, read asynchronously. */
export function fakeSource(list: readonly FakeBlock[]): FakeSource {
  const source: FakeSource = {
    pageSize: PAGE,
    blocks: list.map(([name, pages, , hostPageSize = null]) => {
      return { name, usedLength: pages * PAGE, hostPageSize, address: null };
    }),
    reads: [],
    beforeRead: () => {},
    change: null,
    *extents(block) {
      for (const [from, end] of list[block]?.[2] ?? []) {
        yield { at: from * PAGE, length: (end - from) * PAGE };
      }
    },
    async read(block, offset, target) {
      const first = offset / PAGE;
      const count = target.length / PAGE;
      source.reads.push([block, first, count]);
      await source.beforeRead(block, first);
      const bytes = Buffer.from(target.buffer, target.byteOffset, target.length);
      bytes.fill(0);
      for (let page = first; page < first + count; page++) {
        if (!list[block]?.[2].some(([from, end]) => page >= from && page < end)) continue;
        fillPage(bytes.subarray((page - first) * PAGE, (page - first + 1) * PAGE), block, page);
      }
    },
    checkUnchanged() {
      if (source.change !== null) throw source.change;
    },
  };
  return source;
}

/** A record that a sink received. */
export interface SentRecord {
  readonly block: string;
  readonly page: number;
  readonly isZero: boolean;
}

/** A sink that parses what it is given. */
export interface FakeSink extends PageSink {
  readonly records: SentRecord[];
  /** The records of each write. */
  readonly writes: SentRecord[][];
  /** Called with the records of a write, before it settles. */
  onWrite: (records: SentRecord[]) => Promise<void> | void;
}

/** Return a sink that checks the contents of each page it gets. */
export function fakeSink(names: readonly string[]): FakeSink {
  let last = '';
  const sink: FakeSink = {
    records: [],
    writes: [],
    onWrite: () => {},
    async write(given) {
      const bytes = Buffer.from(given);
      const records: SentRecord[] = [];
      for (let at = 0; at < bytes.length; ) {
        const word = Number(bytes.readBigUInt64BE(at));
        const flags = word % PAGE;
        at += 8;
        if ((flags & 0x20) === 0) {
          const length = bytes[at] as number;
          last = bytes.toString('utf8', at + 1, at + 1 + length);
          at += 1 + length;
        }
        const page = Math.floor(word / PAGE);
        const isZero = (flags & ~0x20) === 0x02;
        if (!isZero && (flags & ~0x20) !== 0x08) throw new Error(`flags ${flags}`);
        if (isZero && bytes[at] !== 0) throw new Error('a zero page is filled');
        if (!isZero) {
          const wanted = Buffer.alloc(PAGE);
          fillPage(wanted, names.indexOf(last), page);
          if (!wanted.equals(bytes.subarray(at, at + PAGE))) {
            throw new QemuFileError('EIO', `wrong contents of page ${page} of ${last}`);
          }
        }
        at += isZero ? 1 : PAGE;
        records.push({ block: last, page, isZero });
      }
      sink.writes.push(records);
      sink.records.push(...records);
      await sink.onWrite(records);
    },
  };
  return sink;
}
