import type { Configuration } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { ITEM, LIMIT } from '../format/wire.ts';

const TARGET_PAGE_BITS = 'configuration/target-page-bits';
const CAPABILITIES = 'configuration/capabilities';
const UUID = 'configuration/uuid';

/** Capabilities that change the layout of the rest of a stream, and are handled here. */
const KNOWN_CAPABILITIES: ReadonlySet<string> = new Set(['x-ignore-shared', 'mapped-ram']);

const MIN_PAGE_BITS = 8;
const MAX_PAGE_BITS = 16;
const SUBSECTION_VERSION = 1;

/**
 * Read the configuration section with its subsections, after its type byte.
 *
 * @throws {MigrationStreamError} (rejects) `corrupt`, `truncated`; `unsupported` for an unknown capability,
 *   which may change the layout of what follows, or an unknown version.
 * @see QEMU `vmstate_configuration` in migration/savevm.c
 */
export async function readConfiguration(input: StreamInput): Promise<Configuration> {
  const what = 'the configuration';
  await input.need(4, what);
  const length = input.be32();
  if (length > LIMIT.MACHINE_NAME) {
    const reason = `a machine name of ${length} bytes, more than ${LIMIT.MACHINE_NAME}`;
    throw input.error('corrupt', reason, input.position - 4);
  }
  const machine = (await input.bytes(length, 'the machine name')).toString();
  const configuration: { -readonly [K in keyof Configuration]: Configuration[K] } = {
    machine,
    targetPageBits: null,
    capabilities: [],
    uuid: null,
  };
  const seen = new Set<string>();
  for (;;) {
    // Not `atEnd`: at least the end mark must follow.
    await input.need(1, what);
    if (input.file.peekByte(0) !== ITEM.SUBSECTION) return configuration;
    const offset = input.position;
    input.u8();
    const name = await input.counted('the name of a subsection of the configuration');
    await input.need(4, what);
    const version = input.be32();
    if (version !== SUBSECTION_VERSION) {
      const reason = `version ${version} of subsection "${name}", not ${SUBSECTION_VERSION}`;
      throw input.error('unsupported', reason, input.position - 4);
    }
    if (seen.has(name)) throw input.error('corrupt', `subsection "${name}" came twice`, offset);
    seen.add(name);
    if (name === TARGET_PAGE_BITS) {
      configuration.targetPageBits = await readPageBits(input);
    } else if (name === CAPABILITIES) {
      configuration.capabilities = await readCapabilities(input);
    } else if (name === UUID) {
      const digits = (await input.bytes(16, 'the UUID')).toString('hex');
      configuration.uuid = digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
    } else {
      throw input.error('corrupt', `"${name}" is not a subsection of the configuration`, offset);
    }
  }
}

async function readPageBits(input: StreamInput): Promise<number> {
  await input.need(4, 'the target page bits');
  const bits = input.be32();
  if (bits >= MIN_PAGE_BITS && bits <= MAX_PAGE_BITS) return bits;
  const reason = `${bits} target page bits, not ${MIN_PAGE_BITS} to ${MAX_PAGE_BITS}`;
  throw input.error('corrupt', reason, input.position - 4);
}

async function readCapabilities(input: StreamInput): Promise<string[]> {
  await input.need(4, 'the capabilities');
  const count = input.be32();
  if (count > LIMIT.CAPABILITIES) {
    const reason = `${count} capabilities, more than ${LIMIT.CAPABILITIES}`;
    throw input.error('corrupt', reason, input.position - 4);
  }
  const names: string[] = [];
  while (names.length < count) {
    const offset = input.position;
    const name = await input.counted('the name of a capability');
    if (!KNOWN_CAPABILITIES.has(name)) {
      throw input.error('unsupported', `unknown capability "${name}"`, offset);
    }
    names.push(name);
  }
  return names;
}
