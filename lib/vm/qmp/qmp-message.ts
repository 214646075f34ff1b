import { QemuFileError } from '../../contract/errors.ts';
import { quote } from '../../util/format.ts';

/** QEMU's greeting. */
export interface QmpGreeting {
  /** Such as `{ major: 10, minor: 0, micro: 2 }`. */
  readonly version: { readonly major: number; readonly minor: number; readonly micro: number };
  /** The distributor's name of the version; may be empty. */
  readonly package: string;
  /** Capabilities of QMP itself, such as `oob`. */
  readonly capabilities: readonly string[];
}

/** One line of QMP: a greeting, an answer or an event. The peer may not be QEMU, so no field is certain. */
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

/** Characters of a peer's text that an error quotes. */
const QUOTED_CHARS = 60;

/**
 * Parse a line of QMP.
 *
 * @param isFirst - Whether the line must be a greeting.
 * @throws {QemuFileError} `EPROTO` if the line is not QMP; the message says what it looks like.
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

/** Return whether a value is a JSON object. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function notQmp(line: string): string {
  if (line.trim() === '{') {
    return 'QEMU spreads each answer over several lines; start it with -qmp instead of -qmp-pretty';
  }
  if (/^QEMU \S+ monitor/.test(line)) {
    return "this is QEMU's human monitor (-monitor), not QMP; start QEMU with -qmp as well";
  }
  return `the peer does not speak QMP: it sent ${quoteStart(line)}`;
}

/** Return the first characters of untrusted text in quotes. */
export function quoteStart(text: string): string {
  const start = text.slice(0, QUOTED_CHARS).trim();
  return quote(text.length > QUOTED_CHARS ? `${start}...` : start);
}

/** Return the fields of a greeting. */
export function greetingOf({ version, capabilities }: NonNullable<QmpMessage['QMP']>): QmpGreeting {
  const { major = 0, minor = 0, micro = 0 } = version?.qemu ?? {};
  const names = Array.isArray(capabilities) ? capabilities : [];
  return {
    version: { major, minor, micro },
    package: toText(version?.package ?? ''),
    capabilities: names.filter((name) => typeof name === 'string'),
  };
}

/** Return a string as it is, and anything else as JSON. */
export function toText(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? '');
}
