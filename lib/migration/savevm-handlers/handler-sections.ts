import type { WarningSink } from '../format/diagnostics.ts';
import type { SectionKind } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import type { HandlerSummary } from './body.ts';
import { DirtyBitmapBodies } from './dirty-bitmap.ts';
import { skipBlock } from './disk-block.ts';
import { skipPbsState } from './pbs-state.ts';
import { skipClock, skipStorageAttributes, skipStorageKeys } from './s390.ts';
import { HashTableBodies } from './spapr-htab.ts';
import { skipVfio } from './vfio.ts';

export type { HandlerSummary } from './body.ts';

/** Layout of the bodies of one section name. */
interface Layout {
  readonly version: number;
  readonly kinds: readonly SectionKind[];
  skip(input: StreamInput, kind: SectionKind): Promise<HandlerSummary>;
}

const LIVE_KINDS: readonly SectionKind[] = ['start', 'part', 'end'];
const FULL_KIND: readonly SectionKind[] = ['full'];

/**
 * The sections of one stream, other than `ram`, that QEMU writes with handlers of their own and does not list
 * in the VM description. Their bodies are skipped in constant memory and checked on the way.
 *
 * @see QEMU `SaveVMHandlers`, `register_savevm_live` in migration/savevm.c
 */
export class HandlerSections {
  readonly #layouts: ReadonlyMap<string, Layout>;
  readonly #vfio: Layout;

  constructor(diagnostics: WarningSink) {
    const bitmaps = new DirtyBitmapBodies();
    const table = new HashTableBodies();
    this.#layouts = new Map<string, Layout>([
      ['block', { version: 1, kinds: LIVE_KINDS, skip: skipBlock }],
      ['dirty-bitmap', { version: 1, kinds: LIVE_KINDS, skip: (input) => bitmaps.skip(input) }],
      [
        'spapr/htab',
        { version: 1, kinds: LIVE_KINDS, skip: (input, kind) => table.skip(input, kind) },
      ],
      ['s390-storage_attributes', { version: 0, kinds: LIVE_KINDS, skip: skipStorageAttributes }],
      [
        'pbs-state',
        { version: 1, kinds: LIVE_KINDS, skip: (input) => skipPbsState(input, diagnostics) },
      ],
      ['s390-skeys', { version: 1, kinds: FULL_KIND, skip: skipStorageKeys }],
      [
        'todclock',
        { version: 1, kinds: FULL_KIND, skip: (input) => skipClock(input, diagnostics) },
      ],
    ]);
    this.#vfio = {
      version: 1,
      kinds: [...LIVE_KINDS, ...FULL_KIND],
      skip: (input) => skipVfio(input, diagnostics),
    };
  }

  /**
   * Skip the body of a section, after its header and up to its footer.
   *
   * @param versionId - Version of the section, from its START or FULL header.
   * @param input - The input. Set its `section`, so that the end of a VFIO device's state is found safely.
   * @returns Null at once, with nothing read, if the section's name is not one of these.
   * @throws {MigrationStreamError} (rejects) `corrupt`, `truncated`; `unsupported` for an unknown version.
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

  /** Return whether the source may leave out the SECTION_END of this section. */
  isEndOptional(name: string): boolean {
    return name === 'pbs-state';
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
    const reason = `the section has version ${versionId}, but only ${layout.version} is known`;
    // The version is the last field of a START or FULL header.
    const hasVersion = kind === 'start' || kind === 'full';
    throw input.error('unsupported', reason, input.position - (hasVersion ? 4 : 0));
  }
  return layout.skip(input, kind);
}
