import { createHash } from 'node:crypto';
import type { PageSource } from '../../../lib/migration/page-source/page-source.ts';
import type { SavedGuest } from '../../../lib/migration/saved-guest/saved-guest.ts';

export const PAGE = 4096;

/** A guest whose pages a test decides: one block `ram` of so many pages, and a small one. */
export class MadeGuest implements SavedGuest {
  readonly configuration: null = null;
  readonly configurationBytes: null = null;
  readonly hasFooters = true;
  readonly ram = { sectionId: 2, instanceId: 0, versionId: 4 };
  readonly sections: SavedGuest['sections'];
  readonly descriptionText: Uint8Array = Buffer.from('{"page_size":4096,"devices":[]}');
  readonly memory: Map<number, Buffer> = new Map();
  readonly pages: PageSource;

  constructor(count: number, device = 'state of the device') {
    this.sections = [
      {
        kind: 'full',
        sectionId: 3,
        name: 'timer',
        instanceId: 0,
        versionId: 2,
        body: Buffer.from(device),
      },
    ];
    const { memory } = this;
    this.pages = {
      pageSize: PAGE,
      blocks: [
        { name: 'ram', usedLength: count * PAGE, hostPageSize: null, address: null },
        { name: 'small', usedLength: 2 * PAGE, hostPageSize: null, address: null },
      ],
      *extents(block) {
        if (block !== 0) return;
        for (const page of [...memory.keys()].sort((a, b) => a - b)) {
          yield { at: page * PAGE, length: PAGE };
        }
      },
      read(block, offset, target) {
        for (let at = 0; at < target.length; at += PAGE) {
          const bytes = block === 0 ? memory.get((offset + at) / PAGE) : undefined;
          if (bytes === undefined) target.fill(0, at, at + PAGE);
          else target.set(bytes, at);
        }
      },
    };
  }

  /** Give pages contents of their own, which do not compress. */
  fill(first: number, count: number, seed: string): this {
    for (let page = first; page < first + count; page++) {
      this.memory.set(page, pageOf(`${seed} ${page}`));
    }
    return this;
  }

  /** Return a copy of the guest. */
  clone(device?: string): MadeGuest {
    const count = (this.pages.blocks[0]?.usedLength as number) / PAGE;
    const copy = new MadeGuest(count, device);
    for (const [page, bytes] of this.memory) copy.memory.set(page, bytes);
    return copy;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** Return a page that does not compress and follows from a text. */
export function pageOf(text: string): Buffer {
  return createHash('shake256', { outputLength: PAGE }).update(text).digest();
}

/** Return the SHA-256 of all memory of a guest, block by block. */
export async function memoryDigest({ pages }: SavedGuest, step: number = 1 << 20): Promise<string> {
  const digest = createHash('sha256');
  for (const [block, { name, usedLength }] of pages.blocks.entries()) {
    digest.update(`${name} ${usedLength} `);
    for (let at = 0; at < usedLength; at += step) {
      const buffer = Buffer.alloc(Math.min(step, usedLength - at), 0xaa);
      await pages.read(block, at, buffer);
      digest.update(buffer);
    }
  }
  return digest.digest('hex');
}
