import { parseUri, type SocketTarget, type Uri } from '../../../adapters/index.ts';
import { toQemuFileError } from '../../contract/errors.ts';
import { QmpClient } from '../../vm/index.ts';
import { isTlsUsage, readTls, type TlsEnds, type TlsFlags } from '../endpoints/tls-credentials.ts';
import type { TlsSide } from '../endpoints/tls-options.ts';
import { EXIT, exitCodeOf, SIGNAL_EXITS, SignalAbort } from '../shell/exit-codes.ts';
import { type Measure, Meter } from '../shell/progress.ts';
import { printStderr } from '../shell/stdio.ts';
import { UsageError } from './read-command.ts';

/** Options of the commands that talk to a QEMU. */
export interface VmFlags extends TlsFlags {
  /** Where QEMU's monitor is. */
  qmp: string;
  /** Bytes per second; 0 is no limit. */
  maxBandwidth?: number;
  /** False: the stream is not checked. */
  check?: boolean;
  resume?: boolean;
  keepPaused?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** What such a command works with. */
export interface VmWork {
  qmp: QmpClient;
  /** The other endpoint. */
  uri: Uri;
  /** How it speaks TLS. */
  tls: TlsEnds;
  signal: AbortSignal;
  /** Shows how far the work is, where somebody looks. */
  meter(measure: () => Measure, total?: number): Promise<void>;
}

/**
 * Runs a command that talks to a QEMU: connects, shows progress, and says what failed.
 *
 * @param side - Which end the endpoint is.
 * @param uriText - The endpoint, as typed.
 * @param flags - Options.
 * @param unharmed - What an interruption leaves behind, if nothing else goes wrong, as a clause.
 * @param work - Gives the exit code.
 */
export async function runWithVm(
  side: TlsSide,
  uriText: string,
  flags: VmFlags,
  unharmed: string,
  work: (parts: VmWork) => Promise<number>,
): Promise<number> {
  let monitor: SocketTarget;
  let uri: Uri;
  let tls: TlsEnds;
  try {
    if (flags.resume === true && flags.keepPaused === true) {
      throw new UsageError('--resume and --keep-paused exclude each other');
    }
    uri = parseUri(uriText);
    monitor = monitorOf(flags.qmp);
    tls = await readTls(flags, { [side]: uri }, (text) => void printStderr(text));
  } catch (error) {
    const failure = toQemuFileError(error);
    await printStderr(failure.message.replace(/^\w+: (parseUri: |tls: )?/, ''));
    return failure.operation === 'tls' && !isTlsUsage(failure) ? EXIT.IO : EXIT.USAGE;
  }
  using interruption = new SignalAbort();
  const { signal } = interruption;
  let qmp: QmpClient | undefined;
  let meter: Meter | undefined;
  try {
    try {
      qmp = await QmpClient.connect(monitor, { signal });
    } catch (error) {
      if (signal.aborted) throw error;
      await printStderr(`${flags.qmp}: ${toQemuFileError(error).message}`);
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
      // More may have gone wrong than that: a guest that does not run on, say.
      await printStderr(
        `interrupted by ${by}; ${failure.cause === signal.reason ? unharmed : failure.message}`,
      );
      return SIGNAL_EXITS[by];
    }
    await printStderr(failure.message);
    return exitCodeOf(failure);
  } finally {
    meter?.stop();
    await qmp?.close();
  }
}

function monitorOf(text: string): SocketTarget {
  const uri = parseUri(text);
  if (uri.scheme === 'tcp') return { host: uri.host, port: uri.port };
  if (uri.scheme === 'unix' || uri.scheme === 'file') return { path: uri.path };
  throw new UsageError(`--qmp: ${text} is no socket: give a path, unix:path or tcp:host:port`);
}
