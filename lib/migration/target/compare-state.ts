import { printable } from '../../util/format.ts';
import type { FieldDescription, StateDescription } from '../format/device-types.ts';
import {
  fits,
  fitTogether,
  type Layout,
  layoutOf,
  mayBeAbsent,
  UNUSED,
} from './expected-layout.ts';
import {
  contentsOf,
  type FieldGroup,
  groupFields,
  kindOf,
  quoteArray,
  quoteBytes,
  quoteSize,
} from './field-groups.ts';
import type { TargetField, TargetState } from './vmstate-dump.ts';

/** A difference in a section's state that the target fails on. */
export interface LayoutProblem {
  readonly kind: 'version' | 'missing' | 'unexpected' | 'size' | 'subsection' | 'unmigratable';
  /** Path of the field or subsection in the device; empty for the device itself. */
  readonly path: string;
  /** State that the target expects. */
  readonly expected: string;
  /** State in the stream. */
  readonly found: string;
}

/** Result of comparing a device's state. */
export interface LayoutReport {
  readonly problems: LayoutProblem[];
  /** Differences that do no harm. */
  readonly notes: string[];
}

/** Types whose contents QEMU loads with the version of the field, not of the contents. */
const BY_FIELD_VERSION: ReadonlySet<string> = new Set(['tmp', 'qtailq', 'qlist', 'gtree']);
/** Most fields of one name among which the stream's field is searched. */
const MAX_NAMESAKES = 8;
const NOTHING = 'no such field';

/**
 * Compare the state of a device or a subsection with the target's: first the version, then fields and
 * subsections.
 *
 * @param found - The state in the stream's description; undefined to compare only the version.
 * @param version - Version of the state in the stream.
 * @param path - Path of the state; empty for a device.
 * @param report - Receives the differences.
 */
export function compareState(
  found: StateDescription | undefined,
  version: number,
  target: TargetState,
  path: string,
  report: LayoutReport,
): void {
  const { versionId: last, minimumVersionId: first } = target;
  if (version > last || version < first) {
    const expected = first < last ? `version ${first} to ${last}` : `version ${last}`;
    report.problems.push({ kind: 'version', path, expected, found: `version ${version}` });
  } else if (target.fields === undefined) {
    const expected = 'nothing, because it cannot migrate this';
    report.problems.push({ kind: 'unmigratable', path, expected, found: `version ${version}` });
  } else if (found !== undefined) {
    compareContents(found, version, target, path, report);
  }
}

function compareContents(
  found: StateDescription,
  version: number,
  target: TargetState,
  path: string,
  report: LayoutReport,
): void {
  new Comparison(target, version, path, report).run(groupFields(found.fields ?? []));
  for (const subsection of found.subsections ?? []) {
    const name = subsection.vmsd_name ?? '';
    const inside = join(path, name);
    const known = target.subsections.get(name);
    if (known !== undefined) {
      compareState(subsection, subsection.version ?? 0, known, inside, report);
    } else {
      const found = `version ${subsection.version ?? 0}`;
      const expected = 'no such subsection';
      report.problems.push({ kind: 'subsection', path: inside, expected, found });
    }
  }
}

/**
 * Walks the fields of a state in a stream and in the target side by side. QEMU loads bytes, not names: where names
 * differ, sizes decide whether it still finds the next field.
 */
class Comparison {
  readonly #state: TargetState;
  readonly #layout: Layout;
  readonly #path: string;
  readonly #report: LayoutReport;

  constructor(state: TargetState, version: number, path: string, report: LayoutReport) {
    this.#state = state;
    this.#layout = layoutOf(state, version);
    this.#path = path;
    this.#report = report;
  }

  run(groups: readonly FieldGroup[]): void {
    const { fields } = this.#layout;
    let next = 0;
    let strangers: FieldGroup[] = [];
    for (const group of groups) {
      const place = this.#find(group, next);
      if (place === undefined) {
        strangers.push(group);
        continue;
      }
      this.#compareStrangers(strangers, fields.slice(next, place));
      compareField(group, fields[place] as TargetField, this.#path, this.#report);
      strangers = [];
      next = place + 1;
    }
    this.#compareStrangers(strangers, fields.slice(next));
  }

  /** Return the index, from `start` on, of the target's field of that name. */
  #find({ name, baseName, ordinal, elements }: FieldGroup, start: number): number | undefined {
    const { fields, ordinals } = this.#layout;
    const exact = this.#findName(name, start);
    const first = exact ?? this.#findName(baseName, start);
    if (first === undefined) return undefined;
    // The running machine chooses one of several fields of the name. The number in the name shows which one, or
    // the size, if the target has other fields than the source.
    const namesake = exact === undefined ? baseName : name;
    const choice = [first];
    for (let at = first; fields[at]?.optional === true && choice.length < MAX_NAMESAKES; ) {
      if (fields[++at]?.name !== namesake) break;
      choice.push(at);
    }
    const { size } = elements[0];
    return (
      choice.find((at) => exact === undefined && ordinals[at] === ordinal) ??
      choice.find((at) => fields[at]?.size === size) ??
      first
    );
  }

  #findName(name: string, start: number): number | undefined {
    return this.#layout.places.get(name)?.find((place) => place >= start);
  }

  /** Compare the fields between two common ones; no name occurs on both sides. */
  #compareStrangers(groups: readonly FieldGroup[], fields: readonly TargetField[]): void {
    const required = fields.filter((field) => !mayBeAbsent(this.#state, field));
    const group = groups[0];
    if (group === undefined) {
      const field = required[0];
      if (field !== undefined) this.#problem('missing', field.name, describeField(field), NOTHING);
      return;
    }
    const partners = this.#pair(groups, fields);
    if (partners !== undefined) {
      for (const [index, field] of partners.entries()) {
        this.#renamed(groups[index] as FieldGroup, [field]);
      }
    } else if (required.length > 0 && fitTogether(groups, required)) {
      this.#renamed(group, required);
    } else {
      const field = required[0] ?? fields[0];
      const expected =
        field === undefined ? NOTHING : `"${printable(field.name)}", ${describeField(field)}`;
      this.#problem('unexpected', group.name, expected, quoteSize(group));
    }
  }

  /** The field of the target that takes the bytes of each; undefined unless each has one. */
  #pair(
    groups: readonly FieldGroup[],
    fields: readonly TargetField[],
  ): readonly TargetField[] | undefined {
    const partners: TargetField[] = [];
    let waiting = 0;
    for (const field of fields) {
      const group = groups[waiting];
      if (group !== undefined && this.#takes(group, field)) {
        partners.push(field);
        waiting++;
      } else if (!mayBeAbsent(this.#state, field)) {
        return undefined;
      }
    }
    return waiting === groups.length ? partners : undefined;
  }

  #takes(group: FieldGroup, field: TargetField): boolean {
    if (field.state === undefined || !group.elements.some(contentsOf)) {
      return fits(group, field) === true;
    }
    const report: LayoutReport = { problems: [], notes: [] };
    compareField(group, field, this.#path, report);
    return report.problems.length === 0;
  }

  #renamed({ name, baseName }: FieldGroup, fields: readonly TargetField[]): void {
    const names = fields.map((field) => field.name);
    if (names.every((there) => there === UNUSED)) {
      if (baseName !== UNUSED) this.#note(name, 'the target skips its bytes');
    } else {
      this.#note(name, `the target takes its bytes for "${printable(names.join('", "'))}"`);
    }
  }

  #problem(kind: LayoutProblem['kind'], name: string, expected: string, found: string): void {
    this.#report.problems.push({ kind, path: join(this.#path, name), expected, found });
  }

  #note(name: string, text: string): void {
    this.#report.notes.push(`${join(this.#path, name)}: ${text}`);
  }
}

/** Compares a field with the one that takes its place. */
function compareField(
  group: FieldGroup,
  field: TargetField,
  path: string,
  report: LayoutReport,
): void {
  const { elements, name } = group;
  const inside = join(path, name);
  const kinds = new Set(elements.map(kindOf));
  // The description of an array with null pointers does not have the number of its elements.
  const isWhole = !kinds.has('null');
  if (field.state !== undefined && elements.some(contentsOf)) {
    compareElements(elements, field, field.state, inside, report);
    const { count = group.count } = field;
    if (!isWhole || kinds.has('list') || count === group.count) return;
    const [expected, found] = [`${count} elements`, `${group.count} elements`];
    report.problems.push({ kind: 'size', path: inside, expected, found });
  } else if (isWhole && fits(group, field) === false) {
    const expected = describeField(field);
    report.problems.push({ kind: 'size', path: inside, expected, found: quoteSize(group) });
  }
}

/** Compare elements, which are alike: a problem that several have is reported once. */
function compareElements(
  elements: readonly FieldDescription[],
  field: TargetField,
  state: TargetState,
  path: string,
  report: LayoutReport,
): void {
  const { problems } = report;
  const before = problems.length;
  for (const [index, element] of elements.entries()) {
    const contents = contentsOf(element);
    if (contents === undefined) continue;
    const version = BY_FIELD_VERSION.has(element.type) ? field.versionId : state.versionId;
    const inside = elements.length > 1 ? `${path}[${index}]` : path;
    const notes = index === 0 ? report.notes : [];
    compareContents(contents, version, state, inside, { problems, notes });
    if (problems.length > before) return;
  }
}

function join(path: string, name: string): string {
  return path === '' ? printable(name) : `${path}.${printable(name)}`;
}

function describeField({ size, count, state }: TargetField): string {
  if (state !== undefined) return count === undefined ? 'a structure' : `${count} structures`;
  return count === undefined ? quoteBytes(size) : quoteArray(count, size);
}
