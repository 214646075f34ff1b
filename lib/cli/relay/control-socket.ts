import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { listenSocket } from '../../../adapters/index.ts';
import { noop } from '../../util/noop.ts';
import { parseSize, showExactSize, showSize } from '../shell/sizes.ts';
import { printStderr } from '../shell/stdio.ts';
import type { RelayStatus, RelaySteering } from './relay-status.ts';

/** Longest line that a client may send, in characters. */
const MAX_LINE = 1024;
/** Clients that a control socket has at a time. */
const MAX_CLIENTS = 8;
/** Milliseconds in which a client may take its last answers when the relay has ended. */
const LAST_ANSWERS_MS = 1000;

const COMMANDS = ['status', 'max-bandwidth SIZE', 'stop', 'help'] as const;

/**
 * Answers one line: `status`, `max-bandwidth 10MiB`, `stop` or `help`.
 *
 * @returns One line of JSON: `ok`, and the status as it then is, or `error`.
 */
export function answerLine(line: string, steering: RelaySteering): string {
  const [command = '', ...rest] = line.trim().split(/\s+/);
  const argument = rest.join(' ');
  const refuse = (error: string): string => JSON.stringify({ ok: false, error });
  switch (command) {
    case 'help':
      return JSON.stringify({ ok: true, commands: COMMANDS });
    case 'status':
      break;
    case 'stop':
      steering.stop();
      break;
    case 'max-bandwidth': {
      const size = parseSize(argument);
      if (size === undefined) {
        return refuse('max-bandwidth takes bytes per second, such as 100MiB; 0 is no limit');
      }
      steering.setMaxBandwidth(size);
      break;
    }
    default:
      return refuse(`unknown command; known are ${COMMANDS.join(', ')}`);
  }
  return JSON.stringify({ ok: true, ...steering.status() });
}

/** Gives the status as a line for people. */
export function statusLine(status: RelayStatus): string {
  const { state, channels, forward, return: back, seconds, bytesPerSecond } = status;
  const { maxBandwidth, limitedSeconds, pending } = status;
  if (state === 'waiting') return 'waiting for a connection';
  const parts = [`${showExactSize(forward)} in ${seconds.toFixed(1)} s`];
  if (back !== null) parts.push(`${showExactSize(back)} back`);
  parts.push(`${showSize(Math.round(bytesPerSecond))}/s now`);
  parts.push(maxBandwidth > 0 ? `limit ${showSize(maxBandwidth)}/s` : 'no limit');
  if (limitedSeconds > 0) parts.push(`limited for ${limitedSeconds.toFixed(1)} s`);
  if (channels > 1) parts.push(`${channels} channels`);
  parts.push(`${showSize(pending)} held`);
  return `${state}: ${parts.join(', ')}`;
}

/**
 * Does the work of a relay, which meanwhile can be asked how far it is, and steered.
 *
 * @param where - As for `startControl`; undefined if nobody is to steer it.
 * @throws {QemuFileError} (rejects) as `startControl`, before the work has begun.
 */
export async function withControl<T>(
  where: string | undefined,
  steering: RelaySteering,
  answerInput: (line: string) => void,
  work: () => Promise<T>,
): Promise<T> {
  const status = reportOnSignal(steering);
  try {
    const control =
      where === undefined ? undefined : await startControl(where, steering, answerInput);
    try {
      return await work();
    } finally {
      await control?.[Symbol.asyncDispose]();
    }
  } finally {
    status[Symbol.dispose]();
  }
}

/** Says the status on standard error whenever `SIGUSR1` comes; gives what ends that. */
function reportOnSignal(steering: RelaySteering): Disposable {
  const onSignal = (): void => void printStderr(statusLine(steering.status()));
  process.on('SIGUSR1', onSignal);
  // Without any listener the signal would end the process, and one may be under way at the end.
  if (!process.listeners('SIGUSR1').includes(noop)) process.on('SIGUSR1', noop);
  return { [Symbol.dispose]: () => process.off('SIGUSR1', onSignal) };
}

/**
 * Lets a relay be steered by lines of text: from standard input, or from whoever connects to a socket.
 *
 * @param where - `-` for standard input, else the path of a unix socket, made with mode 0600.
 * @param steering - Is asked and told.
 * @param answerInput - Writes a line that answers one of standard input.
 * @returns What ends it.
 * @throws {QemuFileError} (rejects) as `listenSocket`.
 */
export async function startControl(
  where: string,
  steering: RelaySteering,
  answerInput: (line: string) => void,
): Promise<AsyncDisposable> {
  if (where === '-') return controlByInput(process.stdin, steering, answerInput);
  const path = where.replace(/^unix:/, '');
  const listener = await listenSocket({ path }, { backlog: MAX_CLIENTS });
  const clients = new Set<Socket>();
  const serve = async (): Promise<void> => {
    for (;;) {
      const client = await listener.accept();
      client.on('error', noop).on('close', () => clients.delete(client));
      if (clients.size >= MAX_CLIENTS) {
        client.resume().end(`${JSON.stringify({ ok: false, error: 'too many are connected' })}\n`);
        client.destroySoon();
        continue;
      }
      clients.add(client);
      const onLine = (line: string): void => {
        // Who does not read the answers gets no further ones to be kept.
        if (!client.write(`${answerLine(line, steering)}\n`)) client.pause();
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
      // The answer to a `stop` shall still arrive; but who reads none must not keep the process.
      for (const client of clients) {
        const timer = setTimeout(() => client.destroy(), LAST_ANSWERS_MS);
        client.once('close', () => clearTimeout(timer)).destroySoon();
      }
    },
  };
}

function controlByInput(
  input: Readable,
  steering: RelaySteering,
  answerInput: (line: string) => void,
): AsyncDisposable {
  input.on('error', noop);
  readLines(
    input,
    (line) => answerInput(answerLine(line, steering)),
    () => {
      void printStderr(`a line of more than ${MAX_LINE} characters: no more commands are read`);
      input.destroy();
    },
  );
  return {
    // One that is only paused would keep the process from ending.
    [Symbol.asyncDispose]: () => {
      input.destroy();
      return Promise.resolve();
    },
  };
}

/** Gives the lines of a stream that are not empty; stops at one that is too long. */
function readLines(input: Readable, onLine: (line: string) => void, onTooLong: () => void): void {
  let rest = '';
  input.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() as string;
    for (const line of lines) if (line.trim() !== '' && line.length <= MAX_LINE) onLine(line);
    if (rest.length > MAX_LINE || lines.some(({ length }) => length > MAX_LINE)) {
      onTooLong();
    }
  });
  input.resume();
}
