import { QemuFileError } from '../../contract/errors.ts';
import { printable } from '../../util/format.ts';

/** What QEMU says of itself as it greets. */
export interface QmpGreeting {
  /** Such as `{ major: 10, minor: 0, micro: 2 }`. */
  readonly version: { readonly major: number; readonly minor: number; readonly micro: number };
  /** What its distributor calls it; may be empty. */
  readonly package: string;
  /** What QMP itself can do, such as `oob`. */
  readonly capabilities: readonly string[];
}

/** A line of QMP: a greeting, an answer or an event; who sent it need not have been a QEMU. */
export interface QmpMessage {
  readonly QMP?: {
    version?: { qemu?: QmpGreeting['version']; package?: string };
    capabilities?: unknown;
  };
  readonly id?: unknown;
  readonly return?: unknown;
  readonly error?: { class?: unknown; desc?: unknown } | null;
  readonly event?: unknown;
  readonly data?: unknown;
  readonly timestamp?: { seconds: number; microseconds: number } | null;
}

/** How much of what is no QMP is quoted. */
const QUOTED = 60;

/**
 * Takes a line apart.
 *
 * @param isFirst - Whether it is the line that tells what the other end is.
 * @throws {QemuFileError} `EPROTO` if it is no QMP, with what it seems to be.
 */
export function parseMessage(line: string, isFirst: boolean): QmpMessage {
  let message: unknown;
  try {
    message = JSON.parse(line);
  } catch {
    message = undefined;
  }
  if (isObject(message) && (!isFirst || isObject(message.QMP))) return message;
  throw new QemuFileError('EPROTO', notQmp(line), { operation: 'QmpClient' });
}

/** Whether something is an object as JSON has them. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function notQmp(line: string): string {
  if (line.trim() === '{') {
    return 'QEMU writes its answers in several lines each: give it -qmp instead of -qmp-pretty';
  }
  if (/^QEMU \S+ monitor/.test(line)) {
    return "this is QEMU's monitor for people (-monitor), not the one for programs: give it -qmp, too";
  }
  return `the other end does not speak QMP, but says ${quoted(line)}`;
}

/** Quotes the beginning of something that may be anything. */
export function quoted(text: string): string {
  const start = printable(text.slice(0, QUOTED).trim());
  return `"${start}${text.length > QUOTED ? '…' : ''}"`;
}

/** Gives what a greeting says. */
export function greetingOf({ version, capabilities }: NonNullable<QmpMessage['QMP']>): QmpGreeting {
  const { major = 0, minor = 0, micro = 0 } = version?.qemu ?? {};
  const names = Array.isArray(capabilities) ? capabilities : [];
  return {
    version: { major, minor, micro },
    package: text(version?.package ?? ''),
    capabilities: names.filter((name) => typeof name === 'string'),
  };
}

/** Gives what should be text as text. */
export function text(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? '');
}
