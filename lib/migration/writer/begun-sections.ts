import type { SectionKind } from '../format/events.ts';

/** The header of a section. PART and END have only the id on the wire: the rest must be that of their START. */
export interface SectionHeader {
  readonly kind: SectionKind;
  readonly sectionId: number;
  readonly name: string;
  readonly instanceId: number;
  readonly versionId: number;
}

/** The sections that were begun: the ids that are taken, and those that a PART or END may have. */
export class BegunSections {
  /** START and FULL, by their ids. */
  readonly #started = new Map<number, SectionHeader>();
  readonly #ended = new Set<number>();

  /** @param started - Sections whose START an earlier connection carried. */
  constructor(started: readonly SectionHeader[]) {
    for (const section of started) this.#started.set(section.sectionId, section);
  }

  /** Begin a section, or a piece of one; return why it cannot begin, undefined if it has begun. */
  begin(section: SectionHeader): string | undefined {
    const refusal = headerMistake(section) ?? this.#orderMistake(section);
    if (refusal !== undefined) return refusal;
    const { kind, sectionId } = section;
    if (kind === 'start' || kind === 'full') this.#started.set(sectionId, section);
    if (kind === 'end') this.#ended.add(sectionId);
    return undefined;
  }

  #orderMistake({ kind, sectionId, name, instanceId }: SectionHeader): string | undefined {
    const started = this.#started.get(sectionId);
    if (kind === 'start' || kind === 'full') {
      return started && `id ${sectionId} belongs to section "${started.name}"`;
    }
    if (started === undefined || started.kind !== 'start') {
      return `${kind} of id ${sectionId}, which was not started`;
    }
    if (started.name !== name || started.instanceId !== instanceId) {
      return `id ${sectionId} was started by "${started.name}"`;
    }
    return this.#ended.has(sectionId) ? `${kind} of id ${sectionId}, which has ended` : undefined;
  }
}

function headerMistake({
  sectionId,
  name,
  instanceId,
  versionId,
}: SectionHeader): string | undefined {
  const fits = (value: number): boolean => value >>> 0 === value;
  if (!fits(sectionId) || !fits(instanceId) || !fits(versionId)) {
    return `id ${sectionId}, instance ${instanceId} or version ${versionId} is not a 32-bit integer`;
  }
  const bytes = Buffer.byteLength(name);
  return bytes === 0 || bytes > 255 ? `a section name of ${bytes} bytes, not 1 to 255` : undefined;
}
