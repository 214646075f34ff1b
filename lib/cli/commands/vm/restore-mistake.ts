import { statSync } from 'node:fs';
import { isStoreUrl } from '../../../../adapters/storage/store-url.ts';
import { parseUri } from '../../../../adapters/uri.ts';
import type { RestoreFlags } from './restore-flags.ts';

/** Options that only a lazy restore has. */
const LAZY_ONLY = [
  'recover',
  'address',
  'preempt',
  'record',
  'recordInStore',
  'recordSeconds',
  'prefetch',
] as const;

function optionOf(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** Return the directory that an endpoint names; null if it is something else. */
export function templateDirectory(fromText: string): string | null {
  try {
    const uri = parseUri(fromText);
    const isDirectory = uri.scheme === 'file' && statSync(uri.path).isDirectory();
    return isDirectory ? uri.path : null;
  } catch {
    return null;
  }
}

/** Return why options do not fit what is restored, or each other; null if they do. */
export function restoreMistake(
  fromText: string,
  template: string | null,
  flags: RestoreFlags,
): string | null {
  const isLazy = flags.lazy === true || flags['lazy=auto'] === true;
  if (template !== null && (isLazy || flags.snapshot !== undefined)) {
    return `${fromText} is a template: remove --lazy and --snapshot`;
  }
  if (template === null && flags.verify === true) {
    return '--verify is for templates: use "qemu-file verify FILE"';
  }
  if (flags.recordInStore === true && !isStoreUrl(fromText)) {
    return `--record-in-store needs a snapshot in a store to restore from, not ${fromText}`;
  }
  const [stray] = LAZY_ONLY.filter((name) => flags[name] !== undefined);
  return isLazy || stray === undefined ? null : `--${optionOf(stray)} needs --lazy: add it`;
}
