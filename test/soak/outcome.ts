/** The result of one trial. */
export interface Outcome {
  /** Description of the trial, with all random choices. */
  what: string;
  /** How it ended, in words that are counted. */
  how: string;
}
