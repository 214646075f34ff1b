// Lists the states that a QEMU saves although its -dump-vmstate leaves them out, and marks with + those that
// the table in lib/migration/target/unlisted-states.ts lacks:
//   node --import tsx test/tables/unlisted-states.ts [qemu-system-* [QEMU option …]]
// The options choose the machine and its devices. Without them, x86 machines with many devices are saved.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import { findVmDescription } from '../../lib/migration/devices/find-vm-description.ts';
import { isUnlisted } from '../../lib/migration/target/unlisted-states.ts';
import { parseTargetDump } from '../../lib/migration/target/vmstate-dump.ts';
import { makeTempDir } from '../helpers/cleanup.ts';

const DEVICES = [
  'piix3-usb-uhci',
  'ich9-ahci',
  'ioh3420',
  'intel-hda',
  'virtio-net-pci',
  'virtio-balloon-pci',
  'i82559er',
  'ipmi-bmc-sim,id=bmc',
  'isa-ipmi-kcs,bmc=bmc',
];

/** Options of x86 guests that have as many kinds of devices as fit. */
export const GUESTS: readonly (readonly string[])[] = [
  ['-M', 'pc', '-netdev', 'user,id=n', '-device', 'ne2k_pci,netdev=n', ...devices(DEVICES)],
  ['-M', 'q35', ...devices(DEVICES.slice(1))],
  ['-M', 'isapc'],
  ['-M', 'microvm'],
];

function devices(names: readonly string[]): string[] {
  return names.flatMap((name) => ['-device', name]);
}

/** Return the states that QEMU saves for a guest without listing them in -dump-vmstate. */
export async function unlistedStates(
  binary: string,
  options: readonly string[],
): Promise<string[]> {
  await using directory = makeTempDir();
  const [stream, dump] = [directory.join('stream'), directory.join('dump')];
  const common = [...options, '-S', '-display', 'none', '-accel', 'tcg', '-m', '16'];
  const input = `migrate "exec:cat > ${stream}"\nquit\n`;
  const saved = spawnSync(binary, [...common, '-monitor', 'stdio'], { input, timeout: 60_000 });
  if (!fs.existsSync(stream)) throw new Error(`${binary} did not save: ${saved.stderr.toString()}`);
  spawnSync(binary, [...options.slice(0, 2), '-dump-vmstate', dump]);
  const found = findVmDescription(fs.readFileSync(stream), 0);
  if (found === null) throw new Error(`the stream of ${binary} has no VM description`);
  const { states } = parseTargetDump(JSON.parse(fs.readFileSync(dump, 'utf8')));
  const names = found.description.devices.map((device) => device.vmsd_name ?? device.name);
  return [...new Set(names)].filter((name) => !states.has(name)).sort();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [binary = 'qemu-system-x86_64', ...options] = process.argv.slice(2);
  const guests = options.length > 0 ? [options] : GUESTS;
  const names = new Set<string>();
  for (const guest of guests) {
    for (const name of await unlistedStates(binary, guest)) names.add(name);
  }
  for (const name of [...names].sort()) {
    process.stdout.write(`${isUnlisted(name) ? ' ' : '+'} ${name}\n`);
  }
}
