import { QemuFileError } from '../../contract/errors.ts';
import { printable, quote } from '../../util/format.ts';
import { setField } from '../devices/set-field.ts';
import { encodeState } from '../devices/state-encoder.ts';
import type { DeviceSection } from '../format/events.ts';
import { deviceKey } from '../verify/summary.ts';
import type { DeviceEdits } from './copy-stream.ts';

/** A change, as `DEVICE.FIELD=VALUE`. */
interface Change {
  readonly text: string;
  /** The text up to the value. */
  readonly target: string;
  readonly value: string;
  /** Key of the device whose field it changed. */
  changed: string | null;
  /** Why it could not be made in the device with the longest name that fits, and that name's length. */
  failure: QemuFileError | null;
  failureKeyLength: number;
}

/** Changes of fields of device sections, each as `DEVICE.FIELD=VALUE`, for a stream that is copied. */
export class FieldChanges implements DeviceEdits {
  readonly #changes: readonly Change[];
  /** Keys of the devices that came. */
  readonly #keys = new Set<string>();

  /**
   * @param texts - The changes. DEVICE is a name as a summary lists it (`deviceKey`), FIELD and VALUE are those
   *   of `setField`.
   * @throws {QemuFileError} `EINVAL` for a text of another form.
   */
  constructor(texts: readonly string[]) {
    this.#changes = texts.map((text) => {
      const at = text.lastIndexOf('=');
      const target = text.slice(0, at);
      if (at < 0 || !target.includes('.'))
        throw mistake(`${quote(text)} is not DEVICE.FIELD=VALUE`);
      const value = text.slice(at + 1);
      return { text, target, value, changed: null, failure: null, failureKeyLength: 0 };
    });
  }

  /**
   * Apply the changes to a device; its decoded state is changed in place.
   *
   * @returns The new body; null if no change concerns the device.
   * @throws {QemuFileError} `EINVAL`, `ERANGE` as `setField`; `EINVAL` for a change that fits two devices.
   */
  edit(device: DeviceSection): Uint8Array | null {
    const { section, state, description } = device;
    const plain = deviceKey(section);
    const key = this.#keys.has(plain) ? `${plain} (section ${section.sectionId})` : plain;
    this.#keys.add(key);
    let isChanged = false;
    for (const change of this.#changes) {
      if (!change.target.startsWith(`${key}.`)) continue;
      const failure = apply(change, key, device);
      if (failure !== null) {
        // Another device may have a longer name that fits.
        if (key.length > change.failureKeyLength) change.failure = failure;
        change.failureKeyLength = Math.max(key.length, change.failureKeyLength);
        continue;
      }
      if (change.changed !== null) {
        const both = `${quote(change.changed)} and ${quote(key)}`;
        throw mistake(`${quote(change.target)} is a field of ${both}`);
      }
      change.changed = key;
      isChanged = true;
    }
    return isChanged && state !== null && description !== null
      ? encodeState(description, state)
      : null;
  }

  /**
   * Check that each change was made, when all devices have come.
   *
   * @throws {QemuFileError} The reason of the first one that was not.
   */
  finish(): void {
    for (const { text, changed, failure } of this.#changes) {
      if (changed !== null) continue;
      if (failure !== null) throw failure;
      const names = [...this.#keys].map(printable).join(', ');
      const devices = names === '' ? 'it has none' : `its devices are ${names}`;
      throw mistake(`the stream has no device that ${quote(text)} begins with; ${devices}`);
    }
  }
}

/** Apply a change to a device; return why it cannot be applied, null if it was. */
function apply(
  { target, value }: Change,
  key: string,
  { state, description }: DeviceSection,
): QemuFileError | null {
  if (state === null || description === null) {
    return mistake(`${quote(key)} was not decoded, so none of its fields can be set`);
  }
  try {
    setField(description, state, target.slice(key.length + 1), value);
    return null;
  } catch (error) {
    if (!(error instanceof QemuFileError)) throw error;
    const reason = `${printable(key)}: ${error.reason}`;
    return new QemuFileError(error.code, reason, { operation: 'setField' });
  }
}

function mistake(reason: string): QemuFileError {
  return new QemuFileError('EINVAL', reason, { operation: 'setField' });
}
