import { once } from 'node:events';
import net from 'node:net';
import type { QmpClient } from '../../lib/vm/index.ts';
import { recording, unpack } from '../fixtures/recording.ts';
import { until } from '../helpers/until.ts';
import { connectFake, type FakeMonitor, type Received } from './fake-monitor.ts';

/** SHUT with the value 0, by QEMU's sources: be16 type 1, be16 length 4, be32 value. */
const SHUT: Buffer = Buffer.from('0001000400000000', 'hex');

/** A QEMU as far as a save needs one, played: it sends a recorded stream, and waits to be answered. */
export class FakeQemu {
  /** The events, in order. */
  readonly log: string[] = [];
  readonly capabilities: Record<string, boolean> = {
    events: false,
    'return-path': false,
    multifd: true,
    'release-ram': true,
    'auto-converge': true,
  };
  readonly parameters: Record<string, unknown> = {
    'max-bandwidth': 134217728,
    'tls-creds': 'tls0',
    'downtime-limit': 300,
  };
  /** Of the migration; undefined before the first. */
  status: string | undefined;
  runState = 'running';
  blockers: string[] = [];
  suppressesDescription = false;
  /** The bytes sent over the connection, before the wait for the reply. */
  stream: Buffer = unpack(
    recording('return-path').files.find(({ kind }) => kind === 'main') as never,
  );
  /** QEMU's message when its migration fails. */
  errorDescription = '';
  /** How a migration ends that is not answered. */
  endsAs: 'completed' | 'failed' = 'completed';
  /** Whether it connects to where it shall send its stream. */
  connects = true;
  /** Whether it does not listen to its monitor while its bytes are not taken. */
  isDeafWhileItSends = false;
  socket: net.Socket | undefined;
  monitor!: FakeMonitor;
  qmp!: QmpClient;

  static async start(): Promise<FakeQemu> {
    const fake = new FakeQemu();
    const { qmp, monitor } = await connectFake((command) => fake.#answer(command));
    fake.qmp = qmp;
    fake.monitor = monitor;
    return fake;
  }

  /** Ends the migration. */
  finish(status: string): void {
    this.status = status;
    this.runState = status === 'completed' ? 'postmigrate' : this.runState;
    this.log.push(status);
    if (this.capabilities.events) this.monitor.say({ event: 'MIGRATION', data: { status } });
    this.socket?.destroy();
  }

  #answer({ execute, arguments: args, id }: Received): unknown {
    switch (execute) {
      case 'query-status':
        return { status: this.runState, running: this.runState === 'running' };
      case 'query-migrate':
        return {
          ...(this.status === undefined ? {} : { status: this.status }),
          ...(this.blockers.length === 0 ? {} : { 'blocked-reasons': this.blockers }),
          ...(this.status === 'failed' ? { 'error-desc': this.errorDescription } : {}),
        };
      case 'query-migrate-capabilities':
        return Object.entries(this.capabilities).map(([capability, state]) => ({
          capability,
          state,
        }));
      case 'query-migrate-parameters':
        return this.parameters;
      case 'migrate-set-capabilities':
        for (const { capability, state } of args.capabilities as {
          capability: string;
          state: boolean;
        }[]) {
          this.capabilities[capability] = state;
        }
        return {};
      case 'migrate-set-parameters':
        Object.assign(this.parameters, args);
        return {};
      case 'qom-get':
        return args.property === 'suppress-vmdesc' ? this.suppressesDescription : 'fake-machine';
      case 'migrate':
        this.status = 'active';
        if (this.connects) void this.#migrate(String(args.uri).replace(/^unix:/, ''));
        return {};
      case 'migrate_cancel':
        this.log.push('migrate_cancel');
        if (this.isDeafWhileItSends) {
          void this.sent().then(() => {
            this.finish('cancelled');
            this.monitor.say({ return: {}, id });
          });
          return undefined;
        }
        if (this.status === 'active') this.finish('cancelled');
        return {};
      case 'cont':
        this.log.push('cont');
        this.runState = 'running';
        return {};
      case 'stop':
        this.runState = 'paused';
        return {};
      default:
        return new Error(`what is ${execute}?`);
    }
  }

  async #migrate(path: string): Promise<void> {
    const socket = net.connect({ path, allowHalfOpen: true });
    this.socket = socket;
    let answer = Buffer.alloc(0);
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      answer = Buffer.concat([answer, chunk]);
      if (!answer.equals(SHUT)) return;
      this.log.push('SHUT 0');
      this.finish('completed');
    });
    await once(socket, 'connect');
    socket.write(this.stream);
    if (this.capabilities['return-path']) return;
    socket.end();
    await once(socket, 'finish');
    if (this.status === 'active') this.finish(this.endsAs);
  }

  /** Wait until all of the stream was sent. */
  async sent(): Promise<void> {
    await until(() => this.socket?.bytesWritten === this.stream.length, {
      what: 'the stream to be sent',
    });
    await until(() => this.socket?.writableLength === 0, { what: 'the stream to be taken' });
  }
}
