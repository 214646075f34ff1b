import { type FieldGroup, kindOf } from './field-groups.ts';
import type { TargetField, TargetState } from './vmstate-dump.ts';

/** Sizes of integers in bytes; a field of another size is a buffer, a structure or of a private type. */
const INTEGER_SIZES: ReadonlySet<number> = new Set([1, 2, 4, 8]);
/** Largest size in bytes that may be a buffer's unit, whose number is in another field. */
const MAX_UNIT_BYTES = 8;

/**
 * Arrays of variable length that are often empty, as `state/field`: the description of a stream omits a field
 * without elements. From the sources of QEMU 7.2 to 10.0; no QEMU lists them.
 */
const OFTEN_EMPTY: ReadonlySet<string> = new Set([
  'PCIE_AER_ERROR_LOG/log',
  'memory hotplug state/devs',
  'spapr_pci/msi_devs',
]);

/** Name of all padding, which therefore does not identify a field. */
export const UNUSED = 'unused';

/** The fields that a target loads from one version of a state. */
export interface Layout {
  readonly fields: readonly TargetField[];
  /** For each field, its number among the fields of the same name, as a stream's description counts them. */
  readonly ordinals: readonly number[];
  /** Indexes in `fields` of each name. */
  readonly places: ReadonlyMap<string, readonly number[]>;
}

/** Kept because a state is compared once for each element in the stream. */
const LAYOUTS: WeakMap<TargetState, Map<number, Layout>> = new WeakMap();

/** Return the fields that a target loads from a state of this version. */
export function layoutOf(state: TargetState, version: number): Layout {
  const layouts = LAYOUTS.get(state) ?? new Map<number, Layout>();
  LAYOUTS.set(state, layouts);
  const layout = layouts.get(version) ?? makeLayout(state, version);
  layouts.set(version, layout);
  return layout;
}

function makeLayout(state: TargetState, version: number): Layout {
  const fields: TargetField[] = [];
  const ordinals: number[] = [];
  const places = new Map<string, number[]>();
  const namesakes = new Map<string, number>();
  for (const field of state.fields ?? []) {
    const { name } = field;
    const ordinal = namesakes.get(name) ?? 0;
    namesakes.set(name, ordinal + 1);
    if (!field.optional && field.versionId > version) continue;
    if (name !== UNUSED) placesOf(name, places).push(fields.length);
    fields.push(field);
    ordinals.push(ordinal);
  }
  return { fields, ordinals, places };
}

function placesOf(name: string, places: Map<string, number[]>): number[] {
  const known = places.get(name);
  if (known !== undefined) return known;
  const none: number[] = [];
  places.set(name, none);
  return none;
}

/** Return whether a stream may lack a field; whether it must have it is decided at run time. */
export function mayBeAbsent(state: TargetState, field: TargetField): boolean {
  return field.optional || OFTEN_EMPTY.has(`${state.name}/${field.name}`);
}

/** Return whether a target's field takes exactly the bytes of a stream's field; undefined if unknown. */
export function fits(group: FieldGroup, field: TargetField): boolean | undefined {
  const element = group.elements[0];
  const kind = kindOf(element);
  const size = elementWidth(field);
  if (size === undefined) return undefined;
  if (group.bytes === size * (field.count ?? 1)) return true;
  // Before QEMU 9.0 a dump has no array lengths.
  if (field.count === undefined && element.size === size) return true;
  if (kind === 'integer' || kind === 'structure') {
    return field.state !== undefined || INTEGER_SIZES.has(size) ? false : undefined;
  }
  if (kind !== 'buffer') return undefined;
  if (field.count !== undefined || field.state !== undefined || size > MAX_UNIT_BYTES) return false;
  if (field.name === UNUSED) return false;
  return size > 0 && group.bytes % size === 0 ? true : undefined;
}

/** Return whether fields of a target together take exactly the bytes of a stream's fields. */
export function fitTogether(
  groups: readonly FieldGroup[],
  fields: readonly TargetField[],
): boolean {
  let wanted = 0;
  for (const field of fields) {
    wanted += (elementWidth(field) ?? Number.NaN) * (field.count ?? 1);
  }
  return wanted === groups.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Return the bytes of one element in a stream; undefined if the C sizes in a dump do not determine them. */
function elementWidth({ size, state }: TargetField): number | undefined {
  return state === undefined ? size : stateWidth(state);
}

function stateWidth(state: TargetState): number | undefined {
  if (state.subsections.size > 0) return undefined;
  let width = 0;
  for (const field of layoutOf(state, state.versionId).fields) {
    const one = field.optional ? undefined : elementWidth(field);
    if (one === undefined) return undefined;
    width += one * (field.count ?? 1);
  }
  return width;
}
