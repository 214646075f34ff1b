/** What came of one thing that was tried. */
export interface Outcome {
  /** What was done, with all that chance decided. */
  what: string;
  /** How it ended, in words that are counted. */
  how: string;
}
