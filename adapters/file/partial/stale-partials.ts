import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { type ProcStat, parseProcStat } from '../../shared/proc-stat.ts';
import type { PartialNames, Writer } from './partial-name.ts';

/*
 * A process that is killed leaves the partial file that it was writing. The next process that writes to the
 * same final name removes that file once it is certain that its writer is gone:
 *
 *   written in our scope       when its process no longer exists
 *   written in another scope   when its time stamp is a day old; the writer is on another machine with the same
 *                              file system, in another container, or ran before this machine was rebooted
 *   without a writer           never: the file was kept on purpose, or its writer could not be identified
 */

/** How often a writer updates the time stamp of its partial file, in milliseconds. */
export const TOUCH_INTERVAL_MS = 3_600_000;

/** Age of the time stamp at which a partial file from another scope is stale, in milliseconds. */
export const STALE_AFTER_MS: number = 24 * TOUCH_INTERVAL_MS;

let own: Writer | null | undefined;

/** Return this process as a writer; undefined on systems without a `/proc` that shows this process. */
export function ownWriter(): Writer | undefined {
  own ??= findOwn() ?? null;
  return own ?? undefined;
}

/**
 * Remove partial files whose writers are gone. Never fails: a file that cannot be removed stays.
 *
 * @param directory - Where they are.
 * @param names - The names of one final name.
 */
export async function removeStalePartials(directory: string, names: PartialNames): Promise<void> {
  const self = ownWriter();
  if (self === undefined) return;
  const entries = await fs.promises.readdir(directory).catch(() => []);
  for (const entry of entries) {
    const writer = names.writerOf(entry);
    if (writer === undefined) continue;
    try {
      const path = join(directory, entry);
      const stats = await fs.promises.lstat(path);
      if (!stats.isFile() || stats.uid !== process.geteuid?.()) continue;
      if (isWriterGone(writer, Date.now() - stats.mtimeMs, self)) await fs.promises.unlink(path);
    } catch {
      // Another process removed it first, or this process lacks the permission.
    }
  }
}

/**
 * Return whether the writer of a partial file is certainly gone.
 *
 * @param writer - From the file's name.
 * @param ageMs - Age of the file's time stamp, in milliseconds.
 * @param self - This process, from `ownWriter`.
 */
export function isWriterGone(writer: Writer, ageMs: number, self: Writer): boolean {
  if (writer.scope === self.scope) return !isAlive(writer);
  return ageMs > STALE_AFTER_MS;
}

function isAlive({ pid, startTime }: Writer): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as { code?: unknown }).code === 'ESRCH') return false;
  }
  const stat = readProcStat(pid);
  // A process that /proc hides from us may be alive.
  return stat === undefined || (stat.startTime === startTime && !stat.isDead);
}

function findOwn(): Writer | undefined {
  const { pid } = process;
  // kill(2) and /proc must be of the same pid namespace; otherwise /proc shows the wrong processes.
  if (readLink('/proc/self') !== String(pid)) return undefined;
  const stat = readProcStat(pid);
  const boot = readText('/proc/sys/kernel/random/boot_id');
  const pidNamespace = readLink('/proc/self/ns/pid');
  if (stat === undefined || boot === '' || pidNamespace === '') return undefined;
  // Start times differ between time namespaces, which old kernels do not have. Copies of a running virtual
  // machine may have nothing but their host names to distinguish them.
  const text = `${hostname()} ${boot} ${pidNamespace} ${readLink('/proc/self/ns/time')}`;
  const scope = createHash('sha256').update(text).digest('hex').slice(0, 8);
  return { scope, pid, startTime: stat.startTime };
}

function readProcStat(pid: number): ProcStat | undefined {
  return parseProcStat(readText(`/proc/${pid}/stat`));
}

function readText(path: string): string {
  try {
    return fs.readFileSync(path, 'latin1').trim();
  } catch {
    return '';
  }
}

function readLink(path: string): string {
  try {
    return fs.readlinkSync(path);
  } catch {
    return '';
  }
}
