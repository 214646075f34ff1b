// Lists the machine types of QEMUs with the page size that lib/migration/ram/machine-page-sizes.ts has for them:
//   node --import tsx test/tables/machine-page-sizes.ts [qemu-system-* …]
// The page size of a target is TARGET_PAGE_BITS in target/<architecture>/cpu-param.h of QEMU's sources.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { pageSizeOfMachine } from '../../lib/migration/ram/machine-page-sizes.ts';

/** Return the names of a QEMU's machine types, as a stream's configuration has them. */
export function machinesOf(binary: string): string[] {
  const { stdout } = spawnSync(binary, ['-machine', 'help'], { encoding: 'utf8' });
  const lines = stdout.split('\n').slice(1);
  return lines.map((line) => line.split(' ')[0] ?? '').filter((name) => name !== '');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [...binaries] = process.argv.slice(2);
  for (const binary of binaries.length > 0 ? binaries : ['qemu-system-x86_64']) {
    for (const machine of machinesOf(binary)) {
      process.stdout.write(`${machine} ${pageSizeOfMachine(machine) ?? '-'}\n`);
    }
  }
}
