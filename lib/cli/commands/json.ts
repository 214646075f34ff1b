import type { MigrationStreamError, SectionName } from '../../migration/format/stream-error.ts';
import type { SectionSummary } from '../../migration/verify/summary.ts';

/** Return a fault as it stands in JSON. */
export function faultToJson(error: MigrationStreamError): object {
  const { message, reason, fault, position, section } = error;
  return { message, reason, fault, offset: position ?? null, section: sectionToJson(section) };
}

/** Return what identifies a section; the error may hold the whole section. */
function sectionToJson(section: SectionName | undefined): SectionName | null {
  if (section === undefined) return null;
  const { sectionId, name, instanceId } = section;
  return { sectionId, name, instanceId };
}

/** The `PART`s of a section as one entry. */
export interface PartsSummary extends SectionSummary {
  /** Number of `PART`s; `offset` is that of the first, and `bytes` are those of all. */
  count: number;
}

/**
 * Return the sections with all `PART`s of a section as one entry, in the place of the first: a stream can have
 * tens of thousands of them. A section with one `PART` has an entry without `count`.
 */
export function summarizeParts(
  sections: readonly SectionSummary[],
): (SectionSummary | PartsSummary)[] {
  const summarized: (SectionSummary & { count?: number })[] = [];
  const partsById = new Map<number, SectionSummary & { count?: number }>();
  for (const section of sections) {
    const parts = section.kind === 'part' ? partsById.get(section.sectionId) : undefined;
    if (parts !== undefined) {
      parts.bytes += section.bytes;
      parts.count = (parts.count ?? 1) + 1;
      continue;
    }
    const entry = { ...section };
    summarized.push(entry);
    if (section.kind === 'part') partsById.set(section.sectionId, entry);
  }
  return summarized;
}
