import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { listenSocket } from '../../../adapters/socket/listen/listen.ts';
import { noop } from '../../util/noop.ts';
import { LineSplitter } from '../../vm/qmp/line-splitter.ts';
import { parseSize, showExactSize, showSize } from '../shell/sizes.ts';
import { printStderr } from '../shell/stdio.ts';
import type { RelayControl, RelayStatus } from './relay-status.ts';

/** Longest line that a client may send, in bytes. */
const MAX_LINE_BYTES = 1024;
/** Most clients of a control socket at a time. */
const MAX_CLIENTS = 8;
/** Milliseconds in which a client may read its last answers after the relay has ended. */
const LAST_ANSWERS_MS = 1000;

const COMMANDS = ['status', 'max-bandwidth SIZE', 'stop', 'help'] as const;

/**
 * Run one command line: `status`, `max-bandwidth 10MiB`, `stop` or `help`.
 *
 * @returns One line of JSON: `ok` and the status after the command, or `ok: false` and `error`.
 */
export function answerLine(line: string, control: RelayControl): string {
  const [command = '', ...rest] = line.trim().split(/\s+/);
  const argument = rest.join(' ');
  const refuse = (error: string): string => JSON.stringify({ ok: false, error });
  switch (command) {
    case 'help':
      return JSON.stringify({ ok: true, commands: COMMANDS });
    case 'status':
      break;
    case 'stop':
      control.stop();
      break;
    case 'max-bandwidth': {
      const size = parseSize(argument);
      if (size === undefined) {
        return refuse('max-bandwidth takes bytes per second, such as 100MiB; 0 means no limit');
      }
      control.setMaxBandwidth(size);
      break;
    }
    default:
      return refuse(`unknown command; the commands are ${COMMANDS.join(', ')}`);
  }
  return JSON.stringify({ ok: true, ...control.status() });
}

/** Return the status as one line for people. */
export function statusLine(status: RelayStatus): string {
  const { state, channels, forward, return: returned, seconds, bytesPerSecond } = status;
  const { maxBandwidth, limitedSeconds, pending } = status;
  if (state === 'waiting') return 'waiting for a connection';
  const parts = [`${showExactSize(forward)} in ${seconds.toFixed(1)} s`];
  if (returned !== null) parts.push(`${showExactSize(returned)} back`);
  parts.push(`${showSize(Math.round(bytesPerSecond))}/s now`);
  parts.push(maxBandwidth > 0 ? `limit ${showSize(maxBandwidth)}/s` : 'no limit');
  if (limitedSeconds > 0) parts.push(`limited for ${limitedSeconds.toFixed(1)} s`);
  if (channels > 1) parts.push(`${channels} channels`);
  parts.push(`${showSize(pending)} pending`);
  return `${state}: ${parts.join(', ')}`;
}

/**
 * Run a relay that can be queried and controlled in the meantime.
 *
 * @param where - As for `startControl`; undefined for a relay without a control socket.
 * @param control - The relay.
 * @param printAnswer - Prints the answer to a command from standard input.
 * @param work - Runs the relay.
 * @throws {QemuFileError} (rejects) as `startControl`, before `work` is called.
 */
export async function withControl<T>(
  where: string | undefined,
  control: RelayControl,
  printAnswer: (line: string) => void,
  work: () => Promise<T>,
): Promise<T> {
  using _status = printStatusOnSignal(control);
  await using _control =
    where === undefined ? null : await startControl(where, control, printAnswer);
  return await work();
}

/** Print the status to standard error at every `SIGUSR1`, until the result is disposed of. */
function printStatusOnSignal(control: RelayControl): Disposable {
  const onSignal = (): void => void printStderr(statusLine(control.status()));
  process.on('SIGUSR1', onSignal);
  // Without a listener the signal would end the process, and one may arrive just after the relay ended.
  if (!process.listeners('SIGUSR1').includes(noop)) process.on('SIGUSR1', noop);
  return { [Symbol.dispose]: () => process.off('SIGUSR1', onSignal) };
}

/**
 * Accept commands, one per line, from standard input or from the clients of a socket.
 *
 * @param where - `-` for standard input, else the path of a unix socket, which is created with mode 0600.
 * @param control - The relay.
 * @param printAnswer - Prints the answer to a command from standard input.
 * @returns An object that ends it when it is disposed of.
 * @throws {QemuFileError} (rejects) as `listenSocket`.
 */
export async function startControl(
  where: string,
  control: RelayControl,
  printAnswer: (line: string) => void,
): Promise<AsyncDisposable> {
  if (where === '-') return controlByInput(process.stdin, control, printAnswer);
  const path = where.replace(/^unix:/, '');
  const listener = await listenSocket({ path }, { backlog: MAX_CLIENTS });
  const clients = new Set<Socket>();
  const serve = async (): Promise<void> => {
    for (;;) {
      const client = await listener.accept();
      client.on('error', noop).on('close', () => clients.delete(client));
      if (clients.size >= MAX_CLIENTS) {
        const error = `${MAX_CLIENTS} clients are connected already`;
        client.resume().end(`${JSON.stringify({ ok: false, error })}\n`);
        client.destroySoon();
        continue;
      }
      clients.add(client);
      const onLine = (line: string): void => {
        // Stop reading commands from a client that does not read its answers.
        if (!client.write(`${answerLine(line, control)}\n`)) client.pause();
      };
      client.on('drain', () => client.resume()).on('end', () => client.end());
      readLines(client, onLine, () => client.destroy());
    }
  };
  const serving = serve().catch(noop);
  return {
    [Symbol.asyncDispose]: async () => {
      await listener.close();
      await serving;
      // Deliver the answer to a `stop`, but do not wait for a client that does not read.
      for (const client of clients) {
        const timer = setTimeout(() => client.destroy(), LAST_ANSWERS_MS);
        client.once('close', () => clearTimeout(timer)).destroySoon();
      }
    },
  };
}

function controlByInput(
  input: Readable,
  control: RelayControl,
  printAnswer: (line: string) => void,
): AsyncDisposable {
  input.on('error', noop);
  readLines(
    input,
    (line) => printAnswer(answerLine(line, control)),
    () => {
      void printStderr(
        `--control: a line is longer than ${MAX_LINE_BYTES} bytes; no more commands are read`,
      );
      input.destroy();
    },
  );
  return {
    // A stream that is only paused would keep the process alive.
    [Symbol.asyncDispose]: () => {
      input.destroy();
      return Promise.resolve();
    },
  };
}

/** Report the lines of a stream that are not empty, until one is too long. */
function readLines(input: Readable, onLine: (line: string) => void, onTooLong: () => void): void {
  const splitter = new LineSplitter(MAX_LINE_BYTES, 'control');
  input.on('data', (chunk: Buffer) => {
    const lines: string[] = [];
    let isTooLong = false;
    try {
      splitter.add(chunk, (line) => lines.push(line));
    } catch {
      isTooLong = true;
    }
    for (const line of lines) if (line.trim() !== '') onLine(line);
    if (isTooLong) onTooLong();
  });
  input.resume();
}
