import { Buffer } from 'node:buffer';
import { printable } from '../../util/format.ts';
import type {
  DeviceDescription,
  DeviceState,
  FieldDescription,
  StateDescription,
  StateValue,
} from '../format/device-types.ts';
import type { WarningSink } from '../format/diagnostics.ts';
import { MigrationStreamError, type SectionName } from '../format/stream-error.ts';
import { ITEM } from '../format/wire.ts';
import { elementCount, isElement } from './body-size.ts';
import { isNullPointer, NULL_MARK, SCALARS, type Scalar } from './scalars.ts';

/** Values that one device may have, to bound the memory they take. */
const MAX_VALUES = 2_097_152;

/** Types of integers whose values are checked. */
const CHECKED_TYPES: ReadonlySet<string> = new Set(['bool', 'int32 le']);

const UTF8 = new TextDecoder('utf-8', { ignoreBOM: true });

/**
 * Decode the body of a device section with its description.
 *
 * Integers are exact. Lists, buffers and fields of types private to QEMU are bytes, as views of `body`. States
 * have no prototype, because their names come from the stream.
 *
 * @param device - The description, as `parseVmDescription` returned it.
 * @param body - The whole body, without header and footer.
 * @param where - For errors: offset in the stream of the body, and the section it is in; `diagnostics`
 *   takes warnings about values that are odd, but can be read; `budget` bounds the values of all states decoded with it.
 * @throws {MigrationStreamError} `corrupt` where body and description do not fit each other, with the
 *   path of the field and its offset in the stream. That need not mean that the body is damaged: see
 *   `bodySize` for what the description of a sound one may lack. `unsupported` for one of too many values.
 */
export function decodeState(
  device: DeviceDescription,
  body: Uint8Array,
  where: {
    readonly bodyOffset: number;
    readonly section: SectionName;
    readonly diagnostics?: WarningSink | undefined;
    readonly budget?: { values: number } | undefined;
  },
): DeviceState {
  const decoder = new StateDecoder(body, where);
  const state = decoder.decode(device);
  if (where.budget !== undefined) where.budget.values -= decoder.values;
  return state;
}

/**
 * Makes a state fit for `JSON.stringify`: bytes become hexadecimal digits, and bigints, which are
 * integers beyond 2^53-1, decimal digits.
 */
export function stateToJson(state: DeviceState): unknown {
  return jsonOf(state);
}

function jsonOf(value: StateValue): unknown {
  if (typeof value === 'bigint') return value.toString();
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map(jsonOf);
  if (value instanceof Uint8Array) {
    return Buffer.from(value.buffer, value.byteOffset, value.length).toString('hex');
  }
  const json = Object.create(null) as Record<string, unknown>;
  for (const [name, inner] of Object.entries(value)) json[name] = jsonOf(inner);
  return json;
}

class StateDecoder {
  readonly #body: Uint8Array;
  readonly #view: DataView;
  readonly #offset: number;
  readonly #section: SectionName;
  readonly #diagnostics: WarningSink | undefined;
  /** Names and indices that lead to the current field. */
  readonly #path: (string | number)[] = [];
  readonly #maxValues: number;
  /** Whether that bound exists to save memory. */
  readonly #isScarce: boolean;
  #values = 0;
  #at = 0;
  /** Where the structure that is being decoded ends. */
  #end: number;

  constructor(
    body: Uint8Array,
    { bodyOffset, section, diagnostics, budget }: Parameters<typeof decodeState>[2],
  ) {
    this.#body = body;
    this.#view = new DataView(body.buffer, body.byteOffset, body.length);
    this.#offset = bodyOffset;
    this.#section = section;
    this.#diagnostics = diagnostics;
    this.#end = body.length;
    // Nested arrays of elements without bytes could have any number of elements.
    this.#maxValues = Math.min(1024 + 4 * body.length, MAX_VALUES, budget?.values ?? Infinity);
    this.#isScarce = this.#maxValues < 1024 + 4 * body.length;
  }

  /** Values decoded so far. */
  get values(): number {
    return this.#values;
  }

  decode(device: DeviceDescription): DeviceState {
    const state = this.#state(device);
    if (this.#at < this.#end) {
      this.#fail(`the VM description accounts for ${this.#at} of ${this.#end} bytes`);
    }
    return state;
  }

  #state({ fields = [], subsections = [] }: StateDescription): DeviceState {
    const state = Object.create(null) as DeviceState;
    for (let first = 0; first < fields.length; ) {
      const { name } = fields[first] as FieldDescription;
      let after = first + 1;
      while (fields[after]?.name === name) after++;
      this.#enter(state, name);
      state[name] = this.#value(fields, first, after);
      this.#path.pop();
      first = after;
    }
    for (const subsection of subsections) {
      const name = subsection.vmsd_name ?? '';
      this.#enter(state, name);
      this.#subsectionHeader(name, subsection.version ?? 0);
      state[name] = this.#state(subsection);
      this.#path.pop();
    }
    return state;
  }

  #enter(state: DeviceState, name: string): void {
    this.#path.push(name);
    if (name in state) this.#fail('is described twice');
  }

  /** Decode the value of one name. It may have several entries: elements of an array, or runs of them. */
  #value(fields: readonly FieldDescription[], first: number, after: number): StateValue {
    const field = fields[first] as FieldDescription;
    if (isElement(fields, first, after)) return this.#element(field);
    const elements: StateValue[] = [];
    const depth = this.#path.push(0) - 1;
    for (let at = first; at < after; at++) {
      const part = fields[at] as FieldDescription;
      this.#path[depth] = elements.length;
      if (part.index !== undefined && part.index !== elements.length) {
        this.#fail(`is described as element ${part.index}`);
      }
      const count = elementCount(fields, at);
      if (this.#areIntegers(part, count)) {
        this.#integers(part, count, elements);
        continue;
      }
      for (let left = count; left > 0; left--) {
        this.#path[depth] = elements.length;
        elements.push(this.#element(part));
      }
    }
    this.#path.pop();
    return elements;
  }

  /** Return whether all elements of a run are integers that are there and need no check of their own. */
  #areIntegers({ type, size }: FieldDescription, count: number): boolean {
    const scalar = SCALARS.get(type);
    if (scalar === undefined || scalar.size !== size || CHECKED_TYPES.has(type)) return false;
    return this.#values + count <= this.#maxValues && count * size <= this.#end - this.#at;
  }

  /** Decode a run of integers. An e1000 has 32768 of them in one array, most of the values of a small guest. */
  #integers({ type, size }: FieldDescription, count: number, elements: StateValue[]): void {
    const { read } = SCALARS.get(type) as Scalar;
    const view = this.#view;
    const end = this.#at + count * size;
    for (let at = this.#at; at < end; at += size) elements.push(read(view, at));
    this.#at = end;
    this.#values += count;
  }

  #element(field: FieldDescription): StateValue {
    const { type, size } = field;
    if (++this.#values > this.#maxValues) this.#tooMany();
    const at = this.#at;
    this.#need(size, type);
    if (type === 'struct') return this.#struct(field);

    const scalar = SCALARS.get(type);
    let value: StateValue;
    if (isNullPointer(field)) {
      this.#nullMark(size);
      value = null;
    } else if (scalar === undefined) {
      value = new Uint8Array(this.#body.buffer, this.#body.byteOffset + at, size);
    } else {
      if (scalar.size !== size) this.#fail(`is ${type}, but described as ${size} bytes`);
      value = scalar.read(this.#view, at);
      if (type === 'int32 le' && Number(value) < 0) this.#fail(`is ${value}, which is negative`);
      if (type === 'bool' && (this.#body[at] as number) > 1)
        this.#oddBool(this.#body[at] as number);
    }
    this.#at = at + size;
    return value;
  }

  #struct({ struct = {}, size }: FieldDescription): StateValue {
    if (struct.fields === undefined && struct.subsections === undefined) return this.#opaque(size);
    const begin = this.#at;
    const outerEnd = this.#end;
    this.#end = begin + size;
    const state = this.#state(struct);
    if (this.#at < this.#end) {
      this.#fail(`has ${size} bytes, but its fields end after ${this.#at - begin}`);
    }
    this.#end = outerEnd;
    return state;
  }

  /** Return the bytes of a structure that is described without fields. */
  #opaque(size: number): Uint8Array {
    const at = this.#at;
    this.#at = at + size;
    return new Uint8Array(this.#body.buffer, this.#body.byteOffset + at, size);
  }

  #oddBool(byte: number): void {
    const message = printable(`${this.#where()} is a bool of ${byte}, taken for true`);
    this.#diagnostics?.warn(message, this.#offset + this.#at, this.#section);
  }

  #nullMark(size: number): void {
    const byte = this.#body[this.#at];
    if (size === 1 && byte === NULL_MARK) return;
    this.#fail('is described as a null pointer, but is not one');
  }

  #subsectionHeader(name: string, version: number): void {
    const length = Buffer.byteLength(name);
    this.#need(2 + length + 4, 'the header of a subsection');
    const begin = this.#at;
    if (this.#body[begin] !== ITEM.SUBSECTION)
      this.#fail('should begin here, but no subsection does');
    const nameAt = begin + 2;
    const found = UTF8.decode(this.#body.subarray(nameAt, nameAt + length));
    if (this.#body[begin + 1] !== length || found !== name) {
      this.#fail('should begin here, but another subsection does');
    }
    const foundVersion = this.#view.getUint32(nameAt + length);
    if (foundVersion !== version >>> 0) {
      this.#fail(`has version ${foundVersion}, but is described in version ${version}`);
    }
    this.#at = nameAt + length + 4;
  }

  #need(size: number, what: string): void {
    const left = this.#end - this.#at;
    if (size > left) this.#fail(`needs ${size} bytes (${what}), but ${left} are left`);
  }

  #tooMany(): never {
    const max = this.#maxValues;
    if (this.#isScarce) this.#fail(`is beyond the ${max} values that are decoded`, 'unsupported');
    this.#fail(`is value ${max + 1} of ${this.#body.length} bytes, which cannot contain as many`);
  }

  #where(): string {
    const path = this.#path.map((key) => (typeof key === 'number' ? `[${key}]` : `.${key}`));
    return path.join('').slice(1);
  }

  #fail(reason: string, fault: 'corrupt' | 'unsupported' = 'corrupt'): never {
    const path = this.#where();
    const clause = path === '' ? reason : `${path} ${reason}`;
    throw new MigrationStreamError(fault, printable(clause), {
      position: this.#offset + this.#at,
      section: this.#section,
    });
  }
}
