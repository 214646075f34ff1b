import type { Command } from 'commander';

/** Add the options of a command that may write a snapshot into a store. */
export function addStoreOptions(command: Command): Command {
  return command
    .option('--parent <name>', '<to> is a store: store only what this snapshot in it lacks')
    .option('--working-set <from>', '<to> is a store: pack the pages of this set together')
    .option('--replace', '<to> is a store: replace a snapshot of the same name');
}
