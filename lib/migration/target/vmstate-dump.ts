import { QemuFileError } from '../../contract/errors.ts';
import { printable } from '../../util/format.ts';
import { LIMIT } from '../format/wire.ts';

/** A field of a state in a dump. */
export interface TargetField {
  readonly name: string;
  /** First version of the state that has the field. */
  readonly versionId: number;
  /** Whether a condition at run time decides if the field is sent, whatever the version. */
  readonly optional: boolean;
  /** Bytes of one element in QEMU's memory; on the wire only integers and most buffers have the same size. */
  readonly size: number;
  /** Elements of an array of fixed length; undefined before QEMU 9.0. */
  readonly count: number | undefined;
  /** Contents of a structure. */
  readonly state: TargetState | undefined;
}

/** A state that a QEMU can load: a device, a structure or a subsection. */
export interface TargetState {
  readonly name: string;
  readonly versionId: number;
  readonly minimumVersionId: number;
  /** undefined for a device that cannot be migrated. */
  readonly fields: readonly TargetField[] | undefined;
  readonly subsections: ReadonlyMap<string, TargetState>;
}

/** The states that a QEMU can load, from its -dump-vmstate. */
export interface TargetDump {
  /** Name of the machine type, not an alias. */
  readonly machine: string;
  /** States of devices by name; device types that share a name may differ. */
  readonly states: ReadonlyMap<string, readonly TargetState[]>;
}

type Json = Readonly<Record<string, unknown>>;

const MACHINE = 'vmschkmachine';
const ADVICE = 'make it with: qemu-system-… -M MACHINE -dump-vmstate FILE';

/**
 * Parse the output of `qemu-system-… -M MACHINE -dump-vmstate FILE`.
 *
 * @param json - The file's contents, parsed as JSON.
 * @throws {QemuFileError} `EINVAL` if it is not such a dump.
 */
export function parseTargetDump(json: unknown): TargetDump {
  const root = object(json, 'the file');
  const machine = text(object(own(root, MACHINE), MACHINE), 'Name', MACHINE);
  const states = new Map<string, TargetState[]>();
  const known = new Map<string, Set<string>>();
  for (const [type, entry] of Object.entries(root)) {
    if (type === MACHINE) continue;
    const description = object(own(object(entry, type), 'Description'), `${type}.Description`);
    const state = parseState(description, type, 0);
    // Most device types that share a name have the same state, which is kept once.
    const layout = JSON.stringify(description);
    const layouts = known.get(state.name);
    if (layouts === undefined) {
      known.set(state.name, new Set([layout]));
      states.set(state.name, [state]);
    } else if (!layouts.has(layout)) {
      layouts.add(layout);
      states.get(state.name)?.push(state);
    }
  }
  if (states.size === 0) throw notADump('it lists no device');
  return { machine, states };
}

function parseState(json: Json, where: string, depth: number): TargetState {
  if (depth > LIMIT.NESTING) throw notADump(`more than ${LIMIT.NESTING} levels in ${where}`);
  const fields = own(json, 'Fields');
  const subsections = new Map<string, TargetState>();
  for (const entry of array(own(json, 'Subsections') ?? [], `${where}.Subsections`)) {
    const part = parseState(object(entry, `${where}.Subsections`), where, depth + 1);
    subsections.set(part.name, part);
  }
  return {
    name: text(json, 'name', where),
    versionId: integer(json, 'version_id', where),
    minimumVersionId: integer(json, 'minimum_version_id', where),
    fields:
      fields === undefined
        ? undefined
        : array(fields, `${where}.Fields`).map((entry) => parseField(entry, where, depth)),
    subsections,
  };
}

function parseField(entry: unknown, where: string, depth: number): TargetField {
  const json = object(entry, `${where}.Fields`);
  const name = text(json, 'field', where);
  const path = `${where}.${name}`;
  const optional = own(json, 'field_exists');
  if (typeof optional !== 'boolean') throw notADump(`field_exists of ${path} is not a boolean`);
  const description = own(json, 'Description');
  return {
    name,
    versionId: integer(json, 'version_id', path),
    optional,
    size: integer(json, 'size', path),
    count: own(json, 'num') === undefined ? undefined : integer(json, 'num', path),
    state:
      description === undefined
        ? undefined
        : parseState(object(description, path), path, depth + 1),
  };
}

/** Return a property of the object itself; inherited ones are not in the file. */
function own(json: Json, key: string): unknown {
  return Object.hasOwn(json, key) ? json[key] : undefined;
}

function object(value: unknown, what: string): Json {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json;
  throw notADump(`${what} is ${value === undefined ? 'missing' : 'not an object'}`);
}

function array(value: unknown, what: string): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw notADump(`${what} is not an array`);
}

function text(json: Json, key: string, where: string): string {
  const value = own(json, key);
  if (typeof value === 'string') return value;
  throw notADump(`${key} of ${where} is not a text`);
}

function integer(json: Json, key: string, where: string): number {
  const value = own(json, key);
  if (Number.isSafeInteger(value)) return value as number;
  throw notADump(`${key} of ${where} is not an integer`);
}

function notADump(reason: string): QemuFileError {
  const what = `not a -dump-vmstate file: ${printable(reason)}; ${ADVICE}`;
  return new QemuFileError('EINVAL', what);
}
