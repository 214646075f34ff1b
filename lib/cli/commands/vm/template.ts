import { toQemuFileError } from '../../../contract/errors.ts';
import { openScratchStore } from '../../../extract/scratch-store.ts';
import { shellWord } from '../../../util/format.ts';
import { makeTemplate } from '../../../vm/template/make-template.ts';
import type { Template } from '../../../vm/template/template-file.ts';
import { sizeOf } from '../../endpoints/open-endpoints.ts';
import { openGuest } from '../../endpoints/open-guest.ts';
import { reportUnreadable } from '../../endpoints/tls/read-from-tls.ts';
import { EXIT, readExitCode, SIGNAL_EXITS, SignalAbort } from '../../shell/exit-codes.ts';
import { type Measure, Meter } from '../../shell/progress.ts';
import { showSize } from '../../shell/sizes.ts';
import { printStderr, writeText } from '../../shell/stdio.ts';
import { type Input, parseInput, type ReadFlags } from '../read-command.ts';

/** Options of `qemu-file template`. */
export interface TemplateFlags extends ReadFlags {
  /** Names of the RAM blocks that clones map. */
  block?: readonly string[];
}

/** What clones of one template share that they should not, and what to do. */
const SHARED = [
  'MAC addresses: give each clone its own network, or change the address inside it; the saved state has the old one',
  'UUID, host name, /etc/machine-id, SSH host keys: change them inside each clone',
  'entropy: start the source and each clone with -device vmgenid,guid=auto, so that the kernel reseeds /dev/urandom; otherwise write to /dev/urandom inside each clone',
  'clocks: the wall clock goes on from the save; set it inside each clone (hwclock -s, chronyc makestep, guest-set-time of the guest agent)',
  'disk images: give each clone an overlay of its own (qemu-img create -b) on the images as they were at the save',
  'network connections and leases: they are those of the source; renew them',
];

/**
 * Run `qemu-file template`.
 *
 * @param fromText - The endpoint, as typed.
 * @param directory - The template to make.
 * @returns The exit code.
 */
export async function runTemplate(
  fromText: string,
  directory: string,
  flags: TemplateFlags,
): Promise<number> {
  let input: Input;
  try {
    input = await parseInput(fromText, flags);
  } catch (error) {
    return reportUnreadable(error);
  }
  const quiet = flags.quiet === true;
  using scratch = openScratchStore();
  using interruption = new SignalAbort();
  const { signal } = interruption;
  let meter: Meter | undefined;
  try {
    const choice = { ...input, snapshot: flags.snapshot, signal, quiet };
    let reading: Promise<Meter | undefined> | undefined;
    const guest = await openGuest(choice, scratch, (outer) => {
      const measure = (): Measure => ({ bytes: outer.getPosition, limitedMs: 0 });
      reading = Meter.start(measure, sizeOf(input.from, outer), quiet);
    }).finally(async () => (await reading)?.stop());
    try {
      let bytes = 0;
      meter = await Meter.start(() => ({ bytes, limitedMs: 0 }), undefined, quiet);
      const template = await makeTemplate(guest, directory, {
        blocks: flags.block,
        signal,
        onProgress: (count) => {
          bytes += count;
        },
      });
      meter?.stop();
      return (await report(fromText, directory, template, flags)) ? EXIT.DONE : EXIT.IO;
    } finally {
      await guest.close();
    }
  } catch (error) {
    meter?.stop();
    const { by } = interruption;
    if (by !== undefined) {
      await printStderr(`interrupted by ${by}; there is no template`);
      return SIGNAL_EXITS[by];
    }
    const failure = toQemuFileError(error);
    await printStderr(`${fromText}: ${failure.message}`);
    const isUsage = failure.operation === 'makeTemplate' && /EINVAL|EEXIST/.test(failure.code);
    return isUsage ? EXIT.USAGE : readExitCode(failure);
  }
}

async function report(
  from: string,
  directory: string,
  template: Template,
  { json, quiet }: TemplateFlags,
): Promise<boolean> {
  if (json === true) {
    const object = { from, directory, ...template, notes: SHARED };
    return writeText(process.stdout, `${JSON.stringify(object)}\n`);
  }
  if (quiet === true) return true;
  const { blocks, state } = template;
  const mapped = blocks.map(({ name, bytes }) => `${name} (${showSize(bytes)})`).join(', ');
  const words = [...template.arguments, '-incoming', 'defer'];
  const text = `${directory}: clones map ${mapped}; the rest of the guest is a stream of ${showSize(state.bytes)}

Start each clone as the source was started, with these arguments in place of its machine, memory and memory backends:

${argumentLines(words)}
  -qmp unix:CLONE.qmp,server=on,wait=off

and give it its state:

  qemu-file restore --qmp CLONE.qmp ${shellWord(directory)}

The files in ${shellWord(directory)} must not change while a clone lives. Clones are twins. They share, until you change it:

${SHARED.map((line) => `  ${line}`).join('\n')}
`;
  return writeText(process.stdout, text);
}

/** Return arguments as lines of a shell's command, an option in each. */
function argumentLines(words: readonly string[]): string {
  const lines: string[] = [];
  for (const word of words) {
    if (word.startsWith('-') || lines.length === 0) lines.push(`  ${shellWord(word)}`);
    else lines.push(`${lines.pop()} ${shellWord(word)}`);
  }
  return lines.map((line) => `${line} \\`).join('\n');
}
