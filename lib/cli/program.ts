import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { EXIT } from './exit.ts';
import type { RelayFlags } from './relay.ts';
import { parseSize } from './sizes.ts';
import { guardOutputs } from './text.ts';

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

A file that is written appears under its name only when it is whole.

Exit codes: 0 done, 2 usage, 3 the input is not what it should be (such as empty),
4 input or output failed, 130 interrupted (128 + the signal's number).

Examples:
  qemu-file relay tcp:0.0.0.0:4444 tcp:otherhost:4444 --max-bandwidth 100MiB
  qemu-file relay unix:/run/migrate.sock guest.mig --digest
  qemu-file relay guest.mig "exec:gzip -c > guest.mig.gz"
`;

function bandwidth(text: string): number {
  const size = parseSize(text);
  if (size !== undefined) return size;
  throw new InvalidArgumentError('Give bytes per second, such as 100MiB, 1.5G or 1048576.');
}

function makeProgram(version: string, done: (code: number) => void): Command {
  const program = new Command('qemu-file');
  program
    .description("Work with QEMU's migration channel.")
    .version(version, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .exitOverride();
  program
    .command('relay')
    .description('Move a migration from one endpoint to another, return path included.')
    .argument('<from>', 'where it comes from')
    .argument('<to>', 'where it goes to')
    .option(
      '--max-bandwidth <size>',
      'bytes per second; k, M, G and T (also as MB or MiB) are powers of 1024; 0 is no limit',
      bandwidth,
    )
    .option('--digest', 'print XXH64 and number of bytes of each direction at the end')
    .option('--tee <file>', 'write a copy of what goes forward into a file, too')
    .option('--json', 'print the result as one JSON object at the end')
    .option('--quiet', 'no progress and no messages but errors')
    .addHelpText('after', ENDPOINTS)
    .action(async (from: string, to: string, flags: RelayFlags) => {
      const { runRelay } = await import('./relay.ts');
      done(await runRelay(from, to, flags));
    });
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
