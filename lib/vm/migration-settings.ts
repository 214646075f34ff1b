import type { QmpClient } from './qmp/qmp-client.ts';

/** Capabilities and parameters of migration, by QEMU's names. */
export interface MigrationSettings {
  readonly capabilities: Readonly<Record<string, boolean>>;
  readonly parameters: Readonly<Record<string, number | string>>;
}

/** Settings of a QEMU that were changed for a while. */
export interface ChangedSettings {
  /** Whether a capability is on now. */
  has(capability: string): boolean;
  /** Gives QEMU back what it had. */
  restore(): Promise<void>;
}

/**
 * Changes settings of migration, as far as this QEMU has them and they are not as wanted already.
 *
 * @throws {QemuFileError} (rejects) as `QmpClient.execute`; nothing is changed then, if QEMU is there to undo it.
 */
export async function changeSettings(
  qmp: QmpClient,
  wanted: MigrationSettings,
): Promise<ChangedSettings> {
  const capabilities = await readCapabilities(qmp);
  const parameters = await qmp.execute<Record<string, unknown>>('query-migrate-parameters');
  const newCapabilities = changes(capabilities, wanted.capabilities);
  const newParameters = changes(parameters, wanted.parameters);
  const formerCapabilities = pick(capabilities, Object.keys(newCapabilities));
  const formerParameters = pick(parameters, Object.keys(newParameters));
  await setCapabilities(qmp, newCapabilities);
  try {
    await setParameters(qmp, newParameters);
  } catch (error) {
    await setCapabilities(qmp, formerCapabilities).catch(() => {});
    throw error;
  }
  return {
    has: (name) => newCapabilities[name] ?? capabilities[name] ?? false,
    restore: async () => {
      // One that is refused must not keep the other, such as TLS, from being as before.
      try {
        await setCapabilities(qmp, formerCapabilities);
      } finally {
        await setParameters(qmp, formerParameters);
      }
    },
  };
}

async function readCapabilities(qmp: QmpClient): Promise<Record<string, boolean>> {
  const list = await qmp.execute<readonly { capability: string; state: boolean }[]>(
    'query-migrate-capabilities',
  );
  return Object.fromEntries(list.map(({ capability, state }) => [capability, state]));
}

function changes<T>(
  present: Readonly<Record<string, unknown>>,
  wanted: Readonly<Record<string, T>>,
): Record<string, T> {
  const differs = ([name, value]: [string, T]): boolean =>
    name in present && present[name] !== value;
  return Object.fromEntries(Object.entries(wanted).filter(differs));
}

function pick<T>(from: Readonly<Record<string, T>>, names: readonly string[]): Record<string, T> {
  return Object.fromEntries(names.map((name) => [name, from[name] as T]));
}

/** All in one command: some may only be on or off together. */
async function setCapabilities(
  qmp: QmpClient,
  values: Readonly<Record<string, boolean>>,
): Promise<void> {
  const capabilities = Object.entries(values).map(([capability, state]) => ({ capability, state }));
  if (capabilities.length > 0) await qmp.execute('migrate-set-capabilities', { capabilities });
}

async function setParameters(
  qmp: QmpClient,
  values: Readonly<Record<string, unknown>>,
): Promise<void> {
  if (Object.keys(values).length > 0) await qmp.execute('migrate-set-parameters', values);
}
