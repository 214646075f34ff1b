// Compares the table of boards with the QEMUs that are installed:
//   node --import tsx test/tables/boards.ts [DIRECTORY of qemu-system-*] [QEMU option …]
// Options such as `-L firmware` are passed on. Boards that QEMU cannot start without a kernel are skipped.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';
import { findBoard } from '../../lib/migration/memory/boards.ts';
import { guestMap } from '../../lib/migration/memory/guest-map.ts';

interface View {
  readonly blocks: { name: string; usedLength: number }[];
  /** Address and offset of each range of RAM, by block, as the flat view of address space "memory" has it. */
  readonly ranges: Map<string, { address: number; at: number }[]>;
}

function machinesOf(binary: string): string[] {
  const { stdout } = spawnSync(binary, ['-machine', 'help'], { encoding: 'utf8' });
  const lines = stdout.split('\n').slice(1);
  const names = lines.map((line) => line.split(' ')[0] ?? '');
  return names.filter((name) => name !== '' && name !== 'none');
}

/** Start a machine, stopped, and read its memory map; null if it does not start. */
function viewOf(binary: string, machine: string, options: readonly string[]): View | null {
  const args = ['-M', machine, '-S', '-nodefaults', '-display', 'none', '-monitor', 'stdio'];
  const { stdout } = spawnSync(binary, [...args, '-accel', 'tcg', ...options], {
    encoding: 'utf8',
    input: 'info mtree -f\ninfo ramblock\nquit\n',
    timeout: 20_000,
  });
  const text = stdout.replaceAll('\r', '');
  const blocks = [...text.matchAll(/^\s*(\S+)\s+\d+ [KMG]iB\s+0x\w+ 0x(\w+) 0x\w+/gm)].map(
    ([, name, used]) => ({ name: name as string, usedLength: Number.parseInt(used as string, 16) }),
  );
  const flat = text.split('FlatView #').find((part) => part.includes('AS "memory"'));
  if (blocks.length === 0 || flat === undefined) return null;
  const ranges: View['ranges'] = new Map();
  const line = /^\s+(\w{16})-\w{16} \(prio -?\d+, (?:nv-)?ram\): (\S+?)(?: @(\w+))?$/gm;
  for (const [, first, name, offset] of flat.matchAll(line)) {
    const range = {
      address: Number.parseInt(first as string, 16),
      at: Number.parseInt(offset ?? '0', 16),
    };
    ranges.set(name as string, [...(ranges.get(name as string) ?? []), range]);
  }
  return { blocks, ranges };
}

/** Return the error of the table for a machine as a text; null if there is none. */
function compare(machine: string, { blocks, ranges }: View): string | null {
  const board = findBoard(machine, (name) => blocks.some((block) => block.name === name));
  const ram = board?.ram ?? '';
  const actual = ranges.get(ram);
  if (board === undefined || actual === undefined) return `no range of "${ram}"`;
  // Devices cover parts of memory, so a range of the map may begin as several ranges in QEMU.
  const placed = guestMap(machine, blocks).ranges.filter((range) => range.block === ram);
  const isPlaced = ({ address, at }: { address: number; at: number }): boolean =>
    placed.some(
      (range) =>
        address >= range.address &&
        address < range.address + range.length &&
        address - range.address === at - range.at,
    );
  // Some boards have an alias of their memory at a second address, which the table leaves out.
  const wrong = actual.filter(
    (range) => !isPlaced(range) && !actual.some((each) => each.at === range.at && isPlaced(each)),
  );
  const show = wrong.map(({ address, at }) => `0x${address.toString(16)} @${at.toString(16)}`);
  return wrong.length === 0 ? null : `QEMU has ${ram} at ${show.slice(0, 3).join(', ')}`;
}

const [directory = '/usr/bin', ...options] = process.argv.slice(2);
let isWrong = false;
for (const file of fs.readdirSync(directory).filter((name) => name.startsWith('qemu-system-'))) {
  const binary = join(directory, file);
  const checked: string[] = [];
  const skipped: string[] = [];
  const unknown: string[] = [];
  for (const machine of machinesOf(binary)) {
    const view = viewOf(binary, machine, options);
    const has = (name: string): boolean => view?.blocks.some((each) => each.name === name) === true;
    if (view === null) skipped.push(machine);
    else if (findBoard(machine, has) === undefined) unknown.push(machine);
    else {
      const problem = compare(machine, view);
      if (problem === null) checked.push(machine);
      else {
        isWrong = true;
        process.stdout.write(`${file} ${machine}: ${problem}\n`);
      }
    }
  }
  process.stdout.write(
    `${file}: ${checked.length} as in the table, not in it: ${unknown.join(' ') || 'none'}, ` +
      `not started: ${skipped.join(' ') || 'none'}\n`,
  );
}
process.exitCode = isWrong ? 1 : 0;
