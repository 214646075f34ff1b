// Two live QEMUs with our command between them: the start of a test of a kind of migration.
//
//   source ──► relays[0] ──► … ──► destination        each hop over unix:, tcp: IPv4 or IPv6
import assert from 'node:assert/strict';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { Command, type Ended } from '../../helpers/command/command.ts';
import { firmware, type GuestProgram, memoryProblems } from './guest.ts';
import {
  differingPages,
  type MigrationInfo,
  type MigrationSettings,
  type MigrationWait,
  type Qemu,
  type QemuOptions,
  startQemu,
} from './harness.ts';
import { findQemu10 } from './qemu10.ts';

/** As fast as it goes: QEMU's own default is 128 MiB/s. */
export const UNLIMITED: number = 2 ** 40;

/** The guest of a scenario that names none: 3 MiB of pattern, 1 MiB of it written to for ever. */
export const BUSY_GUEST: GuestProgram = { patternBytes: 3 << 20, dirtyBytes: 1 << 20 };

/** Parameters with which a guest that writes to a MiB or more is never done, until `letFinish`. */
export const ENDLESS: Readonly<Record<string, number>> = {
  'max-bandwidth': 6 << 20,
  'downtime-limit': 1,
};

/** Over what each hop goes. */
export type Transport = 'unix' | 'tcp' | 'tcp6';

/** The route from the source: relays, and the QEMU after them. */
export interface RouteOptions {
  /**
   * The destination; default like the source. It is started with `-S`, so that its memory can be compared,
   * unless `startStopped` is false.
   */
  destination?: QemuOptions;
  /** Further settings of the destination alone. */
  destinationSettings?: MigrationSettings;
  /** Arguments of each relay, after its endpoints; one list for each relay. Default one relay without any. */
  relays?: readonly (readonly string[])[];
  /** Default `unix`. */
  transport?: Transport;
}

/** Options of a scenario. */
export interface ScenarioOptions extends RouteOptions {
  /** Default `BUSY_GUEST`. */
  program?: GuestProgram;
  /** Options of both QEMUs; the guest's firmware is there already. */
  qemu?: QemuOptions;
  /** Further options of the source alone. */
  source?: QemuOptions;
  /** Capabilities and parameters of both sides; `max-bandwidth` is unlimited if it is not among them. */
  settings?: MigrationSettings;
  /** Further settings of the source alone. */
  sourceSettings?: MigrationSettings;
}

/** Options that choose QEMU 10.0; tests that use it need `requireQemu10()`. */
export function qemu10(): QemuOptions {
  return { binary: findQemu10() ?? 'a QEMU 10.0, which is not here' };
}

/**
 * Starts a guest, a QEMU that waits for it, and relays between the two, and waits until the guest is busy.
 *
 * @returns The scenario; hold it by `await using`.
 *
 * @example
 * ```ts
 * await using run = await scenario({ transport: 'tcp', settings: { capabilities: { xbzrle: true } } });
 * await run.migrate();
 * await run.assertArrived();
 * ```
 */
export async function scenario(options: ScenarioOptions = {}): Promise<Scenario> {
  const { program = BUSY_GUEST } = options;
  const guest = { firmware: firmware(program), ...options.qemu };
  const source = await startQemu({ ...guest, ...options.source });
  const run = new Scenario(program, guest, source, options);
  try {
    await source.waitGuestReady();
    await run.reroute({});
    return run;
  } catch (error) {
    await run[Symbol.asyncDispose]();
    throw error;
  }
}

/** A guest, its destination, and the route between them. */
export class Scenario implements AsyncDisposable {
  readonly program: GuestProgram;
  readonly source: Qemu;
  readonly #guest: QemuOptions;
  readonly #settings: MigrationSettings;
  readonly #options: ScenarioOptions;
  #route: Route | undefined;

  /** Use `scenario`. */
  constructor(program: GuestProgram, guest: QemuOptions, source: Qemu, options: ScenarioOptions) {
    this.program = program;
    this.source = source;
    this.#guest = guest;
    this.#settings = options.settings ?? {};
    this.#options = options;
  }

  get #current(): Route {
    assert.ok(this.#route, 'there is a way to a destination');
    return this.#route;
  }

  /** The QEMU that waits for the guest. */
  get destination(): Qemu {
    return this.#current.destination;
  }

  /** The relays on the way, the source's own one first. */
  get relays(): readonly Command[] {
    return this.#current.relays;
  }

  /** The relay that the source connects to. */
  get relay(): Command {
    const [first] = this.relays;
    assert.ok(first, 'there is a relay');
    return first;
  }

  /** Where the source migrates to: the first relay. */
  get sourceUri(): string {
    return this.#current.uris[0] ?? '';
  }

  /** Where the destination listens. */
  get destinationUri(): string {
    return this.#current.uris.at(-1) ?? '';
  }

  /** Settings of the source. */
  get sourceSettings(): MigrationSettings {
    return merged(
      { parameters: { 'max-bandwidth': UNLIMITED } },
      this.#settings,
      this.#options.sourceSettings,
    );
  }

  /** Ends destination and relays, if there are any, and starts new ones: for a second attempt. */
  async reroute(changes: RouteOptions): Promise<void> {
    await this.#route?.[Symbol.asyncDispose]();
    const options = { ...this.#options, ...changes };
    this.#route = new Route(options.transport ?? 'unix');
    const destination = { ...this.#guest, startStopped: true, ...options.destination };
    const settings = merged(this.#settings, options.destinationSettings);
    await this.#route.start(destination, settings, options.relays ?? [[]]);
  }

  /** Starts to migrate, and does not wait. */
  async startMigration(): Promise<void> {
    await this.source.startMigration(this.sourceUri, this.sourceSettings);
  }

  /** Migrates, and waits until that is complete for the source. */
  async migrate(wait: MigrationWait = {}): Promise<MigrationInfo> {
    return this.source.migrate(this.sourceUri, { ...this.sourceSettings, ...wait });
  }

  /** Takes away what keeps a migration from its end, and waits until it is complete for the source. */
  async letFinish(): Promise<MigrationInfo> {
    const parameters = { 'max-bandwidth': UNLIMITED, 'downtime-limit': 2000 };
    await this.source.qmp.execute('migrate-set-parameters', parameters);
    const info = await this.source.waitMigrationEnd();
    assert.equal(info.status, 'completed', info['error-desc']);
    return info;
  }

  /** Waits until all relays have ended. */
  async relaysEnded(): Promise<Ended[]> {
    return Promise.all(this.relays.map((relay) => relay.ended()));
  }

  /**
   * Asserts that all relays are content, and that the guest is at the destination: every word of its memory
   * right, all of it equal to the source's if neither has run since, and its counter rising.
   */
  async assertArrived(): Promise<void> {
    for (const { code, stderr } of await this.relaysEnded()) assert.equal(code, 0, stderr);
    const { destination, source } = this;
    await destination.waitIncomingEnd();
    if ((await destination.waitStatus(['paused', 'running'])) === 'paused') {
      assert.equal(await source.status(), 'postmigrate');
      const [before, after] = [await source.readRam(), await destination.readRam()];
      assert.deepEqual(differingPages(before, after), [], 'memory of source and destination');
    } else {
      await destination.pause();
    }
    assert.deepEqual(memoryProblems(await destination.readRam(), this.program), []);
    await destination.resume();
    await destination.waitRunning();
    await destination.waitCounterRises();
  }

  /** Asserts that the guest runs on at the source, unharmed. */
  async assertStayed(): Promise<void> {
    const { source } = this;
    await source.waitRunning();
    await source.waitCounterRises();
    await source.pause();
    assert.deepEqual(memoryProblems(await source.readRam(), this.program), []);
    await source.resume();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([this.#route?.[Symbol.asyncDispose](), this.source.stop()]);
  }
}

/** Ends a command, whatever it is at, and waits until it is gone. */
export async function endCommand(command: Command): Promise<void> {
  command.child.kill('SIGKILL');
  await command.ended();
}

/** The relays and the destination of one attempt. */
class Route implements AsyncDisposable {
  readonly relays: Command[] = [];
  /** Where each relay listens, and at last where the destination does. */
  readonly uris: string[] = [];
  readonly #dir: TempDir = makeTempDir();
  readonly #transport: Transport;
  #destination: Qemu | undefined;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  get destination(): Qemu {
    assert.ok(this.#destination, 'there is a destination');
    return this.#destination;
  }

  async start(
    destination: QemuOptions,
    settings: MigrationSettings,
    relays: readonly (readonly string[])[],
  ): Promise<void> {
    const qemu = await startQemu({ ...destination, incoming: 'defer' });
    this.#destination = qemu;
    const uri = this.#listenAt('destination');
    await qemu.migrateIncoming(uri, settings);
    this.uris.push(this.#transport === 'unix' ? uri : withPort(uri, await qemu.incomingPort()));
    // From the last one to the first, because only who listens can tell the port.
    for (const [index, args] of [...relays.entries()].reverse()) {
      const from = this.#listenAt(`relay-${index}`);
      const relay = new Command(['relay', from, this.uris[0] ?? '', ...args]);
      this.relays.unshift(relay);
      this.uris.unshift(withPort(from, await relay.listening()));
    }
  }

  #listenAt(name: string): string {
    if (this.#transport === 'unix') return `unix:${this.#dir.join(name)}`;
    return this.#transport === 'tcp' ? 'tcp:127.0.0.1:0' : 'tcp:[::1]:0';
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.relays.map(endCommand), this.#destination?.stop()]);
    this.#dir.remove();
  }
}

function withPort(uri: string, port: number): string {
  return uri.startsWith('tcp:') ? uri.replace(/:0$/, `:${port}`) : uri;
}

/** Puts settings together; what comes later wins. */
function merged(...all: readonly (MigrationSettings | undefined)[]): MigrationSettings {
  const capabilities: Record<string, boolean> = {};
  const parameters: Record<string, number | string> = {};
  for (const settings of all) {
    Object.assign(capabilities, settings?.capabilities);
    Object.assign(parameters, settings?.parameters);
  }
  return { capabilities, parameters };
}
