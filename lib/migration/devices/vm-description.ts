import { Buffer } from 'node:buffer';
import { printable } from '../../util/format.ts';
import type { DeviceDescription, FieldDescription, VmDescription } from '../format/device-types.ts';
import type { WarningSink } from '../format/diagnostics.ts';
import { MigrationStreamError } from '../format/stream-error.ts';
import { LIMIT } from '../format/wire.ts';
import { bodySize, elementCount, elementsAfter } from './body-size.ts';
import { checkJsonLimits } from './json-limits.ts';

/** Bytes of the longest name of a section or subsection: its length is one byte. */
const MAX_NAME_BYTES = 255;
/** Characters of the longest other text. */
const MAX_TEXT = 1024;

/**
 * Parse a VM description and check all of it, so that its readers need not.
 *
 * QEMU describes a list or tree (`qtailq`, `qlist`, `gtree`) inline, once per element, under repeated keys: only
 * the `size` of such a field is reliable.
 *
 * @param bytes - The JSON, without the type and the length before it.
 * @param position - Offset in the stream of its first byte.
 * @param diagnostics - Takes a warning for each device entry that cannot be used; the entry then has `unusable`, and
 *   the others are usable. Without it, such an entry is a fault.
 * @throws {MigrationStreamError} `corrupt`, with the place in the JSON.
 */
export function parseVmDescription(
  bytes: Uint8Array,
  position: number,
  diagnostics?: WarningSink,
): VmDescription {
  return new DescriptionCheck(position, diagnostics).parse(bytes);
}

type JsonObject = Readonly<Record<string, unknown>>;

/** The check of one description. */
class DescriptionCheck {
  readonly #position: number;
  readonly #diagnostics: WarningSink | undefined;
  readonly #path: (string | number)[] = [];

  constructor(position: number, diagnostics: WarningSink | undefined) {
    this.#position = position;
    this.#diagnostics = diagnostics;
  }

  parse(bytes: Uint8Array): VmDescription {
    if (bytes.length > LIMIT.DESCRIPTION) {
      this.#fail(`has ${bytes.length} bytes, more than the ${LIMIT.DESCRIPTION} that are read`);
    }
    const excess = checkJsonLimits(bytes);
    if (excess !== null) this.#fail(excess.what, excess.at);
    const root = this.#object(this.#json(bytes));
    const pageSize = this.#integer(root, 'page_size', 256, 65_536);
    if ((pageSize & (pageSize - 1)) !== 0) {
      this.#failIn('page_size', `is ${pageSize}, not a power of two`);
    }
    if (root.configuration !== undefined) {
      this.#within('configuration', () => this.#state(this.#object(root.configuration), 0));
    }
    this.#each(root, 'devices', LIMIT.SECTIONS, (device) => this.#deviceOrUnusable(device));
    return root as unknown as VmDescription;
  }

  #json(bytes: Uint8Array): unknown {
    try {
      return JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
    } catch (error) {
      const at = / position (\d+)/.exec(error instanceof Error ? error.message : '')?.[1];
      this.#fail('is not JSON', Number(at ?? 0));
    }
  }

  /** Check an entry. A fault in the entry costs only that entry if warnings are taken. */
  #deviceOrUnusable(device: Record<string, unknown>): void {
    this.#name(device, 'name');
    this.#integer(device, 'instance_id', -0x8000_0000, 0xffff_ffff);
    // Only the parser may set it.
    delete device.unusable;
    const depth = this.#path.length;
    try {
      this.#device(device);
    } catch (error) {
      if (this.#diagnostics === undefined || !(error instanceof MigrationStreamError)) throw error;
      this.#path.length = depth;
      device.unusable = error.reason;
      // Neither the layout nor its name and version are reliable.
      delete device.vmsd_name;
      delete device.version;
      delete device.size;
      device.fields = [];
      delete device.subsections;
      this.#diagnostics.warn(`${error.reason}; the device is not decoded`, error.position ?? 0);
    }
  }

  #device(device: JsonObject): void {
    this.#state(device, 0);
    const size = bodySize(device as unknown as DeviceDescription);
    if (!Number.isSafeInteger(size)) this.#fail('has more bytes than any device');
    if (device.size === undefined) return;
    const declared = this.#size(device);
    if (declared !== size) {
      this.#failIn('size', `is ${declared}, but the fields have ${size} bytes`);
    }
  }

  #state(state: JsonObject, level: number): void {
    if (state.vmsd_name !== undefined) this.#text(state, 'vmsd_name');
    if (state.version !== undefined) this.#version(state);
    // QEMU 7.2 describes a structure without fields as `"struct": {}`.
    if (level === 0 || state.fields !== undefined) {
      this.#each(state, 'fields', Infinity, (field) => this.#field(field, level));
      this.#counts(state.fields as FieldDescription[]);
    }
    if (state.subsections === undefined) return;
    this.#each(state, 'subsections', Infinity, (subsection) => {
      this.#name(subsection, 'vmsd_name');
      this.#version(subsection);
      this.#nested(subsection, level);
    });
  }

  #nested(state: JsonObject, level: number): void {
    if (level >= LIMIT.NESTING) this.#fail(`nests deeper than ${LIMIT.NESTING} structures`);
    this.#state(state, level + 1);
  }

  #field(field: JsonObject, level: number): void {
    this.#text(field, 'name');
    const type = this.#text(field, 'type');
    const size = this.#size(field);
    if (field.index !== undefined) this.#integer(field, 'index', 0);
    if (field.array_len !== undefined) {
      const length = this.#integer(field, 'array_len', 1);
      if (!Number.isSafeInteger(size * length)) this.#fail('has more bytes than any device');
    }
    if (type === 'struct' || field.struct !== undefined) {
      this.#within('struct', () => this.#nested(this.#object(field.struct), level));
    }
    if (field.fields !== undefined || field.subsections !== undefined) this.#nested(field, level);
  }

  /** Refuse an array whose parts have more elements than the whole. */
  #counts(fields: FieldDescription[]): void {
    fields.forEach((field, at) => {
      if (elementCount(fields, at) > 0) return;
      const others = elementsAfter(fields, at);
      const what = `is ${field.array_len}, but ${others} elements follow in entries of the same name`;
      this.#within('fields', () => this.#within(at, () => this.#failIn('array_len', what)));
    });
  }

  #size(owner: JsonObject): number {
    return this.#integer(owner, 'size', 0);
  }

  #version(owner: JsonObject): number {
    return this.#integer(owner, 'version', -0x8000_0000, 0xffff_ffff);
  }

  #integer(
    owner: JsonObject,
    key: string,
    least: number,
    most: number = Number.MAX_SAFE_INTEGER,
  ): number {
    const value = owner[key];
    if (typeof value !== 'number' || !Number.isSafeInteger(value)) {
      this.#failIn(key, `is ${kindOf(value)}, not an integer`);
    }
    if (value < least || value > most) {
      this.#failIn(key, `is ${value}, not between ${least} and ${most}`);
    }
    return value;
  }

  #text(owner: JsonObject, key: string): string {
    const value = owner[key];
    if (typeof value !== 'string') this.#failIn(key, `is ${kindOf(value)}, not a string`);
    if (value.length > MAX_TEXT) this.#failIn(key, `has more than ${MAX_TEXT} characters`);
    return value;
  }

  /** Check a text that the stream contains as a counted string. */
  #name(owner: JsonObject, key: string): void {
    const length = Buffer.byteLength(this.#text(owner, key));
    if (length < 1 || length > MAX_NAME_BYTES) {
      this.#failIn(key, `has ${length} bytes, not 1 to ${MAX_NAME_BYTES}`);
    }
  }

  #object(value: unknown): Record<string, unknown> {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      this.#fail(`is ${kindOf(value)}, not an object`);
    }
    return value as Record<string, unknown>;
  }

  #each(
    owner: JsonObject,
    key: string,
    most: number,
    check: (item: Record<string, unknown>) => void,
  ): void {
    this.#within(key, () => {
      const list = owner[key];
      if (!Array.isArray(list)) this.#fail(`is ${kindOf(list)}, not an array`);
      if (list.length > most) this.#fail(`has ${list.length} entries, more than ${most}`);
      list.forEach((item, at) => {
        this.#within(at, () => check(this.#object(item)));
      });
    });
  }

  /** Run a check one level deeper in the JSON. */
  #within<T>(key: string | number, what: () => T): T {
    this.#path.push(key);
    const result = what();
    this.#path.pop();
    return result;
  }

  #failIn(key: string, what: string): never {
    this.#path.push(key);
    this.#fail(what);
  }

  #fail(what: string, at = 0): never {
    const path = this.#path
      .map((key) => (typeof key === 'number' ? `[${key}]` : `.${key}`))
      .join('');
    const place = path === '' ? '' : `: ${path.slice(1)}`;
    throw new MigrationStreamError('corrupt', printable(`the VM description${place} ${what}`), {
      position: this.#position + at,
    });
  }
}

function kindOf(value: unknown): string {
  if (value === undefined) return 'missing';
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'number') return `the number ${value}`;
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}
