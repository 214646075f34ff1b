import { QemuFileError } from '../../contract/errors.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { quote } from '../../util/format.ts';
import { noop } from '../../util/noop.ts';
import { checkWaiting } from '../machine-checks.ts';
import {
  type Capabilities,
  type KnownSettings,
  type MigrationParameters,
  queryCapabilities,
  queryParameters,
} from '../migration-settings.ts';
import {
  type DestinationBlock,
  type DestinationFacts,
  readDestinationFacts,
} from '../preflight/destination-facts.ts';
import { compareWithDestination } from '../preflight/preflight.ts';
import type { QmpClient } from '../qmp/qmp-client.ts';
import { DestinationMemory } from './destination-memory.ts';
import { type FileBackend, memoryOnDisk } from './memory-on-disk.ts';

const OPERATION = 'restoreLazily';

/** A destination that can take a guest lazily. */
export interface LazyDestination {
  /** The guest's memory, as the destination has it. */
  readonly memory: DestinationMemory;
  /** Bytes of a page of the destination's host, where it is not a huge one. */
  readonly basePageSize: number;
  /** The migration settings of the destination. */
  readonly settings: Required<KnownSettings>;
  /** Clauses for the user. */
  readonly warnings: readonly string[];
}

/** Largest page that a host uses for ordinary memory; larger ones are huge pages. */
const MAX_BASE_PAGE_BYTES = 65_536;

/** Capabilities that postcopy does not work with, and why. The user has set them, so they are not switched off. */
const EXCLUDED: readonly (readonly [capability: string, why: string])[] = [
  ['multifd', 'its channels cannot carry pages of postcopy, and QEMU 7.2 hangs'],
  ['x-ignore-shared', 'QEMU refuses postcopy with it'],
  ['mapped-ram', 'QEMU refuses postcopy with it'],
];

/** What a destination was asked before a restore. */
export interface AskedDestination {
  /** Rejects if it does not wait for a guest, as `checkWaiting`. */
  readonly waiting: Promise<void>;
  readonly capabilities: Promise<Capabilities>;
  readonly parameters: Promise<MigrationParameters>;
  readonly facts: Promise<DestinationFacts>;
  readonly backend: Promise<FileBackend | null>;
}

/** Ask a QEMU for all that a restore has to know, at once: each round trip delays the guest. */
export function askDestination(qmp: QmpClient): AskedDestination {
  const waiting = checkWaiting(qmp);
  const capabilities = queryCapabilities(qmp);
  const parameters = queryParameters(qmp);
  const facts = readDestinationFacts(qmp, capabilities);
  const backend = memoryOnDisk(qmp);
  for (const answer of [waiting, capabilities, parameters, facts, backend]) answer.catch(noop);
  return { waiting, capabilities, parameters, facts, backend };
}

/**
 * Check that a guest can be restored lazily by a QEMU. Nothing is changed.
 *
 * @param asked - What the QEMU was asked.
 * @param checksStream - Whether differences between the stream and the destination are errors.
 * @throws {QemuFileError} (rejects) `ENOTSUP` if this QEMU, or its host, cannot take this guest lazily, with what to
 *   change; `EINVAL` if it cannot take the guest at all.
 */
export async function checkLazy(
  asked: AskedDestination,
  guest: SavedGuest,
  checksStream: boolean,
): Promise<LazyDestination> {
  const capabilities = await asked.capabilities;
  checkCapabilities(capabilities);
  checkMemory(guest);
  checkHandlers(guest);
  const facts = await asked.facts;
  const warnings = checksStream ? compareGuest(guest, facts) : [];
  if (facts.blocks === null) {
    throw unsupported(
      'this QEMU does not report the page sizes of its RAM blocks ("info ramblock"), which postcopy needs; restore without --lazy',
    );
  }
  const onDisk = await asked.backend;
  if (onDisk !== null) {
    throw unsupported(
      `the memory backend ${quote(onDisk.id)} is a file on a disk (${quote(onDisk.path)}), and postcopy needs memory ` +
        'that userfaultfd can serve: use memory-backend-memfd or memory-backend-ram, or a file in /dev/shm',
    );
  }
  const memory = memoryOf(guest, facts.blocks);
  checkPageSizes(memory);
  const basePageSize = basePageSizeOf(facts.blocks, memory.pageSize);
  const settings = { capabilities, parameters: await asked.parameters };
  return { memory, basePageSize, settings, warnings };
}

function checkCapabilities(capabilities: Capabilities): void {
  if (capabilities['postcopy-ram'] === undefined) {
    throw unsupported(
      'this QEMU does not have the migration capability postcopy-ram; use QEMU 2.6 or later on Linux',
    );
  }
  for (const [name, why] of EXCLUDED) {
    if (capabilities[name] !== true) continue;
    throw unsupported(
      `the migration capability ${name} is on at the destination: ${why}; switch it off ` +
        `("migrate_set_capability ${name} off") or restore without --lazy`,
    );
  }
}

/** Refuse a stream without the guest's memory: pages that are not in it would be sent as zeros. */
function checkMemory({ configuration }: SavedGuest): void {
  if (configuration?.capabilities.includes('x-ignore-shared') !== true) return;
  throw unsupported(
    'the guest was saved with x-ignore-shared, so its memory is not in the stream: restore it without --lazy, into a ' +
      'QEMU that maps the same memory',
  );
}

/** Refuse sections that have to end before the guest runs, but do not, and those that exclude postcopy. */
function checkHandlers({ sections, sectionsBeforeRam = 0 }: SavedGuest): void {
  const open = new Map<number, string>();
  for (const { kind, name, sectionId } of sections.slice(sectionsBeforeRam)) {
    if (/(?:^|\/)vfio$/.test(name)) {
      throw unsupported(
        `section ${quote(name)}: QEMU does not migrate VFIO devices with postcopy; restore without --lazy`,
      );
    }
    if (kind === 'start') open.set(sectionId, name);
    if (kind === 'end') open.delete(sectionId);
    if (kind === 'full' && open.size > 0) break;
  }
  for (const name of open.values()) {
    throw unsupported(
      `section ${quote(name)} has to end before the guest runs, and does not end before the devices; restore without --lazy`,
    );
  }
}

/**
 * Compare a guest with a destination.
 *
 * @returns Differences with which QEMU may load the guest.
 * @throws {QemuFileError} `EINVAL` for those with which it does not.
 */
export function compareGuest(guest: SavedGuest, facts: DestinationFacts): string[] {
  const { configuration, pages, sections } = guest;
  const devices = sections.filter(({ kind }) => kind === 'full');
  const stream = {
    machine: configuration?.machine ?? null,
    // `mapped-ram` names the layout of the file; the stream that is sent has another.
    capabilities: configuration?.capabilities.filter((name) => name !== 'mapped-ram') ?? [],
    blocks: pages.blocks,
    sections: devices.map(({ name, instanceId }) => ({ name, instanceId })),
  };
  const { problems, warnings } = compareWithDestination(stream, facts);
  if (problems.length > 0) {
    const reason = problems.map(({ message }) => message).join('; ');
    throw new QemuFileError('EINVAL', reason, { operation: OPERATION });
  }
  return warnings;
}

function memoryOf(
  { pages }: SavedGuest,
  blocks: NonNullable<DestinationFacts['blocks']>,
): DestinationMemory {
  try {
    return DestinationMemory.of(pages, blocks);
  } catch (error) {
    const reason = `the destination does not have the guest's memory: ${(error as Error).message}`;
    throw new QemuFileError('EINVAL', reason, { operation: OPERATION });
  }
}

/**
 * Return the size of the pages that the destination's host uses for ordinary memory. QEMU does not report it, but has
 * blocks in such pages, ROMs for example; where all of them are in huge pages, the guest's page size is the best guess.
 */
function basePageSizeOf(blocks: readonly DestinationBlock[], pageSize: number): number {
  const sizes = blocks.map(({ hostPageSize }) => hostPageSize);
  const smallest = Math.min(...sizes);
  return smallest <= MAX_BASE_PAGE_BYTES ? smallest : pageSize;
}

function checkPageSizes({ pageSize, blocks }: DestinationMemory): void {
  for (const { name, usedLength, hostPageSize } of blocks) {
    if (hostPageSize % pageSize !== 0) {
      throw unsupported(
        `RAM block ${quote(name)}: the guest has pages of ${pageSize} bytes, the destination of ${hostPageSize}; ` +
          'restore without --lazy',
      );
    }
    if (usedLength % hostPageSize === 0) continue;
    throw unsupported(
      `RAM block ${quote(name)} of ${usedLength} bytes is not a whole number of the destination's pages of ` +
        `${hostPageSize} bytes; use a memory backend with smaller pages`,
    );
  }
}

function unsupported(reason: string): QemuFileError {
  return new QemuFileError('ENOTSUP', reason, { operation: OPERATION });
}
