import { type Channel, channel, subscribe } from 'node:diagnostics_channel';
import type { Duplex } from 'node:stream';
import { debuglog, inspect } from 'node:util';
import type { QemuFileError } from './errors.ts';

/*
 * What the package reports while it works, as channels of `node:diagnostics_channel`. A publisher builds a
 * message only if the channel has a subscriber:
 *
 *   if (channels.flush.hasSubscribers) channels.flush.publish({ file, position, bytes, buffers });
 *
 * `NODE_DEBUG=qemu-file` subscribes a printer to all of them.
 */

/** A message of `qemu-file:open`: a `QemuFile` was constructed. Its backend has not been called yet. */
export interface OpenMessage {
  /** The `QemuFile`. */
  readonly file: Duplex;
  /** Whether the file has a get half. */
  readonly readable: boolean;
  /** Whether the file has a put half with a backend. */
  readonly writable: boolean;
}

/** A message of `qemu-file:flush`: the backend took one batch of buffers. */
export interface FlushMessage {
  /** The `QemuFile`. */
  readonly file: Duplex;
  /** Offset in the stream of the first byte of the batch. */
  readonly position: number;
  /** Bytes of the batch. */
  readonly bytes: number;
  /** Number of buffers in the batch. */
  readonly buffers: number;
}

/** A message of `qemu-file:throttle`: a gate shut, and a producer that asked was told to wait for `'drain'`. */
export interface ThrottleMessage {
  /** The `QemuFile`. */
  readonly file: Duplex;
  /** `'budget'` for the rate limit, `'transport'` for a backend that holds the high-water mark or more. */
  readonly gate: 'budget' | 'transport';
  /** Bytes put that the backend has not taken. */
  readonly pendingBytes: number;
}

/** A message of `qemu-file:error`: an error was latched, the first of the file. */
export interface ErrorMessage {
  /** The `QemuFile`. */
  readonly file: Duplex;
  /** The latched error. */
  readonly error: QemuFileError;
}

/** A message of `qemu-file:close`: the backend was closed. */
export interface CloseMessage {
  /** The `QemuFile`. */
  readonly file: Duplex;
  /** The error of the file, null if there was none. */
  readonly error: QemuFileError | null;
  /** Offset in the stream after the last byte put. */
  readonly putPosition: number;
  /** Offset in the stream after the last byte that a reader consumed. */
  readonly getPosition: number;
}

/** A message of `qemu-file:migration:section`: a reader met the header of a section of a migration stream. */
export interface SectionMessage {
  /** The item of the stream: QEMU's `QEMU_VM_SECTION_START`, `…_PART`, `…_END` or `…_FULL`, without the prefix. */
  readonly type: 'SECTION_START' | 'SECTION_PART' | 'SECTION_END' | 'SECTION_FULL';
  /** The section's id in this stream. */
  readonly sectionId: number;
  /** The section's name (idstr), such as `ram`. It comes from the stream: escape it before printing. */
  readonly name: string;
  /** The section's instance id. */
  readonly instanceId: number;
  /** The section's version. */
  readonly versionId: number;
  /** Offset in the stream of the item's type byte. */
  readonly position: number;
}

/** A message of `qemu-file:vm:save` and `qemu-file:vm:restore`: a step of saving or restoring a guest. */
export interface VmMessage {
  /**
   * `'start'` before QEMU is told to migrate, `'progress'` each time QEMU was asked how far it is, `'end'` once the
   * outcome is known.
   */
  readonly phase: 'start' | 'progress' | 'end';
  /** QEMU's word for the state of its migration, with `'progress'`. */
  readonly status?: string | undefined;
  /** Bytes of the migration stream that were moved, once that is known. */
  readonly bytes?: number | undefined;
  /** Seconds from start to end, with `'end'`. */
  readonly seconds?: number | undefined;
  /** Why the guest was not saved or restored, with `'end'`; undefined after a success. */
  readonly error?: Error | undefined;
}

/** The message of each channel, by the key of the channel in `DIAGNOSTICS_CHANNELS`. */
export interface DiagnosticsMessages {
  open: OpenMessage;
  flush: FlushMessage;
  throttle: ThrottleMessage;
  error: ErrorMessage;
  close: CloseMessage;
  migrationSection: SectionMessage;
  vmSave: VmMessage;
  vmRestore: VmMessage;
}

/**
 * The names of the package's channels of `node:diagnostics_channel`. The type of a channel's messages is
 * the field of the same key in `DiagnosticsMessages`. Messages are for observers: changing one has no effect,
 * and a message holds its file only as long as a subscriber keeps it.
 *
 * @example
 * ```js
 * import { subscribe } from 'node:diagnostics_channel';
 * import { DIAGNOSTICS_CHANNELS } from 'qemu-file';
 *
 * subscribe(DIAGNOSTICS_CHANNELS.flush, (message) => {
 *   const { position, bytes } = Object(message); // a FlushMessage
 *   console.log(position, bytes);
 * });
 * ```
 */
export const DIAGNOSTICS_CHANNELS = {
  open: 'qemu-file:open',
  flush: 'qemu-file:flush',
  throttle: 'qemu-file:throttle',
  error: 'qemu-file:error',
  close: 'qemu-file:close',
  migrationSection: 'qemu-file:migration:section',
  vmSave: 'qemu-file:vm:save',
  vmRestore: 'qemu-file:vm:restore',
} as const;

/** A channel whose messages have one type. */
export interface MessageChannel<T> {
  /** Whether a message would reach a subscriber. Check this before building the message. */
  readonly hasSubscribers: boolean;
  /** Send a message to all subscribers, synchronously. */
  publish(message: T): void;
}

type Key = keyof DiagnosticsMessages;

function open<K extends Key>(key: K): MessageChannel<DiagnosticsMessages[K]> & Channel {
  return channel(DIAGNOSTICS_CHANNELS[key]);
}

/** The channels to publish to. */
export const channels: { readonly [K in Key]: MessageChannel<DiagnosticsMessages[K]> } = {
  open: open('open'),
  flush: open('flush'),
  throttle: open('throttle'),
  error: open('error'),
  close: open('close'),
  migrationSection: open('migrationSection'),
  vmSave: open('vmSave'),
  vmRestore: open('vmRestore'),
};

/** Return a message as one line of text. The file would print all of its state, an error its stack. */
function lineOf(message: object): string {
  const { file: _file, ...fields } = message as { file?: unknown; error?: unknown };
  const error = fields.error instanceof Error ? { error: fields.error.message } : {};
  return inspect({ ...fields, ...error }, { breakLength: Number.POSITIVE_INFINITY });
}

const log = debuglog('qemu-file');
if (log.enabled) {
  for (const name of Object.values(DIAGNOSTICS_CHANNELS)) {
    subscribe(name, (message) => log('%s %s', name, lineOf(message as object)));
  }
}
