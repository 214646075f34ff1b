import type { StateValue } from '../format/device-types.ts';
import type { Configuration } from '../format/events.ts';
import { checkGuest } from '../saved-guest/check-guest.ts';
import type { SavedGuest } from '../saved-guest/saved-guest.ts';
import { type BlockDifference, compareBlocks } from './block-differences.ts';
import { comparedDevices } from './compared-devices.ts';
import { compareDevices, type DeviceDifference, type IsIgnored } from './device-differences.ts';
import { compareValues, type FieldDifference } from './field-differences.ts';
import type { CompareOptions } from './shared-blocks.ts';

/** Name of the configuration among ignored fields. */
const CONFIGURATION = 'configuration';

/** Capability that changes the layout of a stream, and nothing in its guest. */
const LAYOUT_CAPABILITY = 'mapped-ram';

/** How two guests differ. */
export interface GuestDifferences {
  /** Whether they differ in nothing that is not ignored. */
  readonly isSame: boolean;
  /** The fields of the configuration that differ: `machine`, `targetPageBits`, `capabilities`, `uuid`. */
  readonly configuration: readonly FieldDifference[];
  /** The devices that differ. */
  readonly devices: readonly DeviceDifference[];
  /** All RAM blocks. */
  readonly blocks: readonly BlockDifference[];
}

/** Options of `compareGuests`. */
export interface CompareGuestsOptions extends CompareOptions {
  /** Decides by `DEVICE.FIELD` whether a difference is left out; the configuration is called `configuration`. */
  readonly isIgnored?: IsIgnored | undefined;
}

/**
 * Compare two guests: configuration, devices and memory.
 *
 * @param a - The first guest; it stays open.
 * @param b - The second guest; it stays open.
 * @param options - Fields to leave out, progress, and how to end the comparison.
 * @returns What `qemu-file diff --json` prints, as values.
 * @throws {MigrationStreamError} (rejects) `unsupported` if their page sizes differ.
 * @throws {QemuFileError} (rejects) `ECANCELED` if aborted; the errors of their sources of pages.
 * @example
 * ```js
 * const { isSame, blocks } = await compareGuests(a, b);
 * for (const { name, pages } of blocks) console.log(name, pages.changed);
 * ```
 */
export async function compareGuests(
  a: SavedGuest,
  b: SavedGuest,
  options: CompareGuestsOptions = {},
): Promise<GuestDifferences> {
  checkGuest('compareGuests', 'a', a);
  checkGuest('compareGuests', 'b', b);
  const { isIgnored = () => false } = options;
  const configuration: FieldDifference[] = [];
  compareValues(stateOf(a.configuration), stateOf(b.configuration), '', (difference) => {
    if (!isIgnored(`${CONFIGURATION}.${difference.path}`)) configuration.push(difference);
  });
  const devices = compareDevices(comparedDevices(a), comparedDevices(b), isIgnored);
  const blocks = await compareBlocks(a.pages, b.pages, options);
  const isSame =
    configuration.length === 0 &&
    devices.length === 0 &&
    !blocks.some(({ isDifferent }) => isDifferent);
  return { isSame, configuration, devices, blocks };
}

function stateOf(configuration: Configuration | null): Record<string, StateValue> {
  return {
    machine: configuration?.machine ?? null,
    targetPageBits: configuration?.targetPageBits ?? null,
    capabilities: (configuration?.capabilities ?? []).filter((name) => name !== LAYOUT_CAPABILITY),
    uuid: configuration?.uuid ?? null,
  };
}
