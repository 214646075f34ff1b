import { noop } from '../../util/noop.ts';
import type { PageVisitor, RamBlock } from '../format/events.ts';

/** Combine page visitors into one that passes each call to all of them, in order. */
export function combineVisitors(visitors: readonly PageVisitor[]): PageVisitor {
  // A lone visitor keeps its missing methods: the reader makes no page views for them.
  if (visitors.length < 2) return visitors[0] ?? {};
  // Without `placed`, the reader does not look up where pages are; without `page`, it can skip their bytes.
  const placed = combined(visitors.map((visitor) => visitor.placed?.bind(visitor)));
  const page = combined(visitors.map((visitor) => visitor.page?.bind(visitor)));
  return {
    async blocks(blocks: readonly RamBlock[], pageSize: number): Promise<void> {
      for (const visitor of visitors) await visitor.blocks?.(blocks, pageSize);
    },
    zero: combined(visitors.map((visitor) => visitor.zero?.bind(visitor))) ?? noop,
    xbzrle: combined(visitors.map((visitor) => visitor.xbzrle?.bind(visitor))) ?? noop,
    ...(page && { page }),
    ...(placed && { placed }),
  };
}

/** Return a function that calls all functions of a list; undefined if there are none. It is called for each page. */
function combined<T extends readonly unknown[]>(
  list: readonly (((...args: T) => void) | undefined)[],
): ((...args: T) => void) | undefined {
  const functions = list.filter((one) => one !== undefined);
  const [first, second] = functions;
  if (first === undefined || second === undefined) return first;
  if (functions.length > 2) {
    return (...args) => {
      for (const one of functions) one(...args);
    };
  }
  return (...args) => {
    first(...args);
    second(...args);
  };
}
