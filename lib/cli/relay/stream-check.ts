import { statSync } from 'node:fs';
import type { Uri } from '../../../adapters/index.ts';
import type { QemuFileError } from '../../contract/errors.ts';
import { openScratchStore } from '../../extract/scratch-store.ts';
import { describeContainer, SNIFF_SIZE, sniffContainer } from '../../migration/containers/sniff.ts';
import { MigrationStreamError } from '../../migration/format/stream-error.ts';
import type { Manifest } from '../../migration/verify/manifest.ts';
import { verifyStream } from '../../migration/verify/verify.ts';
import type { RelayCheck } from '../../relay/check-tap.ts';
import { printStderr } from '../shell/stdio.ts';

/** What a relay is to check. */
export interface CheckRequest {
  /** False: nothing. Undefined: migration streams, if they go to a file or come over TLS. */
  check?: boolean | undefined;
  /** Path of a manifest to write. */
  manifest?: string | undefined;
  /**
   * Whether it comes over TLS, where an end that somebody else made must not pass for the stream's own:
   * then it is checked wherever it goes. Node tells no end that was announced from one that was not, and
   * QEMU announces none.
   */
  overTls?: boolean | undefined;
  quiet?: boolean | undefined;
}

/** Reads along with a relay. */
export interface CheckRun {
  readonly check: RelayCheck;
  /** Of the stream, once it has been read; null if none was wanted. */
  readonly manifest: () => Manifest | null;
}

/** Whether what goes to an endpoint becomes a file. */
function isFile(to: Uri): boolean {
  if (to.scheme !== 'file') return false;
  try {
    return statSync(to.path).isFile();
  } catch {
    return true;
  }
}

/** Gives what is to read along with a relay; undefined if nothing is. */
export function checkOf(to: Uri, wish: CheckRequest): CheckRun | undefined {
  const isAsked = wish.check === true || wish.manifest !== undefined;
  if (!isAsked && (wish.check === false || !(wish.overTls === true || isFile(to))))
    return undefined;
  let manifest: Manifest | null = null;
  const check: RelayCheck = async (stream) => {
    const chunks: AsyncIterator<Uint8Array, unknown> = stream[Symbol.asyncIterator]();
    const start = await firstBytes(chunks);
    if (sniffContainer(start)?.kind !== 'qevm' && !isBeginning(start)) {
      // A relay moves anything, compressed streams as well.
      if (!isAsked) return;
      const what = describeContainer(sniffContainer(start), start);
      const reason = `this is no bare migration stream, but ${what}`;
      throw new MigrationStreamError('not-a-stream', reason, { position: 0 });
    }
    manifest = await readAlong(resume(start, chunks), wish, isAsked);
  };
  return { check, manifest: () => manifest };
}

async function readAlong(
  stream: AsyncIterable<Uint8Array>,
  { manifest: path, quiet }: CheckRequest,
  isAsked: boolean,
): Promise<Manifest | null> {
  using kept = openScratchStore();
  const { faults, warnings, manifest } = await verifyStream(stream, {
    digests: path === undefined ? undefined : { store: kept.store },
    // A QEMU takes it without one, too.
    withoutDescription: true,
  });
  const [fault] = faults;
  // What is not known here may be all right: only who asked for a check must not go without one.
  if (fault !== undefined && (isAsked || fault.fault !== 'unsupported')) throw fault;
  if (quiet === true) return manifest;
  if (fault !== undefined) await printStderr(`not checked to its end: ${fault.message}`);
  for (const warning of warnings) await printStderr(warning);
  return manifest;
}

/** Whether this is the first part of what a stream begins with. */
function isBeginning(start: Uint8Array): boolean {
  return start.length < 4 && start.length > 0 && Buffer.from('QEVM').indexOf(start) === 0;
}

async function firstBytes(chunks: AsyncIterator<Uint8Array, unknown>): Promise<Uint8Array> {
  let start = Buffer.alloc(0);
  while (start.length < SNIFF_SIZE) {
    const next = await chunks.next();
    if (next.done === true) break;
    start = Buffer.concat([start, next.value]);
    if (sniffContainer(start) !== null) break;
  }
  return start;
}

async function* resume(
  start: Uint8Array,
  chunks: AsyncIterator<Uint8Array, unknown>,
): AsyncGenerator<Uint8Array, void> {
  if (start.length > 0) yield start;
  for (;;) {
    const next = await chunks.next();
    if (next.done === true) return;
    yield next.value;
  }
}

/** The fault of a stream that a relay failed for, if it did for one. */
export function streamFaultOf(error: unknown): MigrationStreamError | undefined {
  if (error instanceof MigrationStreamError) return error;
  const { cause } = error as Partial<QemuFileError>;
  return cause instanceof MigrationStreamError ? cause : undefined;
}
