import type { SocketTarget } from '../../../../adapters/socket/socket-target.ts';
import { parseUri } from '../../../../adapters/uri.ts';
import { type QemuFileError, toQemuFileError } from '../../../contract/errors.ts';
import { QmpClient } from '../../../vm/qmp/qmp-client.ts';
import { type Endpoint, parseEndpoint } from '../../endpoints/endpoint.ts';
import type { TlsEnds, TlsFlags } from '../../endpoints/tls/credentials.ts';
import type { TlsSide } from '../../endpoints/tls/options.ts';
import { reportUnreadable } from '../../endpoints/tls/read-from-tls.ts';
import { UsageError } from '../../shell/command-errors.ts';
import { EXIT, exitCodeOf, SIGNAL_EXITS, SignalAbort } from '../../shell/exit-codes.ts';
import { type Measure, Meter } from '../../shell/progress.ts';
import { printStderr } from '../../shell/stdio.ts';

/** Options of the commands that control a QEMU. */
export interface VmFlags extends TlsFlags {
  /** Endpoint of QEMU's QMP monitor. */
  qmp: string;
  /** Bytes per second; 0 means no limit. */
  maxBandwidth?: number;
  /** False: the command does not check the stream. */
  check?: boolean;
  /** Address on which QEMU listens for its guest; default a private socket. */
  address?: string;
  /** Connect to the monitor so that commands can run out of band. */
  recover?: boolean;
  resume?: boolean;
  keepPaused?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** Parts of a command that controls a QEMU. */
export interface VmWork {
  qmp: QmpClient;
  /** The endpoint of the stream. */
  uri: Endpoint;
  /** TLS at that endpoint. */
  tls: TlsEnds;
  signal: AbortSignal;
  /** Start the progress line, if standard error is a terminal. */
  meter(measure: () => Measure, total?: number): Promise<void>;
}

/** Milliseconds to wait for a QEMU whose main thread may wait for a page. */
const RECOVER_CONNECT_MS = 5000;
const NO_NEW_MONITOR =
  'QEMU probably waits for a page of its guest, and takes no new monitor connection meanwhile: recover the guest with ' +
  'a client that was connected before the restore, with "oob" (recoverLazily), or end this QEMU and restore again ' +
  'into a new one';

/**
 * Run a command that controls a QEMU: connect to its monitor, show progress, and print errors.
 *
 * @param side - Which end of the stream the endpoint is.
 * @param uriText - The endpoint, as typed.
 * @param nothingChanged - The state of the guest after an interruption without further errors, as a clause.
 * @param work - Does the work and returns the exit code.
 * @returns The exit code.
 */
export async function runWithVm(
  side: TlsSide,
  uriText: string,
  flags: VmFlags,
  nothingChanged: string,
  work: (parts: VmWork) => Promise<number>,
): Promise<number> {
  let monitor: SocketTarget;
  let uri: Endpoint;
  let tls: TlsEnds;
  try {
    if (flags.resume === true && flags.keepPaused === true) {
      throw new UsageError('--resume and --keep-paused exclude each other: remove one of them');
    }
    uri = parseEndpoint(uriText);
    monitor = monitorOf(flags.qmp);
    const to = flags.address === undefined ? {} : { to: parseUri(flags.address) };
    tls = await readTlsIfAsked(flags, { ...to, [side]: uri });
  } catch (error) {
    return reportUnreadable(error);
  }
  using interruption = new SignalAbort();
  const { signal } = interruption;
  let qmp: QmpClient | undefined;
  let meter: Meter | undefined;
  try {
    try {
      const timeoutMs = flags.recover === true ? RECOVER_CONNECT_MS : undefined;
      qmp = await QmpClient.connect(monitor, { signal, oob: flags.recover, timeoutMs });
    } catch (error) {
      if (signal.aborted) throw error;
      const failure = toQemuFileError(error);
      await printStderr(`${flags.qmp}: ${failure.message}`);
      if (flags.recover === true && failure.code === 'ETIMEDOUT') await printStderr(NO_NEW_MONITOR);
      return EXIT.IO;
    }
    const start = async (measure: () => Measure, total?: number): Promise<void> => {
      meter = await Meter.start(measure, total, flags.quiet === true);
    };
    return await work({ qmp, uri, tls, signal, meter: start });
  } catch (error) {
    meter?.stop();
    const failure = toQemuFileError(error);
    const { by } = interruption;
    if (by !== undefined) {
      // An error other than the interruption comes first: for example, the guest does not resume.
      const isPlain = failure.cause === signal.reason;
      await printStderr(`interrupted by ${by}; ${isPlain ? nothingChanged : afterSignal(failure)}`);
      return SIGNAL_EXITS[by];
    }
    await printStderr(failure.message);
    return exitCodeOf(failure);
  } finally {
    meter?.stop();
    await qmp?.close();
  }
}

/** Return the part of an error's message that is not about the signal. */
function afterSignal({ code, reason, message }: QemuFileError): string {
  return code === 'ECANCELED' ? reason.replace(/^aborted by its signal; /, '') : message;
}

/** Read the files of the TLS options. Their modules are loaded only for them: the command starts sooner. */
async function readTlsIfAsked(
  flags: VmFlags,
  endpoints: Partial<Record<TlsSide, Endpoint>>,
): Promise<TlsEnds> {
  if (!Object.keys(flags).some((name) => /^(?:from|to)Tls/.test(name))) return {};
  const { readTls } = await import('../../endpoints/tls/credentials.ts');
  return readTls(flags, endpoints, (text) => void printStderr(text));
}

/** Parse the address of a monitor. */
export function monitorOf(text: string): SocketTarget {
  const uri = parseUri(text);
  if (uri.scheme === 'tcp') return { host: uri.host, port: uri.port };
  if (uri.scheme === 'unix' || uri.scheme === 'file') return { path: uri.path };
  throw new UsageError(
    `--qmp: ${text} is not the endpoint of a monitor: give a path, unix:path or tcp:host:port`,
  );
}
