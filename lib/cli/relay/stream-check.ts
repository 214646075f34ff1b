import { statSync } from 'node:fs';
import type { QemuFileError } from '../../contract/errors.ts';
import { openScratchStore } from '../../extract/scratch-store.ts';
import { describeContainer, SNIFF_SIZE, sniffContainer } from '../../migration/containers/sniff.ts';
import { MigrationStreamError } from '../../migration/format/stream-error.ts';
import type { Manifest } from '../../migration/verify/manifest.ts';
import { verifyStream } from '../../migration/verify/verify.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { RelayCheck } from '../../relay/check-tap.ts';
import type { Endpoint } from '../endpoints/endpoint.ts';
import { printStderr } from '../shell/stdio.ts';

/** Options of the check during a relay. */
export interface CheckRequest {
  /** False: nothing. Undefined: migration streams that go to a file or come over TLS. */
  check?: boolean | undefined;
  /** Path of a manifest to write. */
  manifest?: string | undefined;
  /**
   * Whether the stream comes over TLS. An attacker who cuts the connection must not be able to truncate it
   * unnoticed, so it is checked wherever it goes: QEMU does not announce the end of a stream with close_notify,
   * and Node does not report whether a peer did.
   */
  overTls?: boolean | undefined;
  /** Offset of the stream in the file that it goes to; offsets in a mapped-ram stream count from its start. */
  fileOffset?: number | undefined;
  quiet?: boolean | undefined;
}

/** A check that runs during a relay. */
export interface RunningCheck {
  readonly check: RelayCheck;
  /** Returns the manifest, once the stream has been read; null if none was requested. */
  readonly manifest: () => Manifest | null;
}

/** Return whether an endpoint is a regular file, or will become one. */
function isFile(to: Endpoint): boolean {
  if (to.scheme !== 'file') return false;
  try {
    return statSync(to.path).isFile();
  } catch {
    return true;
  }
}

/** Return the check for a relay; undefined if the relay has none. */
export function startCheck(to: Endpoint, request: CheckRequest): RunningCheck | undefined {
  const isExplicit = request.check === true || request.manifest !== undefined;
  const isImplied = request.check !== false && (request.overTls === true || isFile(to));
  if (!isExplicit && !isImplied) return undefined;
  let manifest: Manifest | null = null;
  const check: RelayCheck = async (stream) => {
    const start = await firstBytes(stream);
    if (sniffContainer(start)?.kind !== 'qevm' && !isMagicStart(start)) {
      // A relay moves anything, for example compressed streams.
      if (!isExplicit) return;
      const what = describeContainer(sniffContainer(start), start);
      const reason = `not a bare migration stream, but ${what}`;
      throw new MigrationStreamError('not-a-stream', reason, { position: 0 });
    }
    manifest = await verify(stream, request, isExplicit);
  };
  return { check, manifest: () => manifest };
}

async function verify(
  stream: QemuFile,
  { manifest: path, quiet, fileOffset }: CheckRequest,
  isExplicit: boolean,
): Promise<Manifest | null> {
  using kept = openScratchStore();
  const { faults, warnings, manifest } = await verifyStream(stream, {
    fileOffset,
    digests: path === undefined ? undefined : { store: kept.store },
    // QEMU loads a stream without a VM description as well.
    withoutDescription: true,
  });
  const [fault] = faults;
  // An unsupported stream may be valid, so it fails only a check that was asked for.
  if (fault !== undefined && (isExplicit || fault.fault !== 'unsupported')) throw fault;
  if (quiet === true) return manifest;
  if (fault !== undefined)
    await printStderr(`the stream was not checked to its end: ${fault.message}`);
  for (const warning of warnings) await printStderr(warning);
  return manifest;
}

/** Return whether these bytes are the beginning of a stream's magic. */
function isMagicStart(start: Uint8Array): boolean {
  return start.length < 4 && start.length > 0 && Buffer.from('QEVM').indexOf(start) === 0;
}

/** Return the first bytes of a stream, unconsumed: as many as its format is recognised by. */
async function firstBytes(stream: QemuFile): Promise<Uint8Array> {
  for (let wanted = 1; ; wanted = stream.lookedAhead + 1) {
    const available = await stream.fillOrEnd(Math.min(wanted, SNIFF_SIZE));
    const start = stream.peekBuffer(Math.min(available, SNIFF_SIZE));
    if (available < wanted || available >= SNIFF_SIZE || sniffContainer(start) !== null) {
      return start;
    }
  }
}

/** Return the fault of the stream that made a relay fail, if that was the reason. */
export function streamFaultOf(error: unknown): MigrationStreamError | undefined {
  if (error instanceof MigrationStreamError) return error;
  const { cause } = error as Partial<QemuFileError>;
  return cause instanceof MigrationStreamError ? cause : undefined;
}
