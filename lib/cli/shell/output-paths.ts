import { type Stats, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseUri } from '../../../adapters/uri.ts';

/** Options whose value is the path of a file that a command writes beside its main work. */
const OUTPUT_OPTIONS = ['raw', 'elf', 'flat', 'html', 'manifest', 'tee', 'record'] as const;

/** Options whose values are endpoints that a command reads. */
const INPUT_OPTIONS = ['channel', 'aChannel', 'bChannel'] as const;

/** Arguments that are endpoints which a command reads. */
const INPUT_ARGUMENTS: readonly string[] = ['from', 'a', 'b'];

/** A command line after it was parsed. */
export interface CommandLine {
  /** Name of the command. */
  readonly command: string;
  /** Its arguments by name. */
  readonly args: Readonly<Record<string, string>>;
  readonly flags: Readonly<Record<string, unknown>>;
}

/** A file that the command line names. */
interface NamedFile {
  /** As typed, with the option. */
  readonly text: string;
  /** Equal for two names of one file. */
  readonly identity: string;
}

/**
 * Return why an output of a command cannot be what the command line says; null if all can.
 * A file that is read must not be replaced: it may be the only copy of a guest.
 */
export function outputMistake({ command, args, flags }: CommandLine): string | null {
  const inputs: NamedFile[] = [];
  const outputs: NamedFile[] = [];
  for (const [name, text] of Object.entries(args)) {
    if (INPUT_ARGUMENTS.includes(name)) inputs.push(...namedEndpoint(text));
    if (name === 'to') outputs.push(...namedEndpoint(text));
    // An empty path, such as that of a variable that is not set, would mean the working directory.
    if (name === 'dir' && text === '') return '<dir> must not be empty';
  }
  for (const name of INPUT_OPTIONS) {
    const texts = flags[name];
    if (Array.isArray(texts)) for (const text of texts) inputs.push(...namedEndpoint(String(text)));
  }
  for (const name of OUTPUT_OPTIONS) {
    const path = flags[name];
    // The manifest of verify is an input.
    if (typeof path !== 'string' || (command === 'verify' && name === 'manifest')) continue;
    if (path === '-') return `--${name} needs the path of a file; write ./- for a file named "-"`;
    outputs.push(...namedFile(`--${name} ${path}`, path));
  }
  for (const [index, { text, identity }] of outputs.entries()) {
    if (inputs.some((input) => input.identity === identity)) {
      return `${text} is the file that is read: give another one`;
    }
    const earlier = outputs.slice(0, index).find((output) => output.identity === identity);
    if (earlier !== undefined) return `${earlier.text} and ${text} are one file: give another one`;
  }
  return null;
}

function namedEndpoint(text: string): NamedFile[] {
  try {
    const uri = parseUri(text);
    return uri.scheme === 'file' ? namedFile(text, uri.path) : [];
  } catch {
    // The command itself refuses it, or it is a snapshot in a store.
    return [];
  }
}

/** Return a file that is there or can be made; nothing for devices, pipes and directories. */
function namedFile(text: string, path: string): NamedFile[] {
  let stats: Stats | undefined;
  try {
    stats = statSync(path, { throwIfNoEntry: false });
  } catch {
    return [];
  }
  if (stats === undefined) return [{ text, identity: resolve(path) }];
  return stats.isFile() ? [{ text, identity: `${stats.dev}:${stats.ino}` }] : [];
}
