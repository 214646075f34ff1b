import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { PartialNames, Writer } from './partial-name.ts';

/*
 * A process that is killed leaves the file behind that it was writing. The next one that writes to the same
 * name removes it, if it can be sure that nobody writes it any more:
 *
 *   written in our scope        when there is no such process
 *   written in another one      when nobody has touched it for a day: another machine with the same file
 *                               system, another container, or this machine before it was started anew
 *   without a writer's name     never: it was kept on purpose, or there was no telling who writes
 */

/** What stands for a process that is dead already in `/proc/PID/stat`. */
const DEAD: ReadonlySet<string> = new Set(['X', 'Z']);

/** How often a file that is being written is touched, so that others see that it is. */
export const TOUCH_MS = 3_600_000;

/** How long it takes until a file that nobody touches is left over. */
const UNTOUCHED_MS = 24 * TOUCH_MS;

let own: Writer | null | undefined;

/** Gives this process as others can know it; undefined where there is no `/proc`, or another's. */
export function ownWriter(): Writer | undefined {
  own ??= findOwn() ?? null;
  return own ?? undefined;
}

/**
 * Removes files that nobody will give their final name any more. Never fails: what cannot be removed stays.
 *
 * @param directory - Where they are.
 * @param names - Those of one final name.
 */
export async function removeStalePartials(directory: string, names: PartialNames): Promise<void> {
  const writer = ownWriter();
  if (writer === undefined) return;
  const entries = await fs.promises.readdir(directory).catch(() => []);
  for (const entry of entries) {
    const other = names.writerOf(entry);
    if (other === undefined) continue;
    try {
      const path = join(directory, entry);
      const stats = await fs.promises.lstat(path);
      if (!stats.isFile() || stats.uid !== process.geteuid?.()) continue;
      if (isStale(other, stats, writer)) await fs.promises.unlink(path);
    } catch {
      // Somebody else was faster, or may and can do what we cannot.
    }
  }
}

function isStale(writer: Writer, stats: fs.Stats, self: Writer): boolean {
  if (writer.scope === self.scope) return !isAlive(writer);
  return Date.now() - stats.mtimeMs > UNTOUCHED_MS;
}

function isAlive({ pid, startTime }: Writer): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as { code?: unknown }).code === 'ESRCH') return false;
  }
  const seen = processOf(String(pid));
  // What is hidden from us may well live.
  return seen === undefined || (seen.startTime === startTime && !DEAD.has(seen.state));
}

function findOwn(): Writer | undefined {
  const pid = String(process.pid);
  // A `/proc` of other processes than those that we can send signals to would tell about the wrong ones.
  if (linkAt('/proc/self') !== pid) return undefined;
  const seen = processOf(pid);
  const boot = textOf('/proc/sys/kernel/random/boot_id');
  const processes = linkAt('/proc/self/ns/pid');
  if (seen === undefined || boot === '' || processes === '') return undefined;
  // Start times look different from other time namespaces; old kernels have none. Copies of one running
  // machine may differ in nothing but their names.
  const text = `${hostname()} ${boot} ${processes} ${linkAt('/proc/self/ns/time')}`;
  const scope = createHash('sha256').update(text).digest('hex').slice(0, 8);
  return { scope, pid: process.pid, startTime: seen.startTime };
}

/** Looks at a process; undefined if it cannot be seen. */
function processOf(pid: string): { state: string; startTime: string } | undefined {
  const stat = textOf(`/proc/${pid}/stat`);
  // The name of the command, in parentheses, may hold anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state = ''] = fields;
  // The 22nd of all, of which two come before.
  const startTime = fields[19] ?? '';
  return /^\d{1,20}$/.test(startTime) ? { state, startTime } : undefined;
}

function textOf(path: string): string {
  try {
    return fs.readFileSync(path, 'latin1').trim();
  } catch {
    return '';
  }
}

function linkAt(path: string): string {
  try {
    return fs.readlinkSync(path);
  } catch {
    return '';
  }
}
