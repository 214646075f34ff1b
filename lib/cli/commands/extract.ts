import { QemuFileError, toQemuFileError } from '../../contract/errors.ts';
import { BlockFiles, blockFilesIn } from '../../extract/block-files.ts';
import { GuestMemoryFile, type GuestMemoryOptions } from '../../extract/guest-memory-file.ts';
import type { Output } from '../../extract/output.ts';
import { openScratchStore } from '../../extract/scratch-store.ts';
import { MigrationStreamError } from '../../migration/format/stream-error.ts';
import { combineVisitors } from '../../migration/memory/combine-visitors.ts';
import { verifyStream } from '../../migration/verify/verify.ts';
import { loadDigest } from '../../util/digest.ts';
import type { OpenStream } from '../endpoints/open-stream.ts';
import { OutputError, UsageError, writeOutput } from '../shell/command-errors.ts';
import { EXIT, readExitCode } from '../shell/exit-codes.ts';
import { printStderr, writeText } from '../shell/stdio.ts';
import { type ReadFlags, readStream } from './read-command.ts';

/** Options of `qemu-file extract`. */
export interface ExtractFlags extends ReadFlags {
  /** Name of a RAM block. */
  block?: string;
  /** Path for the contents of that block. */
  raw?: string;
  /** Directory for the contents of all blocks. */
  allBlocks?: string;
  /** Path for an ELF core. */
  elf?: string;
  /** Path for a raw image of physical memory. */
  flat?: string;
  /** Guest-physical addresses of blocks, for `elf` and `flat`. */
  at?: ReadonlyMap<string, number>;
  /** Blocks of main memory in the order of their NUMA nodes, for `elf` and `flat`. */
  nodes?: readonly string[];
  /** Leave out blocks of guest memory whose addresses are unknown. */
  allowMissing?: boolean;
  /** Path for a manifest. */
  manifest?: string;
}

/**
 * Run `qemu-file extract`.
 *
 * @param fromText - The endpoint, as typed.
 * @returns The exit code.
 */
export async function runExtract(fromText: string, flags: ExtractFlags): Promise<number> {
  const mistake = usageMistake(flags);
  if (mistake !== null) {
    await printStderr(mistake);
    return EXIT.USAGE;
  }
  return readStream(fromText, flags, (stream, signal) => extract(fromText, stream, flags, signal));
}

function usageMistake({
  block,
  raw,
  allBlocks,
  elf,
  flat,
  manifest,
  ...flags
}: ExtractFlags): string | null {
  if ((block === undefined) !== (raw === undefined)) {
    return '--block NAME and --raw FILE need each other';
  }
  if ([raw, allBlocks, elf, flat, manifest].every((path) => path === undefined)) {
    return 'nothing to extract: give --block NAME --raw FILE, --all-blocks DIR, --elf FILE, --flat FILE or --manifest FILE';
  }
  const isPlaced = elf !== undefined || flat !== undefined;
  if (!isPlaced && (flags.at ?? flags.nodes ?? flags.allowMissing) !== undefined) {
    return '--at, --nodes and --allow-missing need --elf FILE or --flat FILE';
  }
  return null;
}

async function extract(
  fromText: string,
  { unwrapped, description, channels }: OpenStream,
  flags: ExtractFlags,
  signal: AbortSignal,
): Promise<number> {
  await loadDigest();
  using scratch = openScratchStore();
  const outputs: Output[] = [];
  try {
    await openOutputs(flags, outputs);
    const { file, fileOffset, seekable } = unwrapped;
    const { faults, warnings, blocks, configuration, manifest, isRamComplete } = await verifyStream(
      file,
      {
        pages: combineVisitors(outputs.map(({ visitor }) => visitor)),
        digests: flags.manifest === undefined ? undefined : { store: scratch.store },
        description,
        channels,
        fileOffset,
        seekable,
        // RAM pages do not depend on the VM description.
        withoutDescription: true,
        signal,
        onEvent: (event) => {
          for (const output of outputs) output.onEvent?.(event);
        },
      },
    );
    const [fault] = faults;
    const needsAll = flags.manifest !== undefined;
    if (fault !== undefined && (needsAll || !isRamComplete)) return await refuse(fromText, fault);
    if (flags.block !== undefined && !blocks.some(({ name }) => name === flags.block)) {
      const names = blocks.map(({ name }) => name).join(', ');
      throw new UsageError(
        `the stream has no RAM block ${JSON.stringify(flags.block)}; its blocks are ${names}`,
      );
    }
    const machine = configuration?.machine ?? null;
    const refused = prepare(outputs, machine);
    if (refused !== null) return await refuse(fromText, refused);
    const paths: string[] = [];
    for (const output of outputs) {
      const published = await output.publish(machine);
      paths.push(...published.paths);
      warnings.push(...published.warnings);
    }
    if (flags.manifest !== undefined) {
      await writeOutput(flags.manifest, `${JSON.stringify(manifest, null, 2)}\n`);
      paths.push(flags.manifest);
    }
    const code = await report(fromText, flags, paths, warnings);
    if (fault === undefined || code !== EXIT.DONE) return code;
    await printStderr(`${fromText}: ${fault.message}`);
    return readExitCode(fault);
  } finally {
    for (const output of outputs) await output.discard();
  }
}

/** Check that all outputs can be completed; return why not, if a stream lacks what they need. */
function prepare(outputs: readonly Output[], machine: string | null): MigrationStreamError | null {
  try {
    for (const output of outputs) output.prepare?.(machine);
    return null;
  } catch (error) {
    if (error instanceof MigrationStreamError) return error;
    if (error instanceof QemuFileError && error.code === 'EINVAL') {
      throw new UsageError(error.reason);
    }
    throw error;
  }
}

async function openOutputs(flags: ExtractFlags, outputs: Output[]): Promise<void> {
  const { block, raw, allBlocks, elf, flat, at, nodes, allowMissing } = flags;
  const options: GuestMemoryOptions = { at, nodes, allowMissing };
  if (raw !== undefined) outputs.push(new BlockFiles(({ name }) => (name === block ? raw : null)));
  const create = async (path: string, created: Promise<Output>): Promise<void> => {
    try {
      outputs.push(await created);
    } catch (error) {
      throw new OutputError(path, toQemuFileError(error));
    }
  };
  if (allBlocks !== undefined) await create(allBlocks, blockFilesIn(allBlocks));
  if (elf !== undefined) await create(elf, GuestMemoryFile.create(elf, 'elf', options));
  if (flat !== undefined) await create(flat, GuestMemoryFile.create(flat, 'flat', options));
}

async function refuse(fromText: string, fault: MigrationStreamError): Promise<number> {
  await printStderr(`${fromText}: ${fault.message}; nothing was extracted`);
  return readExitCode(fault);
}

async function report(
  fromText: string,
  { json, quiet }: ExtractFlags,
  paths: readonly string[],
  warnings: readonly string[],
): Promise<number> {
  if (quiet !== true) for (const warning of warnings) await printStderr(`${fromText}: ${warning}`);
  const text =
    json === true
      ? `${JSON.stringify({ from: fromText, files: paths, warnings })}\n`
      : paths.map((path) => `${path}\n`).join('');
  return (await writeText(process.stdout, text)) ? EXIT.DONE : EXIT.IO;
}
