import { noop } from '../util/noop.ts';
import type { QmpClient } from './qmp/qmp-client.ts';

/** The migration capabilities that a QEMU knows, and whether each is on. */
export type Capabilities = Readonly<Record<string, boolean>>;

/** Migration capabilities and parameters, by QEMU's names. */
export interface MigrationSettings {
  readonly capabilities: Capabilities;
  readonly parameters: Readonly<Record<string, number | string>>;
}

/** The settings of a QEMU as they are. */
export interface KnownSettings {
  readonly capabilities?: Capabilities;
  readonly parameters?: MigrationParameters;
}

/** Migration parameters, by QEMU's names. */
export type MigrationParameters = Readonly<Record<string, unknown>>;

/** Settings of a QEMU that were changed for one migration. */
export interface ChangedSettings {
  /** Return whether a capability is on. */
  has(capability: string): boolean;
  /** Set everything back to its former value. */
  restore(): Promise<void>;
}

/** Set changed settings back, unless the connection has ended. A failure becomes a warning: the migration is over. */
export async function restoreSettings(
  qmp: QmpClient,
  settings: ChangedSettings,
  warnings: string[],
): Promise<void> {
  if (qmp.isClosed) return;
  try {
    await settings.restore();
  } catch (error) {
    const { message } = error as Error;
    warnings.push(`could not restore QEMU's migration settings: ${message}`);
  }
}

/**
 * Change migration settings, except those that this QEMU does not have and those that have the wanted value.
 *
 * @param known - The settings as they are now, as far as QEMU was asked before.
 * @throws {QemuFileError} (rejects) as `QmpClient.execute`. Nothing is changed then, unless QEMU cannot be
 *   reached to undo it.
 */
export async function changeSettings(
  qmp: QmpClient,
  wanted: MigrationSettings,
  known: KnownSettings = {},
): Promise<ChangedSettings> {
  const hasParameters = Object.keys(wanted.parameters).length > 0;
  const [capabilities, parameters] = await Promise.all([
    known.capabilities ?? queryCapabilities(qmp),
    hasParameters ? (known.parameters ?? queryParameters(qmp)) : {},
  ]);
  const newCapabilities = changedValues(capabilities, wanted.capabilities);
  const newParameters = changedValues(parameters, wanted.parameters);
  const formerCapabilities = pick(capabilities, Object.keys(newCapabilities));
  const formerParameters = pick(parameters, Object.keys(newParameters));
  await setCapabilities(qmp, newCapabilities);
  try {
    await setParameters(qmp, newParameters);
  } catch (error) {
    await setCapabilities(qmp, formerCapabilities).catch(noop);
    throw error;
  }
  return {
    has: (name) => newCapabilities[name] ?? capabilities[name] ?? false,
    restore: async () => {
      // If QEMU refuses the capabilities, the parameters (TLS among them) must still be set back.
      try {
        await setCapabilities(qmp, formerCapabilities);
      } finally {
        await setParameters(qmp, formerParameters);
      }
    },
  };
}

/** Return the migration capabilities that a QEMU knows, and whether each is on. */
export async function queryCapabilities(qmp: QmpClient): Promise<Capabilities> {
  const list = await qmp.execute<readonly { capability: string; state: boolean }[]>(
    'query-migrate-capabilities',
  );
  return Object.fromEntries(list.map(({ capability, state }) => [capability, state]));
}

/** Return the migration parameters of a QEMU. */
export function queryParameters(qmp: QmpClient): Promise<MigrationParameters> {
  return qmp.execute<MigrationParameters>('query-migrate-parameters');
}

function changedValues<T>(
  current: MigrationParameters,
  wanted: Readonly<Record<string, T>>,
): Record<string, T> {
  const differs = ([name, value]: [string, T]): boolean =>
    name in current && current[name] !== value;
  return Object.fromEntries(Object.entries(wanted).filter(differs));
}

function pick<T>(from: Readonly<Record<string, T>>, names: readonly string[]): Record<string, T> {
  return Object.fromEntries(names.map((name) => [name, from[name] as T]));
}

/** Set all capabilities in one command, because QEMU allows some of them only together. */
async function setCapabilities(qmp: QmpClient, values: Capabilities): Promise<void> {
  const capabilities = Object.entries(values).map(([capability, state]) => ({ capability, state }));
  if (capabilities.length > 0) await qmp.execute('migrate-set-capabilities', { capabilities });
}

async function setParameters(qmp: QmpClient, values: MigrationParameters): Promise<void> {
  if (Object.keys(values).length > 0) await qmp.execute('migrate-set-parameters', values);
}
