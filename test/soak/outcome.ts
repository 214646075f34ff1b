/** The result of one trial. */
export interface Outcome {
  /** Description of the trial, with all random choices. */
  what: string;
  /** How it ended, in words that are counted. */
  how: string;
}

/** Carry out a trial; an error names what was tried. */
export async function attempt(what: string, carryOut: () => Promise<string>): Promise<Outcome> {
  try {
    return { what, how: await carryOut() };
  } catch (error) {
    throw new Error(`${what}: ${String(error)}`, { cause: error });
  }
}
