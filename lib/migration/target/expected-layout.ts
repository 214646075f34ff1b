import { type FieldGroup, kindOf } from './field-groups.ts';
import type { TargetField, TargetState } from './vmstate-dump.ts';

/** Sizes that an integer has; any other one is that of a buffer, a structure or a private type. */
const INTEGER_SIZES: ReadonlySet<number> = new Set([1, 2, 4, 8]);
/** Up to this size a buffer's may be that of its unit: how many there are is in another field then. */
const MAX_UNIT = 8;

/** Arrays whose number of elements may be 0: a stream's description does not mention them then. */
const OFTEN_EMPTY: ReadonlySet<string> = new Set([
  'PCIE_AER_ERROR_LOG/log',
  'memory hotplug state/devs',
  'spapr_pci/msi_devs',
]);

/** Padding has this name wherever it is: it says nothing about which field it is. */
export const UNUSED = 'unused';

/** The fields that a target loads from one version of a state. */
export interface Layout {
  readonly fields: readonly TargetField[];
  /** Which of the state's fields of one name each is, as a stream's description numbers them. */
  readonly ordinals: readonly number[];
  /** Where in `fields` each name stands. */
  readonly places: ReadonlyMap<string, readonly number[]>;
}

/** A state is compared as often as the stream has elements of it. */
const LAYOUTS: WeakMap<TargetState, Map<number, Layout>> = new WeakMap();

/** Gives the fields that a target loads from a state of a version. */
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

/** True for a field that a stream may lack: what decides is not known here. */
export function mayBeAbsent(state: TargetState, field: TargetField): boolean {
  return field.optional || OFTEN_EMPTY.has(`${state.name}/${field.name}`);
}

/** Whether a target's field takes just the bytes of a stream's field; undefined if that cannot be told. */
export function fits(group: FieldGroup, field: TargetField): boolean | undefined {
  const element = group.elements[0];
  const kind = kindOf(element);
  const size = elementWidth(field);
  if (size === undefined) return undefined;
  if (group.bytes === size * (field.count ?? 1)) return true;
  // Before QEMU 9 no list says how long an array is.
  if (field.count === undefined && element.size === size) return true;
  if (kind === 'integer' || kind === 'structure') {
    return field.state !== undefined || INTEGER_SIZES.has(size) ? false : undefined;
  }
  if (kind !== 'buffer') return undefined;
  if (field.count !== undefined || field.state !== undefined || size > MAX_UNIT) return false;
  if (field.name === UNUSED) return false;
  return size > 0 && group.bytes % size === 0 ? true : undefined;
}

/** Whether fields of a target take together just the bytes of a stream's fields. */
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

/** Bytes of one element in a stream, as far as a list of C sizes tells. */
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
