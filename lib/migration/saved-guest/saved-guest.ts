import type { Configuration, SectionKind } from '../format/events.ts';
import type { PageSource } from '../page-source/page-source.ts';

/** A section of a saved guest other than `ram`, or one piece of it, with the body as it was sent. */
export interface SavedSection {
  readonly kind: SectionKind;
  readonly sectionId: number;
  readonly name: string;
  readonly instanceId: number;
  readonly versionId: number;
  /** The bytes between the section's header and its footer. */
  readonly body: Uint8Array;
}

/**
 * A guest as a stream describes it, with random access to its memory. A file, a snapshot of a store and a
 * stream that was spilled to a scratch file all have this form.
 */
export interface SavedGuest {
  /** The configuration section; null for machine types without one. */
  readonly configuration: Configuration | null;
  /** The configuration section as it was sent, from its type byte; null if there is none. */
  readonly configurationBytes: Uint8Array | null;
  /** Whether sections end with footers. */
  readonly hasFooters: boolean;
  /** Id, instance and version of the `ram` section. */
  readonly ram: {
    readonly sectionId: number;
    readonly instanceId: number;
    readonly versionId: number;
  };
  /** All sections except `ram`, in the order of the stream. */
  readonly sections: readonly SavedSection[];
  /** Number of these sections that came before the START of `ram`. Default 0. */
  readonly sectionsBeforeRam?: number | undefined;
  /** The text (JSON) of the VM description as it was sent; null if there is none. */
  readonly descriptionText: Uint8Array | null;
  /** The guest's memory. */
  readonly pages: PageSource;
  /** Close the pages and the files below them. */
  close(): Promise<void>;
}
