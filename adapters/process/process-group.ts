import fs from 'node:fs';
import { parseProcStat } from '../shared/proc-stat.ts';

/**
 * Send a signal to a process group.
 *
 * @param group - Process id of its leader.
 * @param signal - 0 sends nothing and only checks whether the group exists.
 * @returns Whether a process received it. Zombies count.
 */
export function signalGroup(group: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-group, signal);
  } catch {
    return false;
  }
}

/**
 * Return whether a process of a group is still running. Orphans in the group are reaped by process 1, which in a
 * container may do so late or never. On systems with a `/proc`, zombies therefore do not count.
 *
 * @param group - Process id of its leader.
 */
export async function isGroupAlive(group: number): Promise<boolean> {
  if (!signalGroup(group, 0)) return false;
  const names = await fs.promises.readdir('/proc').catch(() => []);
  const pids = names.filter((name) => /^\d+$/.test(name));
  if (pids.length === 0) return true;
  for (const pid of pids) {
    // The process may have exited since the directory was read.
    const text = await fs.promises.readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '');
    const stat = parseProcStat(text);
    if (stat !== undefined && stat.processGroup === group && !stat.isDead) return true;
  }
  return false;
}
