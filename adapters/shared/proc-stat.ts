/** The fields of a process that Linux reports in `/proc/PID/stat`, as far as this package needs them. */
export interface ProcStat {
  /** True for a process that has exited and that its parent has not reaped yet. */
  isDead: boolean;
  /** Process group id. */
  processGroup: number;
  /** Clock ticks from the start of the system to that of the process, in decimal digits. */
  startTime: string;
}

/** The state letters of processes that have exited: dead and zombie. */
const DEAD_STATES: ReadonlySet<string> = new Set(['X', 'Z']);

/** Positions of fields after the command's name; proc(5) calls them 3, 5 and 22. */
const STATE = 0;
const PROCESS_GROUP = 2;
const START_TIME = 19;

/**
 * Parse the text of `/proc/PID/stat`.
 *
 * @param text - Empty for a process that cannot be read.
 * @returns The fields; undefined when the text is not one of these files.
 * @see proc(5)
 */
export function parseProcStat(text: string): ProcStat | undefined {
  // The second field is the command's name in parentheses, and the name may contain spaces and parentheses.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const startTime = fields[START_TIME] ?? '';
  if (!/^\d{1,20}$/.test(startTime)) return undefined;
  return {
    isDead: DEAD_STATES.has(fields[STATE] ?? ''),
    processGroup: Number(fields[PROCESS_GROUP]),
    startTime,
  };
}
