import { PageSet } from '../memory/page-set.ts';

/**
 * How a page differs: each page has one kind, or is the same in both guests. `changed`: other contents.
 * `becameZero`: zeros in the second guest only. `wasZero`: zeros in the first guest only. `moved`: not zeros, and in
 * the first guest the same contents stand at another address.
 */
export type PageKind = 'changed' | 'becameZero' | 'wasZero' | 'moved';

export const PAGE_KINDS: readonly PageKind[] = ['changed', 'becameZero', 'wasZero', 'moved'];

/** Number of pages of each kind. */
export type PageKindCounts = Record<PageKind, number>;

/** Adjacent pages of one kind. */
export interface PageRange {
  /** Offset of the first byte in the block. */
  readonly offset: number;
  /** In bytes. */
  readonly length: number;
  readonly kind: PageKind;
}

/** The kinds of the differing pages of all blocks, by numbers that count the pages of all blocks. */
export class PageKinds {
  readonly #sets: Record<PageKind, PageSet> = {
    changed: new PageSet(),
    becameZero: new PageSet(),
    wasZero: new PageSet(),
    moved: new PageSet(),
  };

  /** Set the kind of a page that had none. */
  add(page: number, kind: PageKind): void {
    this.#sets[kind].add(page, page + 1);
  }

  /** Change the kind of a page to `moved`. */
  move(page: number): void {
    this.#sets.changed.remove(page, page + 1);
    this.#sets.wasZero.remove(page, page + 1);
    this.#sets.moved.add(page, page + 1);
  }

  /** Yield the runs of pages of one kind within a range, in ascending order. */
  runs(
    kind: PageKind,
    first: number,
    end: number,
  ): Generator<readonly [first: number, end: number]> {
    return this.#sets[kind].runs(first, end);
  }

  /** Return the number of pages of each kind within a range. */
  count(first: number, end: number): PageKindCounts {
    const counts: PageKindCounts = { changed: 0, becameZero: 0, wasZero: 0, moved: 0 };
    for (const kind of PAGE_KINDS) counts[kind] = this.#sets[kind].count(first, end);
    return counts;
  }

  /** Yield the runs of all kinds within a range, in ascending order. */
  *allRuns(
    first: number,
    end: number,
  ): Generator<{ readonly kind: PageKind; readonly first: number; readonly end: number }> {
    const heads = PAGE_KINDS.map((kind) => new RunHead(kind, this.runs(kind, first, end)));
    for (;;) {
      let lowest = heads[0] as RunHead;
      for (const head of heads) if (head.first < lowest.first) lowest = head;
      if (lowest.first === Infinity) return;
      yield { kind: lowest.kind, first: lowest.first, end: lowest.end };
      lowest.advance();
    }
  }
}

/** The next run of a kind; it begins at infinity after the last one. */
class RunHead {
  readonly kind: PageKind;
  first = 0;
  end = 0;
  readonly #runs: Iterator<readonly [first: number, end: number]>;

  constructor(kind: PageKind, runs: Iterator<readonly [first: number, end: number]>) {
    this.kind = kind;
    this.#runs = runs;
    this.advance();
  }

  advance(): void {
    const next = this.#runs.next();
    [this.first, this.end] = next.done === true ? [Infinity, Infinity] : next.value;
  }
}
