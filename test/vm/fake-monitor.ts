import { Duplex } from 'node:stream';
import { QmpClient, type QmpConnectOptions } from '../../lib/vm/index.ts';
import { duplexPair } from '../helpers/transports/duplex-pair.ts';
import { until } from '../helpers/until.ts';

/** A command as it came in. */
export interface Received {
  execute: string;
  arguments: Record<string, unknown>;
  id: number;
}

/** As a QEMU 10.0 begins. */
export const GREETING: object = {
  QMP: {
    version: { qemu: { micro: 2, minor: 0, major: 10 }, package: 'Debian 1:10.0.2' },
    capabilities: ['oob'],
  },
};

/** QEMU's end of a monitor, played by a test. */
export class FakeMonitor {
  /** Commands that nothing has been answered to by `answers`. */
  readonly received: Received[] = [];
  readonly stream: Duplex;
  #rest = '';
  readonly #answers: (command: Received) => unknown;

  /**
   * @param answers - Returns the result of a command; undefined leaves the reply to the test.
   */
  constructor(stream: Duplex, answers: (command: Received) => unknown = () => undefined) {
    this.stream = stream;
    this.#answers = answers;
    stream.on('error', () => {});
    stream.setEncoding('utf8').on('data', (text: string) => {
      const lines = (this.#rest + text).split('\n');
      this.#rest = lines.pop() ?? '';
      for (const line of lines) this.#take(JSON.parse(line) as Received);
    });
  }

  /** Sends an object as a line, or bytes as they are. */
  say(what: object | string): void {
    const raw = typeof what === 'string' || what instanceof Uint8Array;
    this.stream.write(raw ? what : `${JSON.stringify(what)}\r\n`);
  }

  /** Waits until a command has come that has no answer yet. */
  async command(name: string): Promise<Received> {
    return until(() => this.received.find(({ execute }) => execute === name), {
      what: `the command ${name}`,
    });
  }

  #take(command: Received): void {
    const answer = command.execute === 'qmp_capabilities' ? {} : this.#answers(command);
    if (answer === undefined) this.received.push(command);
    else if (answer instanceof Error) {
      this.say({ id: command.id, error: { class: 'GenericError', desc: answer.message } });
    } else this.say({ return: answer, id: command.id });
  }
}

/** A client, and the end of the monitor that it talks to. */
export async function connectFake(
  answers?: (command: Received) => unknown,
  options: QmpConnectOptions = {},
): Promise<{ qmp: QmpClient; monitor: FakeMonitor; stream: Duplex }> {
  const [ours, theirs] = duplexPair(Duplex);
  const monitor = new FakeMonitor(theirs, answers);
  const connecting = QmpClient.connect(ours, options);
  monitor.say(GREETING);
  return { qmp: await connecting, monitor, stream: ours };
}
