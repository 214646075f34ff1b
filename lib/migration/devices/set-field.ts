import { Buffer } from 'node:buffer';
import { QemuFileError } from '../../contract/errors.ts';
import { quote } from '../../util/format.ts';
import type {
  DeviceDescription,
  DeviceState,
  FieldDescription,
  StateDescription,
  StateValue,
} from '../format/device-types.ts';
import { elementCount, isElement } from './body-size.ts';
import { isNullPointer, SCALARS } from './scalars.ts';

/**
 * Change one field of a decoded state, which `encodeState` can then encode.
 *
 * @param device - The description by which the state was decoded.
 * @param state - The state; it is changed in place, the bytes from which it was decoded are not.
 * @param path - Names joined by dots, with `[N]` for element N (from 0) of an array, as in
 *   `env.regs[4]`. Names may contain dots and brackets: the longest name that fits is taken.
 * @param text - The new value: an integer, decimal or hexadecimal with `0x`; `true` or `false`; bytes as two
 *   hexadecimal digits each, as many as the field has.
 * @throws {QemuFileError} `EINVAL` if there is no such field, if it is an array, a structure or a null
 *   pointer, or if the text does not stand for a value of its type; `ERANGE` if an integer does not fit.
 */
export function setField(
  device: DeviceDescription,
  state: DeviceState,
  path: string,
  text: string,
): void {
  let place: Place = { owner: { '': state }, key: '', field: null, structure: device };
  for (let at = 0; ; ) {
    const inner = place.owner[place.key] as StateValue;
    const before = at === 0 ? 'the device' : quote(path.slice(0, at - 1));
    if (place.structure === undefined || !isStructure(inner)) {
      fail(`there is no field ${quote(path)}: ${before} is ${kindOf(inner)}`);
    }
    const name = longestName(inner, path.slice(at));
    if (name === null) {
      const names = Object.keys(inner).map(quote).join(', ');
      fail(`there is no field ${quote(path)}: ${before} has ${names === '' ? 'no fields' : names}`);
    }
    at += name.length;
    place = member(inner, place.structure, name, quote(path.slice(0, at)));
    const index = /^\[(\d+)\]/.exec(path.slice(at));
    if (index !== null) {
      place = element(place, Number(index[1]), quote(path.slice(0, at)));
      at += index[0].length;
    }
    if (at === path.length) break;
    if (path[at] !== '.')
      fail(`there is no field ${quote(path)}: a dot is missing after ${at} characters`);
    at++;
  }
  place.owner[place.key] = parseValue(place, quote(path), text);
}

/** Where a value is, and how it is described. */
interface Place {
  readonly owner: Record<string | number, StateValue>;
  readonly key: string | number;
  /** The entries of an array; null for what is not an array. */
  readonly entries?: readonly FieldDescription[];
  /** The description of a single value; null for an array and for a subsection. */
  readonly field: FieldDescription | null;
  /** The description of a structure or subsection. */
  readonly structure: StateDescription | undefined;
}

/** Return the longest name of a state that a path begins with; null if there is none. */
function longestName(state: DeviceState, path: string): string | null {
  let longest: string | null = null;
  for (const name of Object.keys(state)) {
    const after = path[name.length];
    const isWhole = after === undefined || after === '.' || after === '[';
    if (isWhole && path.startsWith(name) && name.length > (longest?.length ?? -1)) longest = name;
  }
  return longest;
}

function member(
  owner: DeviceState,
  { fields = [], subsections = [] }: StateDescription,
  key: string,
  named: string,
): Place {
  const first = fields.findIndex(({ name }) => name === key);
  if (first < 0) {
    const structure = subsections.find(({ vmsd_name }) => vmsd_name === key);
    if (structure === undefined) fail(`${named} is not in the description`);
    return { owner, key, field: null, structure };
  }
  let after = first + 1;
  while (fields[after]?.name === key) after++;
  const field = fields[first] as FieldDescription;
  if (isElement(fields, first, after)) return { owner, key, field, structure: field.struct };
  return { owner, key, entries: fields.slice(first, after), field: null, structure: undefined };
}

function element({ owner, key, entries }: Place, index: number, named: string): Place {
  const array = owner[key];
  if (!Array.isArray(array) || entries === undefined) {
    fail(`${named} is ${kindOf(array)}, not an array`);
  }
  if (index >= array.length) {
    fail(`${named} has ${array.length} elements: [${index}] is beyond [${array.length - 1}]`);
  }
  let at = 0;
  let left = index;
  for (; at < entries.length - 1; at++) {
    const count = elementCount(entries, at);
    if (left < count) break;
    left -= count;
  }
  const field = entries[at] as FieldDescription;
  const elements = array as unknown as Record<number, StateValue>;
  return { owner: elements, key: index, field, structure: field.struct };
}

/** Return the value of a field that a text stands for. */
function parseValue({ owner, key, field }: Place, named: string, text: string): StateValue {
  const old = owner[key] as StateValue;
  if (Array.isArray(old)) fail(`${named} is an array of ${old.length}: select an element by [N]`);
  if (field === null || isStructure(old)) fail(`${named} is a structure: name a field of it`);
  if (isNullPointer(field)) fail(`${named} is a null pointer, which cannot be set`);
  const { type, size } = field;
  const scalar = SCALARS.get(type);
  if (scalar === undefined) return bytesOf(type, size, named, text);
  if (scalar.range === null) {
    if (text === 'true' || text === 'false') return text === 'true';
    fail(`${named} is a bool: ${quote(text)} is neither true nor false`);
  }
  const digits = /^(-?)(0x[0-9a-f]+|[0-9]+)$/i.exec(text);
  if (digits === null) {
    fail(`${named} is ${type}: ${quote(text)} is not an integer, decimal or with 0x`);
  }
  const magnitude = BigInt(digits[2] as string);
  const integer = digits[1] === '-' ? -magnitude : magnitude;
  const { min, max } = scalar.range;
  if (integer < min || integer > max) {
    fail(`${named} is ${type}, ${min} to ${max}: ${text} does not fit`, 'ERANGE');
  }
  return Number.isSafeInteger(Number(integer)) ? Number(integer) : integer;
}

function bytesOf(type: string, size: number, named: string, text: string): Uint8Array {
  if (!/^(?:[0-9a-f]{2})*$/i.test(text)) {
    fail(`${named} is bytes (${type}): ${quote(text)} is not pairs of hexadecimal digits`);
  }
  if (text.length !== 2 * size) {
    fail(`${named} has ${size} bytes, but the new value has ${text.length / 2}`);
  }
  return new Uint8Array(Buffer.from(text, 'hex'));
}

function isStructure(value: StateValue | undefined): value is DeviceState {
  const isObject = typeof value === 'object' && value !== null;
  return isObject && !Array.isArray(value) && !(value instanceof Uint8Array);
}

function kindOf(value: StateValue | undefined): string {
  if (value === null) return 'a null pointer';
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  return isStructure(value) ? 'a structure' : `a ${typeof value}`;
}

function fail(reason: string, code: 'EINVAL' | 'ERANGE' = 'EINVAL'): never {
  throw new QemuFileError(code, reason, { operation: 'setField' });
}
