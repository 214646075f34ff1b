/** Removed items that stay in the array before the rest is moved to its front. */
const MAX_SLACK = 1024;

/** A queue. Unlike with `Array.shift`, the cost of removing the first item does not depend on the length. */
export class Fifo<T> {
  #items: (T | undefined)[] = [];
  #head = 0;

  get length(): number {
    return this.#items.length - this.#head;
  }

  /** The first item, undefined if there is none. It can be replaced. */
  get first(): T | undefined {
    return this.#items[this.#head];
  }

  set first(item: T) {
    this.#items[this.#head] = item;
  }

  push(item: T): void {
    this.#items.push(item);
  }

  shift(): T | undefined {
    if (this.#head === this.#items.length) return undefined;
    const item = this.#items[this.#head];
    this.#items[this.#head] = undefined;
    this.#head += 1;
    if (this.#head === this.#items.length) {
      this.clear();
    } else if (this.#head >= MAX_SLACK && this.#head * 2 >= this.#items.length) {
      this.#items.splice(0, this.#head);
      this.#head = 0;
    }
    return item;
  }

  /** Put items before all others. */
  unshift(items: readonly T[]): void {
    if (this.#head < items.length) {
      this.#items = [...items, ...this.#items.slice(this.#head)];
      this.#head = 0;
      return;
    }
    this.#head -= items.length;
    for (const [at, item] of items.entries()) this.#items[this.#head + at] = item;
  }

  /** Remove an item, wherever it is; return whether it was there. */
  remove(item: T): boolean {
    const at = this.#items.indexOf(item, this.#head);
    if (at >= 0) this.#items.splice(at, 1);
    return at >= 0;
  }

  /** Remove and return all items. */
  takeAll(): T[] {
    const items = this.#items.slice(this.#head) as T[];
    this.clear();
    return items;
  }

  clear(): void {
    this.#items = [];
    this.#head = 0;
  }
}
