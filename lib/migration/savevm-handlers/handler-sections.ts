import type { WarningSink } from '../format/diagnostics.ts';
import type { SectionKind } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import type { HandlerSummary } from './body.ts';
import { DirtyBitmapBodies } from './dirty-bitmap.ts';
import { skipBlock } from './disk-block.ts';
import { skipClock, skipStorageAttributes, skipStorageKeys } from './s390.ts';
import { HashTableBodies } from './spapr-htab.ts';
import { skipVfio } from './vfio.ts';

export type { HandlerSummary } from './body.ts';

/** A section with a layout of its own. */
interface Layout {
  readonly version: number;
  readonly kinds: readonly SectionKind[];
  skip(input: StreamInput, kind: SectionKind): Promise<HandlerSummary>;
}

const IN_PIECES: readonly SectionKind[] = ['start', 'part', 'end'];
const AT_ONCE: readonly SectionKind[] = ['full'];

/**
 * The sections of one stream, besides `ram`, that have a layout of their own and are not found in the
 * VM description: their bodies can be dropped in constant memory, and are checked on the way.
 */
export class HandlerSections {
  readonly #layouts: ReadonlyMap<string, Layout>;
  readonly #vfio: Layout;

  constructor(diagnostics: WarningSink) {
    const bitmaps = new DirtyBitmapBodies();
    const table = new HashTableBodies();
    this.#layouts = new Map<string, Layout>([
      ['block', { version: 1, kinds: IN_PIECES, skip: skipBlock }],
      ['dirty-bitmap', { version: 1, kinds: IN_PIECES, skip: (input) => bitmaps.skip(input) }],
      [
        'spapr/htab',
        { version: 1, kinds: IN_PIECES, skip: (input, kind) => table.skip(input, kind) },
      ],
      ['s390-storage_attributes', { version: 0, kinds: IN_PIECES, skip: skipStorageAttributes }],
      ['s390-skeys', { version: 1, kinds: AT_ONCE, skip: skipStorageKeys }],
      ['todclock', { version: 1, kinds: AT_ONCE, skip: (input) => skipClock(input, diagnostics) }],
    ]);
    this.#vfio = {
      version: 1,
      kinds: [...IN_PIECES, ...AT_ONCE],
      skip: (input) => skipVfio(input, diagnostics),
    };
  }

  /**
   * Drops the body of a section, whose header has been read, up to its footer.
   *
   * @param versionId - Of the section, as its START or FULL header says.
   * @param input - Its `section` being the section, the end of a VFIO device's state is found more safely.
   * @returns Null at once, with nothing read, if the section is none of these.
   * @throws {MigrationStreamError} (rejects) for a body that cannot be read.
   */
  skip(
    name: string,
    kind: SectionKind,
    versionId: number,
    input: StreamInput,
  ): Promise<HandlerSummary> | null {
    const layout = this.#layoutOf(name);
    if (layout === undefined || !layout.kinds.includes(kind)) return null;
    return skipChecked(layout, kind, versionId, input);
  }

  #layoutOf(name: string): Layout | undefined {
    if (name === 'vfio' || name.endsWith('/vfio')) return this.#vfio;
    return this.#layouts.get(name);
  }
}

async function skipChecked(
  layout: Layout,
  kind: SectionKind,
  versionId: number,
  input: StreamInput,
): Promise<HandlerSummary> {
  if (versionId !== layout.version) {
    const reason = `version ${versionId} of this section is not known, only ${layout.version} is`;
    // The version is the last field of a header that has one.
    const hasVersion = kind === 'start' || kind === 'full';
    throw input.error('unsupported', reason, input.position - (hasVersion ? 4 : 0));
  }
  return layout.skip(input, kind);
}
