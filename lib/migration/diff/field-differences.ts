import type { DeviceState, StateValue } from '../format/device-types.ts';

/** A field that differs between two states. */
export interface FieldDifference {
  /** Names with dots, `[N]` for an element of an array; empty for the whole state. */
  readonly path: string;
  /** The value in the first state; undefined if the field is not in it. */
  readonly a: StateValue | undefined;
  /** The value in the second state; undefined if the field is not in it. */
  readonly b: StateValue | undefined;
}

/** Receives the differences one by one. */
export type DifferenceSink = (difference: FieldDifference) => void;

/**
 * Compare two values of decoded states. A field, an element or a subsection that only one of them has is one
 * difference, whatever it contains.
 *
 * @param path - Path of the values.
 * @param sink - Receives the fields that differ, in the order of the first state.
 */
export function compareValues(
  a: StateValue | undefined,
  b: StateValue | undefined,
  path: string,
  sink: DifferenceSink,
): void {
  if (a === b) return;
  if (Array.isArray(a) && Array.isArray(b)) {
    const count = Math.max(a.length, b.length);
    for (let at = 0; at < count; at++) compareValues(a[at], b[at], `${path}[${at}]`, sink);
  } else if (a instanceof Uint8Array && b instanceof Uint8Array) {
    if (Buffer.compare(a, b) !== 0) sink({ path, a, b });
  } else if (isState(a) && isState(b)) {
    compareStates(a, b, path === '' ? '' : `${path}.`, sink);
  } else {
    sink({ path, a, b });
  }
}

function compareStates(a: DeviceState, b: DeviceState, prefix: string, sink: DifferenceSink): void {
  for (const name of Object.keys(a)) compareValues(a[name], b[name], prefix + name, sink);
  for (const name of Object.keys(b)) {
    if (!(name in a)) sink({ path: prefix + name, a: undefined, b: b[name] });
  }
}

function isState(value: StateValue | undefined): value is DeviceState {
  return (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    !(value instanceof Uint8Array)
  );
}
