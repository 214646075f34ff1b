import type { PageServerOptions, PageServerStats } from './page-server-types.ts';

/** Sends the pages with data in the order of addresses, and those that are asked for before them. */
export class SimplePageServer {
  readonly finished: Promise<void>;
  readonly #options: PageServerOptions;
  readonly #sent: Set<number>[];
  readonly #queue: { block: number; offset: number }[] = [];
  #start: () => void = () => {};
  #error: Error | null = null;
  #requests = 0;
  #sentBytes = 0;
  constructor(options: PageServerOptions) {
    this.#options = options;
    const { source, received } = options;
    this.#sent = source.blocks.map((_, block) => {
      const set = new Set<number>();
      const bits = received?.[block];
      for (let i = 0; bits && i < bits.length * 8; i++) {
        if (((bits[i >> 3] as number) >> (i & 7)) & 1) set.add(i * source.pageSize);
      }
      return set;
    });
    this.finished = new Promise<void>((resolve) => {
      this.#start = resolve;
    }).then(() => this.#run());
  }
  get stats(): PageServerStats {
    return {
      requests: this.#requests,
      faults: this.#requests,
      faultMs: { p50: 0, p99: 0, max: 0 },
      pages: { requested: 0, around: 0, prefetched: 0, background: 0, zero: 0 },
      dataBytes: this.#options.source.blocks.reduce((n, b) => n + b.usedLength, 0),
      sentBytes: this.#sentBytes,
    };
  }
  start(): void {
    this.#start();
  }
  stop(error: Error): void {
    this.#error = error;
  }
  request(block: number, offset: number): void {
    this.#requests += 1;
    this.#queue.push({ block, offset });
  }
  async #run(): Promise<void> {
    const { source, hostPageSizes = [] } = this.#options;
    for (const [block] of source.blocks.entries()) {
      const host = hostPageSizes[block] ?? source.pageSize;
      for (const { at, length } of source.extents(block)) {
        for (let offset = at - (at % host); offset < at + length; offset += host) {
          await this.#serve();
          await this.#send(block, offset);
        }
      }
    }
    await this.#serve();
  }
  async #serve(): Promise<void> {
    for (let next = this.#queue.shift(); next; next = this.#queue.shift()) {
      await this.#send(next.block, next.offset);
    }
  }
  async #send(block: number, at: number): Promise<void> {
    if (this.#error) throw this.#error;

    const { source, hostPageSizes = [], sink } = this.#options;
    const host = hostPageSizes[block] ?? source.pageSize;
    const offset = at - (at % host);
    if (this.#sent[block]?.has(offset)) return;
    const bytes = Buffer.alloc(host);
    await source.read(block, offset, bytes);
    const name = Buffer.from(source.blocks[block]?.name ?? '');
    const parts: Buffer[] = [];
    for (let step = 0; step < host; step += source.pageSize) {
      this.#sent[block]?.add(offset + step);
      const word = Buffer.alloc(8);
      word.writeBigUInt64BE(BigInt(offset + step) | 8n);
      parts.push(
        word,
        Buffer.from([name.length]),
        name,
        bytes.subarray(step, step + source.pageSize),
      );
    }
    this.#sentBytes += host;
    await sink.write(Buffer.concat(parts));
  }
}
