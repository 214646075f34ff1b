import { Command, CommanderError, Option } from 'commander';
import type { DiffFlags } from './commands/diff/diff.ts';
import type { ExtractFlags } from './commands/extract.ts';
import type { InspectFlags } from './commands/inspect.ts';
import type { RelayFlags } from './commands/relay.ts';
import type { CompactFlags } from './commands/rewrite/compact.ts';
import type { ConvertFlags } from './commands/rewrite/convert.ts';
import type { VerifyFlags } from './commands/verify.ts';
import type { RestoreFlags } from './commands/vm/restore-flags.ts';
import type { SaveFlags } from './commands/vm/save.ts';
import type { TemplateFlags } from './commands/vm/template.ts';
import { addStoreOptions } from './endpoints/store-options.ts';
import { addTlsOptions } from './endpoints/tls/options.ts';
import {
  DIFF_HELP,
  PROGRAM_HELP,
  READ_EXAMPLES,
  READ_HELP,
  RELAY_HELP,
  VM_HELP,
  WRITE_HELP,
} from './help.ts';
import { addStore } from './program-store.ts';
import { EXIT } from './shell/exit-codes.ts';
import {
  collect,
  parseBandwidth,
  parseChannels,
  parsePlacement,
  parseRenaming,
  parseSeconds,
} from './shell/option-values.ts';
import { outputMistake } from './shell/output-paths.ts';
import { guardOutputs, writeText } from './shell/stdio.ts';

/** Add a command that reads a stream, with the options that all of them have. */
function addReader(program: Command, name: string, description: string): Command {
  const command = program
    .command(name)
    .description(description)
    .argument('<from>', 'the endpoint to read from')
    .option(
      '--channel <file>',
      'a further channel of the migration (multifd, postcopy-preempt); may be repeated',
      collect,
    )
    .option('--snapshot <name>', 'a snapshot of a qcow2 image, by name or ID');
  return addTlsOptions(command, ['from'])
    .option('--json', 'print one JSON object')
    .option('--quiet', 'print errors only')
    .addHelpText('after', `${READ_HELP}${READ_EXAMPLES[name] ?? ''}`);
}

function addRelay(program: Command, done: (code: number) => void): void {
  const command = program
    .command('relay')
    .description('Move a migration from one endpoint to another, including the return path.')
    .argument('<from>', 'the endpoint to read from')
    .argument('<to>', 'the endpoint to write to')
    .option(
      '--max-bandwidth <size>',
      'bytes per second; k, M, G and T (also MB or MiB) are powers of 1024; 0 means no limit',
      parseBandwidth,
    )
    .option(
      '--channels <n>',
      'greatest number of connections: 1 + multifd-channels, 2 with postcopy-preempt',
      parseChannels,
    )
    .option(
      '--control <path>',
      'read commands (status, max-bandwidth, stop) from a unix socket, or from standard input (-)',
    )
    .option('--digest', 'print the XXH64 and the number of bytes of each direction at the end')
    .option('--tee <file>', 'also write the forward direction to a file')
    .option(
      '--check',
      'fail if the stream is not valid; the default if it goes to a file or comes over TLS',
    )
    .option('--no-check', 'do not check the stream')
    .option(
      '--manifest <file>',
      'check the stream, and write digests of its sections and RAM blocks to a file',
    )
    .option('--json', 'print the result as one JSON object at the end')
    .option('--quiet', 'print errors only');
  addTlsOptions(addStoreOptions(command), ['from', 'to'])
    .addHelpText('after', RELAY_HELP)
    .action(async (from: string, to: string, flags: RelayFlags) => {
      const { runRelay } = await import('./commands/relay.ts');
      done(await runRelay(from, to, flags));
    });
}

function addInspect(program: Command, done: (code: number) => void): void {
  addReader(program, 'inspect', 'Show the contents of a migration stream.')
    .option('--device <name>', 'print the decoded state of one device (NAME or NAME/INSTANCE)')
    .option('--html <file>', 'write a report for a browser')
    .option('--digest', 'print the XXH64 of the final contents of each RAM block')
    .option('--snapshots', 'list the snapshots of a qcow2 image')
    .option('--xml', 'print the domain XML and the cookie in a save image of libvirt')
    // A flag of its own: an optional value of --json would take the endpoint after it.
    .option('--json=full', 'print one JSON object with every PART of each section')
    .action(async (from: string, flags: InspectFlags) => {
      const { runInspect } = await import('./commands/inspect.ts');
      const json = flags.json === true || flags['json=full'] === true;
      done(await runInspect(from, { ...flags, json }));
    });
}

function addVerify(program: Command, done: (code: number) => void): void {
  addReader(program, 'verify', 'Check that a migration stream is complete and valid.')
    .option('--manifest <file>', 'compare the stream with a manifest')
    .option('--all', 'continue after the first fault where possible')
    .option(
      '--target <file>',
      'check that the QEMU that wrote this file with -dump-vmstate would load the stream',
    )
    .option(
      '--qmp <socket>',
      'compare the stream with the QEMU at this monitor, which is to load it (-incoming defer)',
    )
    .option('--no-description', 'accept a stream without a VM description (suppress-vmdesc=on)')
    .action(async (from: string, flags: VerifyFlags) => {
      const { runVerify } = await import('./commands/verify.ts');
      done(await runVerify(from, flags));
    });
}

function addExtract(program: Command, done: (code: number) => void): void {
  addReader(program, 'extract', 'Write the guest memory in a migration stream to files.')
    .option('--block <name>', 'the RAM block for --raw')
    .option('--raw <file>', 'write the contents of that block, with holes for zeros')
    .option('--all-blocks <dir>', 'write the contents of all blocks, one file for each')
    .option('--elf <file>', 'write an ELF core with guest-physical addresses')
    .option('--flat <file>', 'write a raw image of physical memory: file offset = address')
    .option(
      '--at <block=address>',
      'for --elf and --flat: guest-physical address of a RAM block; repeatable',
      parsePlacement,
    )
    .option(
      '--nodes <names>',
      'for --elf and --flat: blocks of main memory in the order of their NUMA nodes, such as m0,m1',
      (text: string) => text.split(','),
    )
    .option('--allow-missing', 'leave out blocks of guest memory whose addresses are unknown')
    .option('--manifest <file>', 'write digests of the stream, its sections and RAM blocks')
    .action(async (from: string, flags: ExtractFlags) => {
      const { runExtract } = await import('./commands/extract.ts');
      done(await runExtract(from, flags));
    });
}

function addTemplate(program: Command, done: (code: number) => void): void {
  addReader(program, 'template', 'Make a template of a guest, whose clones share its memory.')
    .argument('<dir>', 'the directory to make; absent or empty')
    .option(
      '--block <name>',
      'a RAM block that clones map, instead of those chosen by rule; repeatable, in the order of NUMA nodes',
      collect,
    )
    .action(async (from: string, dir: string, flags: TemplateFlags) => {
      const { runTemplate } = await import('./commands/vm/template.ts');
      done(await runTemplate(from, dir, flags));
    });
}

function addDiff(program: Command, done: (code: number) => void): void {
  const command = program
    .command('diff')
    .description('Compare the guests of two migration streams: devices and memory.')
    .argument('<a>', 'the endpoint of the first stream')
    .argument('<b>', 'the endpoint of the second stream')
    .option(
      '--ignore <glob>',
      'leave out differences of fields whose DEVICE.FIELD matches; * and ? are wildcards; repeatable',
      collect,
    )
    .option('--html <file>', 'write a report for a browser')
    .option('--a-channel <file>', 'a further channel of the first stream; repeatable', collect)
    .option('--b-channel <file>', 'a further channel of the second stream; repeatable', collect)
    .option('--a-snapshot <name>', 'a snapshot of the qcow2 image <a>, by name or ID')
    .option('--b-snapshot <name>', 'a snapshot of the qcow2 image <b>, by name or ID');
  addTlsOptions(command, ['from'])
    .option('--json', 'print one JSON object')
    .option('--quiet', 'print errors only')
    .addHelpText('after', DIFF_HELP)
    .action(async (a: string, b: string, flags: DiffFlags) => {
      const { runDiff } = await import('./commands/diff/diff.ts');
      done(await runDiff(a, b, flags));
    });
}

/** Add a command that reads a stream and writes another, with the options that all of them have. */
function addWriter(program: Command, name: string, description: string): Command {
  const command = program
    .command(name)
    .description(description)
    .argument('<from>', 'the endpoint to read from')
    .argument('<to>', 'the endpoint to write to')
    .option(
      '--channel <file>',
      'a further channel of the migration (multifd, postcopy-preempt); may be repeated',
      collect,
    )
    .option('--snapshot <name>', 'a snapshot of a qcow2 image, by name or ID');
  return addTlsOptions(addStoreOptions(command), ['from', 'to'])
    .addOption(
      new Option(
        '--layout <layout>',
        'where pages lie: in one sequence, or each at its place in a file (QEMU 9.0 and later)',
      ).choices(['sequential', 'mapped-ram'] as const),
    )
    .addOption(
      new Option('--compress <format>', 'compress the stream').choices(['gzip', 'zstd'] as const),
    )
    .option('--json', 'print one JSON object')
    .option('--quiet', 'print errors only')
    .addHelpText('after', WRITE_HELP);
}

function addConvert(program: Command, done: (code: number) => void): void {
  addWriter(
    program,
    'convert',
    'Write a stream again, byte for byte but for what the options change.',
  )
    .option(
      '--rename-block <old=new>',
      'give a RAM block another name; may be repeated',
      parseRenaming,
    )
    .option('--drop-description', 'leave out the VM description')
    .option(
      '--set <device.field=value>',
      'change a field of a device, as inspect --device shows it; may be repeated',
      (text: string, earlier: readonly string[] = []) => [...earlier, text],
    )
    .action(async (from: string, to: string, flags: ConvertFlags) => {
      const { runConvert } = await import('./commands/rewrite/convert.ts');
      done(await runConvert(from, to, flags));
    });
}

function addCompact(program: Command, done: (code: number) => void): void {
  addWriter(
    program,
    'compact',
    'Write a stream again with each page once, its last content.',
  ).action(async (from: string, to: string, flags: CompactFlags) => {
    const { runCompact } = await import('./commands/rewrite/compact.ts');
    done(await runCompact(from, to, flags));
  });
}

/** Add a command that controls a QEMU, with the options that both have. */
function addVmCommand(program: Command, name: string, description: string): Command {
  return program
    .command(name)
    .description(description)
    .requiredOption(
      '--qmp <socket>',
      "QEMU's QMP monitor: a path, unix:path or tcp:host:port (required)",
    )
    .option(
      '--max-bandwidth <size>',
      'bytes per second; 0, the default, means no limit',
      parseBandwidth,
    )
    .option('--no-check', 'do not check the stream')
    .option('--json', 'print the result as one JSON object at the end')
    .option('--quiet', 'print errors only')
    .addHelpText('after', VM_HELP);
}

function addSave(program: Command, done: (code: number) => void): void {
  const save = addVmCommand(program, 'save', 'Save a running guest, completely or not at all.')
    .argument('<to>', 'the endpoint to write to')
    .addOption(
      new Option('--compress <format>', 'compress the stream').choices(['gzip', 'zstd'] as const),
    )
    .addOption(
      new Option('--layout <layout>', 'where pages lie, as for convert').choices([
        'sequential',
        'mapped-ram',
      ] as const),
    )
    .option('--manifest <file>', 'write digests of sections and RAM blocks to a file')
    .option('--index', 'write an index of the pages beside the stream, for restore --lazy')
    .option('--pause', 'stop the guest first; a restored guest is then stopped as well')
    .option('--resume', 'let the guest continue here afterwards')
    .option('--keep-paused', 'leave the guest stopped afterwards (the default)');
  addTlsOptions(addStoreOptions(save), ['to']).action(async (to: string, flags: SaveFlags) => {
    const { runSave } = await import('./commands/vm/save.ts');
    done(await runSave(to, flags));
  });
}

function addRestore(program: Command, done: (code: number) => void): void {
  const restore = addVmCommand(
    program,
    'restore',
    'Load a guest into a QEMU started with -incoming defer.',
  )
    .argument('<from>', 'the endpoint to read from, or the directory of a template')
    .option('--snapshot <name>', 'a snapshot of a qcow2 image, by name or ID')
    .option('--lazy', 'run the guest at once, and fetch its memory when it is needed (postcopy)')
    // A flag of its own: an optional value of --lazy would take the endpoint after it.
    .option('--lazy=auto', 'the same where it is possible, else an ordinary restore')
    .option('--recover', 'with --lazy: go on with a restore whose qemu-file or connection died')
    .option(
      '--address <uri>',
      'with --lazy: where QEMU listens, tcp: or unix:, with the TLS options of <to>; default private',
    )
    .option('--preempt', 'with --lazy: pages that are asked for come over a second connection')
    .option('--record <file>', 'with --lazy: write which pages were asked for at first')
    .option('--record-in-store', 'the same: keep them with <from>, a snapshot in a store')
    .option(
      '--record-seconds <n>',
      'seconds to record before the rest follows; default 10',
      parseSeconds,
    )
    .option('--prefetch <file>', 'with --lazy: send the pages that --record wrote first')
    .option('--verify', 'of a template: read its memory and compare its digests first')
    .option('--resume', 'run the guest, even if it was stopped when it was saved')
    .option('--keep-paused', 'leave the guest stopped, even if it was running when it was saved');
  addTlsOptions(restore, ['from', 'to']).action(async (from: string, flags: RestoreFlags) => {
    // A guest that is restored lazily runs sooner without the modules of other restores.
    if (flags.lazy === true || flags['lazy=auto'] === true) {
      const { runRestoreLazily } = await import('./commands/vm/restore-lazily.ts');
      const code = await runRestoreLazily(from, flags);
      if (code !== null) {
        done(code);
        return;
      }
    }
    const { runRestore } = await import('./commands/vm/restore.ts');
    done(await runRestore(from, flags));
  });
}

const VERSION_FLAGS: readonly string[] = ['-V', '--version'];

/** The commands in the order of `--help`. */
const COMMANDS: Readonly<Record<string, (program: Command, done: (code: number) => void) => void>> =
  {
    save: addSave,
    restore: addRestore,
    relay: addRelay,
    inspect: addInspect,
    verify: addVerify,
    extract: addExtract,
    convert: addConvert,
    compact: addCompact,
    diff: addDiff,
    template: addTemplate,
    store: addStore,
  };

/**
 * Make the program.
 *
 * @param args - If the first is a command, the other commands are left out: making them takes a few milliseconds.
 * @param version - Called only if it is asked for: it reads a file.
 * @param writeOut - Called with the text of `--help`.
 */
function makeProgram(
  args: readonly string[],
  version: () => string,
  done: (code: number) => void,
  writeOut: (text: string) => void,
): Command {
  const program = new Command('qemu-file');
  const isVersionAsked = args.some((arg) => VERSION_FLAGS.includes(arg));
  program
    .description(
      'Save, restore, clone and relay QEMU guests; inspect, verify, compare and extract their streams.',
    )
    .version(isVersionAsked ? version() : '', VERSION_FLAGS.join(', '), 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand('help [command]', 'print the help of a command')
    .addHelpText('after', PROGRAM_HELP)
    .exitOverride()
    .configureOutput({ writeOut })
    .hook('preAction', (_, command) => refuseOutputs(command));
  const [name = ''] = args;
  const names = Object.hasOwn(COMMANDS, name) ? [name] : Object.keys(COMMANDS);
  for (const one of names) COMMANDS[one]?.(program, done);
  return program;
}

/** End the command if one of its outputs is one of its inputs, or another output. */
function refuseOutputs(command: Command): void {
  const args: Record<string, string> = {};
  for (const [index, argument] of command.registeredArguments.entries()) {
    const text: unknown = command.args[index];
    if (typeof text === 'string') args[argument.name()] = text;
  }
  const mistake = outputMistake({ command: command.name(), args, flags: command.opts() });
  if (mistake !== null) command.error(`qemu-file: ${mistake}`);
}

/**
 * Run the command.
 *
 * @param args - The arguments after the program's name.
 * @param version - Returns the version of this package.
 * @returns The exit code.
 */
export async function run(args: readonly string[], version: () => string): Promise<number> {
  let code: number = EXIT.DONE;
  let help = '';
  const program = makeProgram(
    args,
    version,
    (result) => {
      code = result;
    },
    (text) => {
      help += text;
    },
  );
  guardOutputs();
  try {
    await program.parseAsync(args, { from: 'user' });
    return code;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode !== 0) return EXIT.USAGE;
    return (await writeText(process.stdout, help)) ? EXIT.DONE : EXIT.IO;
  }
}
