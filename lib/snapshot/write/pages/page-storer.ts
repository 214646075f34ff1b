import { QemuFileError } from '../../../contract/errors.ts';
import { applyXbzrle } from '../../../migration/ram/xbzrle.ts';
import { noop } from '../../../util/noop.ts';
import { FINGERPRINT_BYTES } from '../../format/limits.ts';
import type { PageRuns } from '../../format/page-runs.ts';
import type { FrameCache } from '../../read/frame-cache.ts';
import { frameThreads } from '../../threads/frame-threads.ts';
import { ContentIndex } from './content-index.ts';
import type { OwnPacks } from './own-packs.ts';
import type { PageIntake } from './page-intake.ts';
import type { PageBatch, PageChange } from './page-queue.ts';
import type { ParentPages } from './parent-pages.ts';

/** Batches whose fingerprints are found at the same time. */
const MAX_BATCHES_IN_FLIGHT = 4;

/** A batch whose fingerprints are on their way. */
interface TakenBatch {
  readonly batch: PageBatch;
  readonly fingerprinted: Promise<null>;
}

/** Stores the pages that wait in the queue of an intake: each is compared first. */
export class PageStorer {
  readonly #intake: PageIntake;
  readonly #parent: ParentPages | null;
  readonly #makePacks: (pageSize: number) => OwnPacks;
  readonly #pagesOfSet: () => PageRuns | null;
  readonly #cache: FrameCache;
  /** The packs of the pages that the parent lacks; null before the first page. */
  packs: OwnPacks | null = null;
  /** The pages of the working set; null without one. */
  #set: PageRuns | null = null;
  #contents: ContentIndex | null = null;
  /** For each block of the intake, the page of the parent minus the page of the guest, and the end of its pages. */
  #shifts: { end: number; shift: number; parentEnd: number }[] = [];
  readonly #inFlight: TakenBatch[] = [];

  /**
   * @param parent - Its pages come first in the numbers of stored pages; those of the packs follow.
   * @param makePacks - Makes the writer of packs, when the size of a page is known.
   * @param pagesOfSet - Returns the pages of the working set, when the blocks are known.
   */
  constructor(
    intake: PageIntake,
    parent: ParentPages | null,
    makePacks: (pageSize: number) => OwnPacks,
    pagesOfSet: () => PageRuns | null,
    cache: FrameCache,
  ) {
    this.#intake = intake;
    this.#parent = parent;
    this.#makePacks = makePacks;
    this.#pagesOfSet = pagesOfSet;
    this.#cache = cache;
    intake.contentsOf = (ticket) => this.#contentsOf(ticket);
  }

  /** Store batches until the queue ends. */
  async run(): Promise<void> {
    const { queue } = this.#intake;
    for (;;) {
      const batch = await queue.take();
      if (batch !== null) await this.#fingerprint(batch);
      const most = batch === null ? 0 : MAX_BATCHES_IN_FLIGHT - 1;
      while (this.#inFlight.length > most) await this.#storeFirst();
      if (batch === null) return;
    }
  }

  /** Start to find the fingerprints of a batch. */
  async #fingerprint(batch: PageBatch): Promise<void> {
    const { pageSize } = this.#intake;
    if (this.packs === null) {
      this.packs = this.#makePacks(pageSize);
      this.#set = this.#pagesOfSet();
    }
    this.#matchBlocks();
    if (batch.changes.size > 0) await this.#applyChanges(batch, this.packs);
    const { bytes: pages, count, fingerprints } = batch;
    const fingerprinted = frameThreads.run({
      kind: 'fingerprint',
      pages,
      count,
      pageSize,
      fingerprints,
    });
    fingerprinted.catch(noop);
    this.#inFlight.push({ batch, fingerprinted });
  }

  async #storeFirst(): Promise<void> {
    const { batch, fingerprinted } = this.#inFlight[0] as TakenBatch;
    const packs = this.packs as OwnPacks;
    await this.#loadFingerprints(batch);
    await fingerprinted;
    this.#store(batch, packs);
    this.#inFlight.shift();
    this.#intake.queue.recycle();
    await packs.ready();
  }

  #store(batch: PageBatch, packs: OwnPacks): void {
    const { pageSize } = this.#intake;
    this.#contents ??= new ContentIndex(this.#pages());
    const contents = this.#contents;
    const set = this.#set;
    for (let place = 0; place < batch.count; place++) {
      const page = batch.pages[place] as number;
      if (!this.#intake.isLatest(page, batch.tickets[place] as number)) continue;
      const at = place * FINGERPRINT_BYTES;
      const parentStored = this.#parentStored(page);
      if (parentStored >= 0 && this.#parent?.isEqual(parentStored, batch.fingerprints, at)) {
        this.#intake.table.set(page, parentStored + 1);
        continue;
      }
      let stored = contents.find(batch.fingerprints, at);
      if (stored < 0) {
        if (packs.isFull) {
          throw new QemuFileError('ENOTSUP', 'the guest has more pages than a snapshot can hold');
        }
        const isInSet = set !== null && set.storedAt(page) >= 0;
        stored = packs.append(batch.bytes, place * pageSize, batch.fingerprints, at, isInSet);
        contents.add(batch.fingerprints, at, stored);
      }
      this.#intake.table.set(page, stored + 1);
    }
  }

  async #applyChanges(batch: PageBatch, packs: OwnPacks): Promise<void> {
    const { pageSize } = this.#intake;
    for (const [place, change] of batch.changes) {
      const page = batch.bytes.subarray(place * pageSize, (place + 1) * pageSize);
      if (change.base === 0) page.fill(0);
      else if (typeof change.base === 'number') page.set(await this.#read(change.base - 1, packs));
      else page.set(change.base.result as Uint8Array);
      applyXbzrle(page, change.encoded);
      change.result = Uint8Array.from(page);
    }
  }

  /** Read a stored page, of the parent or an own one. */
  async #read(stored: number, packs: OwnPacks): Promise<Uint8Array> {
    const base = this.#parent?.storedPages ?? 0;
    if (stored >= base) return packs.read(stored, this.#cache);
    return (this.#parent as ParentPages).read(stored);
  }

  /** Return the contents of an arrival in a batch that was taken. */
  #contentsOf(ticket: number): PageChange | null {
    const { pageSize, queue } = this.#intake;
    for (const batch of queue.taken) {
      const place = batch.tickets.subarray(0, batch.count).indexOf(ticket);
      if (place < 0) continue;
      const change = batch.changes.get(place);
      if (change !== undefined) return change;
      const page = batch.bytes.subarray(place * pageSize, (place + 1) * pageSize);
      return { base: 0, encoded: new Uint8Array(0), result: Uint8Array.from(page) };
    }
    return null;
  }

  async #loadFingerprints(batch: PageBatch): Promise<void> {
    const parent = this.#parent;
    if (parent === null) return;
    for (let place = 0; place < batch.count; place++) {
      const stored = this.#parentStored(batch.pages[place] as number);
      if (stored >= 0 && !parent.hasFingerprint(stored)) await parent.loadFingerprint(stored);
    }
  }

  /** Return the number of the stored page that the parent has at the place of a page; -1 if it has none. */
  #parentStored(page: number): number {
    const parent = this.#parent;
    if (parent === null) return -1;
    const shifts = this.#shifts;
    let index = 0;
    while (page >= (shifts[index] as { end: number }).end) index += 1;
    const { shift, parentEnd } = shifts[index] as { shift: number; parentEnd: number };
    return page + shift < parentEnd ? parent.storedAt(page + shift) : -1;
  }

  #matchBlocks(): void {
    const { blockList, pageSize } = this.#intake;
    if (this.#parent === null || this.#shifts.length === blockList.length) return;
    const parent = this.#parent;
    this.#shifts = blockList.map(({ name, first, usedLength }) => {
      const own = parent.pageSize === pageSize ? parent.block(name) : null;
      const end = first + usedLength / pageSize;
      return own === null
        ? { end, shift: 0, parentEnd: 0 }
        : { end, shift: own.first - first, parentEnd: own.first + own.pages };
    });
  }

  #pages(): number {
    const { blockList, pageSize } = this.#intake;
    return blockList.reduce((sum, { usedLength }) => sum + usedLength / pageSize, 0);
  }
}
