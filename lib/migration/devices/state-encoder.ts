import { Buffer } from 'node:buffer';
import { QemuFileError } from '../../contract/errors.ts';
import { printable } from '../../util/format.ts';
import type {
  DeviceDescription,
  DeviceState,
  FieldDescription,
  StateDescription,
  StateValue,
} from '../format/device-types.ts';
import { ITEM } from '../format/wire.ts';
import { elementCount, isElement } from './body-size.ts';
import { GrowingBytes } from './growing-bytes.ts';
import { isNullPointer, NULL_MARK, SCALARS, type Scalar } from './scalars.ts';

/**
 * Encode the state of a device as the body of its section: the inverse of `decodeState`.
 *
 * The state must have every field of the description, and no other; its arrays and bytes must have the
 * lengths that the description has. Integers may be numbers or bigints.
 *
 * @param device - The description, as `parseVmDescription` returned it.
 * @param state - The state, as `decodeState` returned it; the caller may have changed values in it.
 * @returns The body, without header and footer, in memory of its own. A boolean that was sent as neither 0
 *   nor 1 is encoded as 1; everything else that `decodeState` accepts is encoded as it was sent.
 * @throws {QemuFileError} `EINVAL` if a field is missing, unknown, or of another type or length than
 *   described; `ERANGE` if an integer does not fit its type. The message has the path of the field.
 * @see QEMU `vmstate_save_state`
 */
export function encodeState(device: DeviceDescription, state: DeviceState): Buffer {
  return new StateEncoder().encode(device, state);
}

class StateEncoder {
  readonly #body = new GrowingBytes();
  /** Names and indices that lead to the current field. */
  readonly #path: (string | number)[] = [];

  encode(device: DeviceDescription, state: DeviceState): Buffer {
    if (device.unusable !== undefined) this.#fail(`cannot be encoded: ${device.unusable}`);
    this.#state(device, state);
    return this.#body.take();
  }

  #state({ fields = [], subsections = [] }: StateDescription, value: StateValue): void {
    const state = this.#object(value);
    const names = new Set<string>();
    for (let first = 0; first < fields.length; ) {
      const { name } = fields[first] as FieldDescription;
      let after = first + 1;
      while (fields[after]?.name === name) after++;
      this.#enter(names, name);
      this.#value(fields, first, after, this.#member(state, name));
      this.#path.pop();
      first = after;
    }
    for (const subsection of subsections) {
      const name = subsection.vmsd_name ?? '';
      this.#enter(names, name);
      const inner = this.#member(state, name);
      this.#subsectionHeader(name, subsection.version ?? 0);
      this.#state(subsection, inner);
      this.#path.pop();
    }
    for (const name of Object.keys(state)) {
      if (names.has(name)) continue;
      this.#path.push(name);
      this.#fail('is not in the description');
    }
  }

  #enter(names: Set<string>, name: string): void {
    this.#path.push(name);
    if (names.has(name)) this.#fail('is described twice');
    names.add(name);
  }

  #member(state: DeviceState, name: string): StateValue {
    if (!Object.hasOwn(state, name)) this.#fail('is missing');
    return state[name] as StateValue;
  }

  /** Encode the value of one name. It may have several entries: elements of an array, or runs of them. */
  #value(
    fields: readonly FieldDescription[],
    first: number,
    after: number,
    value: StateValue,
  ): void {
    if (isElement(fields, first, after)) {
      this.#element(fields[first] as FieldDescription, value);
      return;
    }
    if (!Array.isArray(value)) this.#fail(`is ${kindOf(value)}, not an array`);
    const depth = this.#path.push(0) - 1;
    let index = 0;
    for (let at = first; at < after; at++) {
      const field = fields[at] as FieldDescription;
      this.#path[depth] = index;
      if (field.index !== undefined && field.index !== index) {
        this.#fail(`is described as element ${field.index}`);
      }
      for (let left = elementCount(fields, at); left > 0; left--) {
        this.#path[depth] = index;
        if (index >= value.length) this.#fail(`is missing: the array has ${value.length} elements`);
        this.#element(field, value[index] as StateValue);
        index++;
      }
    }
    if (value.length > index) {
      this.#path[depth] = index;
      this.#fail(`is not in the description: the array has ${index} elements`);
    }
    this.#path.pop();
  }

  #element(field: FieldDescription, value: StateValue): void {
    const { type, size, struct = {} } = field;
    const isOpaque = struct.fields === undefined && struct.subsections === undefined;
    const scalar = SCALARS.get(type);
    if (type === 'struct' && !isOpaque) this.#struct(struct, size, value);
    else if (isNullPointer(field)) this.#null(size, value);
    else if (scalar === undefined) this.#bytes(size, value);
    else if (scalar.size !== size) this.#fail(`is ${type}, but described as ${size} bytes`);
    else this.#body.integer(this.#integer(scalar, type, value), scalar.size);
  }

  #struct(struct: StateDescription, size: number, value: StateValue): void {
    const begin = this.#body.length;
    this.#state(struct, value);
    const length = this.#body.length - begin;
    if (length !== size) this.#fail(`has ${length} bytes, but is described as ${size}`);
  }

  #null(size: number, value: StateValue): void {
    if (size !== 1) this.#fail(`is a null pointer, but described as ${size} bytes`);
    if (value !== null) this.#fail(`is ${kindOf(value)}, but described as a null pointer`);
    this.#body.integer(BigInt(NULL_MARK), 1);
  }

  #bytes(size: number, value: StateValue): void {
    if (!(value instanceof Uint8Array)) this.#fail(`is ${kindOf(value)}, not bytes`);
    if (value.length !== size) {
      this.#fail(`has ${value.length} bytes, but is described as ${size}`);
    }
    this.#body.append(value);
  }

  #integer({ range }: Scalar, type: string, value: StateValue): bigint {
    if (range === null) {
      if (typeof value !== 'boolean') this.#fail(`is ${kindOf(value)}, not a boolean`);
      return value ? 1n : 0n;
    }
    if (typeof value !== 'bigint' && typeof value !== 'number') {
      this.#fail(`is ${kindOf(value)}, not an integer`);
    }
    if (typeof value === 'number' && !Number.isSafeInteger(value)) {
      const advice = Number.isInteger(value) ? 'use a bigint' : 'use an integer';
      this.#fail(`is the number ${value}, which is not exact: ${advice}`);
    }
    const integer = BigInt(value);
    if (integer < range.min || integer > range.max) {
      this.#fail(`is ${value}, but ${type} is ${range.min} to ${range.max}`, 'ERANGE');
    }
    return integer;
  }

  #subsectionHeader(name: string, version: number): void {
    const bytes = Buffer.from(name);
    if (bytes.length > 255) this.#fail(`has a name of ${bytes.length} bytes, more than 255`);
    this.#body.integer(BigInt(ITEM.SUBSECTION), 1);
    this.#body.integer(BigInt(bytes.length), 1);
    this.#body.append(bytes);
    this.#body.integer(BigInt(version), 4);
  }

  #object(value: StateValue): DeviceState {
    const isObject = typeof value === 'object' && value !== null;
    if (isObject && !Array.isArray(value) && !(value instanceof Uint8Array)) return value;
    this.#fail(`is ${kindOf(value)}, not a structure`);
  }

  #fail(reason: string, code: 'EINVAL' | 'ERANGE' = 'EINVAL'): never {
    const path = this.#path.map((key) => (typeof key === 'number' ? `[${key}]` : `.${key}`));
    const where = path.length === 0 ? 'the state' : path.join('').slice(1);
    throw new QemuFileError(code, printable(`${where} ${reason}`), { operation: 'encodeState' });
  }
}

/** Return the kind of a value for messages. */
function kindOf(value: StateValue | undefined): string {
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return 'an array';
  if (value instanceof Uint8Array) return 'bytes';
  return typeof value === 'object' ? 'a structure' : `a ${typeof value}`;
}
