import { type Command, InvalidArgumentError } from 'commander';
import type { StoreCommandFlags } from './commands/store/store-command.ts';
import { STORE_HELP } from './help.ts';

/** Parse a length of time: `24h`, `30m`, `10s` or `7d`; `0` is none. */
function parseGrace(text: string): number {
  const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)([smhd]?)$/.exec(text) ?? [];
  const scale = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }[unit];
  if (digits !== undefined && scale !== undefined) return Number(digits) * scale;
  if (Number(digits) === 0) return 0;
  throw new InvalidArgumentError('write a time as 24h, 30m, 10s, 7d or 0');
}

/** Add the commands for snapshot stores. */
export function addStore(program: Command, done: (code: number) => void): void {
  const store = program
    .command('store')
    .description('List, copy, check and clean snapshot stores.')
    .helpCommand('help [command]', 'print the help of a command')
    .addHelpText('after', STORE_HELP);
  const add = (name: string, argument: string, description: string): Command =>
    store
      .command(name)
      .description(description)
      .argument(argument, argument.includes('#') ? 'the snapshot' : 'the store')
      .option('--json', 'print JSON')
      .option('--quiet', 'print errors only')
      .addHelpText('after', STORE_HELP);
  add('ls', '<url>', 'List the snapshots of a store.').action(
    async (url: string, flags: StoreCommandFlags) => {
      const { runStoreList } = await import('./commands/store/list.ts');
      done(await runStoreList(url, flags));
    },
  );
  add('show', '<url#name>', 'Show what a snapshot consists of.').action(
    async (url: string, flags: StoreCommandFlags) => {
      const { runStoreShow } = await import('./commands/store/list.ts');
      done(await runStoreShow(url, flags));
    },
  );
  add('rm', '<url#name>', 'Remove a snapshot; its children stay whole.').action(
    async (url: string, flags: StoreCommandFlags) => {
      const { runStoreRemove } = await import('./commands/store/copy.ts');
      done(await runStoreRemove(url, flags));
    },
  );
  add('copy', '<url#name>', 'Copy a snapshot: only what the other store lacks.')
    .argument('<to>', 'the other store; #NAME gives the copy another name')
    .option('--replace', 'replace a snapshot of the same name')
    .action(async (url: string, to: string, flags: StoreCommandFlags) => {
      const { runStoreCopy } = await import('./commands/store/copy.ts');
      done(await runStoreCopy(url, to, flags));
    });
  add('gc', '<url>', 'Remove what no snapshot needs.')
    .option(
      '--grace <time>',
      'remove only what is as old as this: 24h (the default), 30m, 10s, 7d, 0',
      parseGrace,
    )
    .option('--dry-run', 'report what would be removed, and remove nothing')
    .action(async (url: string, flags: StoreCommandFlags) => {
      const { runStoreGc } = await import('./commands/store/maintain.ts');
      done(await runStoreGc(url, flags));
    });
  add('fsck', '<url>', 'Check that all objects are there and whole.')
    .option('--deep', 'compare every byte with its digest')
    .action(async (url: string, flags: StoreCommandFlags) => {
      const { runStoreFsck } = await import('./commands/store/maintain.ts');
      done(await runStoreFsck(url, flags));
    });
}
