import { MemoryPageStore } from '../../../lib/migration/memory/page-store.ts';

/** A store in memory that records its operations. */
export class TrackedStore extends MemoryPageStore {
  isClosed = false;
  /** Ranges that were zeroed, as position and length. */
  readonly zeroed: [number, number][] = [];

  override zero(at: number, length: number): void {
    this.zeroed.push([at, length]);
    super.zero(at, length);
  }

  override close(): void {
    this.isClosed = true;
    super.close();
  }
}
