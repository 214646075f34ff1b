import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import type { ExtractFlags } from './commands/extract.ts';
import type { InspectFlags } from './commands/inspect.ts';
import type { RelayFlags } from './commands/relay.ts';
import type { RestoreFlags } from './commands/restore.ts';
import type { SaveFlags } from './commands/save.ts';
import type { VerifyFlags } from './commands/verify.ts';
import { addTlsOptions } from './endpoints/tls-options.ts';
import { EXIT } from './shell/exit-codes.ts';
import { parseSize } from './shell/sizes.ts';
import { guardOutputs } from './shell/stdio.ts';

const ENDPOINTS = `
Endpoints are QEMU's own: <from> takes what QEMU's -incoming takes, <to> what its migrate takes.
  tcp:host:port          <from> listens (port 0: the system chooses), <to> connects;
                         IPv6 as in tcp:[::1]:4444; an empty host is this machine
  unix:path              <from> listens, <to> connects
  exec:command           standard output of a command, or its input
  fd:N                   a descriptor that was inherited
  file:path[,offset=N]   a file, a device or a FIFO; N as in 4096, 0x1000, 4k
  path                   the same, with neither offset nor a colon before its first slash
  -                      standard input or output
`;

const RELAY_NOTES = `${ENDPOINTS}
SIGUSR1 prints a line that says how far it is.

A file that is written appears under its name only when it is whole; a migration stream
that goes to a file must also be sound (--no-check: it need not be).

Exit codes: 0 done, 2 usage, 3 the input is not what it should be (empty, cut off, malformed),
4 input or output failed, 130 interrupted (128 + the signal's number).

Examples:
  qemu-file relay tcp:0.0.0.0:4444 tcp:otherhost:4444 --max-bandwidth 100MiB
  qemu-file relay unix:/run/migrate.sock guest.mig --digest
  qemu-file relay guest.mig "exec:gzip -c > guest.mig.gz"
  qemu-file relay unix:/run/from.sock tcp:otherhost:4444 --channels 9   (8 of multifd)
`;

/** More than QEMU's 255 of multifd, and those beside them. */
const MAX_CHANNELS = 1024;

const READ_NOTES = `${ENDPOINTS}
The stream may be compressed (gzip, zstd, xz, bzip2, lzop), in an image of libvirt's, or, in a
qcow2 image, the VM state of a snapshot.

Exit codes: 0 fine, 1 the stream is bad, 2 usage, 3 not a migration stream,
4 input or output failed, 130 interrupted (128 + the signal's number).
`;

const VM_NOTES = `${ENDPOINTS}
QEMU must run as the same user, with a monitor for programs: -qmp unix:PATH,server=on,wait=off.
Whatever fails, a guest that is saved goes on as before, and no file appears. Save to what
keeps the stream; towards a live destination use relay.

Exit codes: 0 done, 2 usage, 3 the stream is not what it should be, 4 anything else failed,
130 interrupted (128 + the signal's number).

Examples:
  qemu-file save --qmp /run/vm.qmp vm.mig.zst --compress zstd
  qemu-system-x86_64 … -incoming defer -qmp unix:/run/new.qmp,server=on,wait=off
  qemu-file restore --qmp /run/new.qmp vm.mig.zst
`;

function bandwidth(text: string): number {
  const size = parseSize(text);
  if (size !== undefined) return size;
  throw new InvalidArgumentError('Give bytes per second, such as 100MiB, 1.5G or 1048576.');
}

function connections(text: string): number {
  const count = /^\d{1,4}$/.test(text) ? Number(text) : 0;
  if (count >= 1 && count <= MAX_CHANNELS) return count;
  throw new InvalidArgumentError(`Give a number from 1 to ${MAX_CHANNELS}.`);
}

function collect(value: string, before: string[] = []): string[] {
  return [...before, value];
}

/** Adds a command that reads a stream, and the options that all of them have. */
function addReader(program: Command, name: string, description: string): Command {
  return program
    .command(name)
    .description(description)
    .argument('<from>', 'where the stream comes from')
    .option('--channel <file>', 'a further channel of the migration; may be repeated', collect)
    .option('--snapshot <name>', 'which snapshot of a qcow2 image, by name or id')
    .option('--json', 'print one JSON object')
    .option('--quiet', 'no progress and no messages but errors')
    .addHelpText('after', READ_NOTES);
}

function addRelay(program: Command, done: (code: number) => void): void {
  const command = program
    .command('relay')
    .description('Move a migration from one endpoint to another, return path included.')
    .argument('<from>', 'where it comes from')
    .argument('<to>', 'where it goes to')
    .option(
      '--max-bandwidth <size>',
      'bytes per second; k, M, G and T (also as MB or MiB) are powers of 1024; 0 is no limit',
      bandwidth,
    )
    .option(
      '--channels <n>',
      'connections that the migration may have: 1 + multifd-channels, 2 with postcopy-preempt',
      connections,
    )
    .option(
      '--control <path>',
      'take commands while it runs (status, max-bandwidth, stop) on a unix socket, or - for standard input',
    )
    .option('--digest', 'print XXH64 and number of bytes of each direction at the end')
    .option('--tee <file>', 'write a copy of what goes forward into a file, too')
    .option(
      '--check',
      'fail if it is no sound migration stream; by default only to a file, or if it comes over TLS',
    )
    .option('--no-check', 'do not look at what goes forward')
    .option('--manifest <file>', 'check, and write digests of sections and RAM blocks into a file')
    .option('--json', 'print the result as one JSON object at the end')
    .option('--quiet', 'no progress and no messages but errors');
  addTlsOptions(command, ['from', 'to'])
    .addHelpText('after', RELAY_NOTES)
    .action(async (from: string, to: string, flags: RelayFlags) => {
      const { runRelay } = await import('./commands/relay.ts');
      done(await runRelay(from, to, flags));
    });
}

function addReaders(program: Command, done: (code: number) => void): void {
  addReader(program, 'inspect', 'Show what a migration stream consists of.')
    .option('--device <name>', 'print the decoded state of one device (NAME or NAME/INSTANCE)')
    .option('--html <file>', 'write a report to look at in a browser')
    .option('--digest', 'XXH64 of what each RAM block holds in the end')
    .action(async (from: string, flags: InspectFlags) => {
      const { runInspect } = await import('./commands/inspect.ts');
      done(await runInspect(from, flags));
    });
  addReader(program, 'verify', 'Tell whether a migration stream is whole and well formed.')
    .option('--manifest <file>', 'compare with a manifest')
    .option('--all', 'go on after the first fault, where that can be done')
    .option(
      '--target <file>',
      'tell whether the QEMU that wrote this with -dump-vmstate would load it',
    )
    .option('--no-description', 'accept a stream without a VM description (suppress-vmdesc=on)')
    .action(async (from: string, flags: VerifyFlags) => {
      const { runVerify } = await import('./commands/verify.ts');
      done(await runVerify(from, flags));
    });
  addReader(program, 'extract', 'Get guest memory out of a migration stream.')
    .option('--block <name>', 'a RAM block, with --raw')
    .option('--raw <file>', 'its contents; with holes where they are zeros')
    .option('--all-blocks <dir>', 'the contents of all blocks, a file for each')
    .option('--elf <file>', 'an ELF core, at guest-physical addresses')
    .option('--manifest <file>', 'digests of the stream, its sections and RAM blocks')
    .action(async (from: string, flags: ExtractFlags) => {
      const { runExtract } = await import('./commands/extract.ts');
      done(await runExtract(from, flags));
    });
}

/** Adds a command that talks to a QEMU, and the options that both have. */
function addVmCommand(program: Command, name: string, description: string): Command {
  return program
    .command(name)
    .description(description)
    .requiredOption('--qmp <socket>', "QEMU's monitor: a path, unix:path or tcp:host:port")
    .option('--max-bandwidth <size>', 'bytes per second; 0, as without it, is no limit', bandwidth)
    .option('--no-check', 'do not look at the stream')
    .option('--json', 'print the result as one JSON object at the end')
    .option('--quiet', 'no progress and no messages but errors')
    .addHelpText('after', VM_NOTES);
}

function addVmCommands(program: Command, done: (code: number) => void): void {
  const save = addVmCommand(program, 'save', 'Save a running guest: all of it, or nothing.')
    .argument('<to>', 'where it goes to')
    .addOption(
      new Option('--compress <format>', 'compress the stream').choices(['gzip', 'zstd'] as const),
    )
    .option('--manifest <file>', 'write digests of sections and RAM blocks into a file')
    .option('--pause', 'stop the guest first; it is restored stopped, too')
    .option('--resume', 'let the guest run on here afterwards')
    .option('--keep-paused', 'leave the guest stopped afterwards, which is the default');
  addTlsOptions(save, ['to']).action(async (to: string, flags: SaveFlags) => {
    const { runSave } = await import('./commands/save.ts');
    done(await runSave(to, flags));
  });
  const restore = addVmCommand(
    program,
    'restore',
    'Load a guest into a QEMU started with -incoming defer.',
  )
    .argument('<from>', 'where it comes from')
    .option('--snapshot <name>', 'which snapshot of a qcow2 image, by name or id')
    .option('--resume', 'have the guest run, also if it was saved while it was stopped')
    .option('--keep-paused', 'leave the guest stopped, also if it ran when it was saved');
  addTlsOptions(restore, ['from']).action(async (from: string, flags: RestoreFlags) => {
    const { runRestore } = await import('./commands/restore.ts');
    done(await runRestore(from, flags));
  });
}

function makeProgram(version: string, done: (code: number) => void): Command {
  const program = new Command('qemu-file');
  program
    .description("Work with QEMU's migration channel.")
    .version(version, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .exitOverride();
  addRelay(program, done);
  addReaders(program, done);
  addVmCommands(program, done);
  return program;
}

/**
 * Runs the command.
 *
 * @param args - What follows the program's name.
 * @param version - Of this package.
 * @returns The exit code.
 */
export async function run(args: readonly string[], version: string): Promise<number> {
  let code: number = EXIT.DONE;
  const program = makeProgram(version, (result) => {
    code = result;
  });
  guardOutputs();
  try {
    await program.parseAsync(args, { from: 'user' });
    return code;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return error.exitCode === 0 ? EXIT.DONE : EXIT.USAGE;
  }
}
