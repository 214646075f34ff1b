import fs from 'node:fs';

/** What stands for a process that is dead already in `/proc/PID/stat`. */
const DEAD: ReadonlySet<string> = new Set(['X', 'Z']);

/**
 * Sends a signal to a process group.
 *
 * @param group - Process id of its leader.
 * @param signal - 0 only asks whether there is anyone to get one.
 * @returns Whether anyone got it. The dead that nobody has waited for yet count.
 */
export function signalGroup(group: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-group, signal);
  } catch {
    return false;
  }
}

/**
 * Says whether anyone in a process group is still alive. The orphans in it are waited for by process 1,
 * which in a container may take its time or never do it: so where there is a `/proc` they are looked at.
 *
 * @param group - Process id of its leader.
 */
export async function isGroupAlive(group: number): Promise<boolean> {
  if (!signalGroup(group, 0)) return false;
  const names = await fs.promises.readdir('/proc').catch(() => []);
  const processes = names.filter((name) => /^\d+$/.test(name));
  if (processes.length === 0) return true;
  for (const name of processes) {
    // A process may be gone by now.
    const stat = await fs.promises.readFile(`/proc/${name}/stat`, 'latin1').catch(() => '');
    // The name of the command, in parentheses, may hold anything.
    const [state = '', , own] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (own === String(group) && !DEAD.has(state)) return true;
  }
  return false;
}
