// A guest with Debian's own cloud kernel, which checks its own memory, its disk and its source of entropy:
//
//   node --import tsx test/qemu/harness/linux-guest.ts          fetches the kernel
//
// The packages are unpacked, not installed, into a cache directory of the user's.
import assert from 'node:assert/strict';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { QmpClient } from '../../../lib/vm/index.ts';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { type CpioEntry, cpioArchive } from '../../helpers/cpio.ts';
import { until } from '../../helpers/until.ts';
import { cacheFolder, unpackPackages } from './debian-packages.ts';
import { type Qemu, type QemuOptions, startQemu } from './harness.ts';

/** Bytes of a file in the guest's memory whose digest it compares for ever. */
export const PATTERN_MIB = 32;
/** Bytes that the guest writes anew at each check, and compares at the next. */
const FRESH_KIB = 1024;
const MEMORY_MIB = 256;
/** A machine type of both QEMUs. */
const MACHINE = 'pc-i440fx-7.2';
const DISK_BYTES = 256 * 1024;

/** In an order in which each finds those that it needs. */
const MODULES = [
  'drivers/virtio/virtio_ring',
  'drivers/virtio/virtio',
  'drivers/virtio/virtio_pci_modern_dev',
  'drivers/virtio/virtio_pci_legacy_dev',
  'drivers/virtio/virtio_pci',
  'drivers/block/virtio_blk',
  'net/core/failover',
  'drivers/net/net_failover',
  'drivers/net/virtio_net',
  'drivers/char/hw_random/virtio-rng',
];

/** The guest's only program. Every line that it prints is one that `checksOf` knows. */
const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /data
for module in ${MODULES.map((path) => basename(path)).join(' ')}; do insmod /modules/$module.ko; done
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
# The kernel reports the link up to a second later.
until [ "$(cat /sys/class/net/eth0/operstate)" = up ]; do sleep 0.1; done

dd if=/dev/urandom of=/data/pattern bs=1M count=${PATTERN_MIB} 2>/dev/null
pattern=$(md5sum </data/pattern)
dd if=/dev/urandom of=/data/fresh bs=1k count=${FRESH_KIB} 2>/dev/null
fresh=$(md5sum </data/fresh)
disk=$(md5sum </dev/vda)
count=0
while :; do
  result=right
  [ "$(md5sum </data/pattern)" = "$pattern" ] || result=pattern
  [ "$(md5sum </data/fresh)" = "$fresh" ] || result=fresh
  dd if=/dev/urandom of=/data/fresh bs=1k count=${FRESH_KIB} 2>/dev/null
  fresh=$(md5sum </data/fresh)
  # Without its cache the kernel reads from the disk.
  echo 1 >/proc/sys/vm/drop_caches
  [ "$(md5sum </dev/vda)" = "$disk" ] || result=disk
  [ "$(cat /sys/class/net/eth0/operstate)" = up ] || result=network
  random=$(head -c 16 /dev/hwrng | md5sum | head -c 16)
  count=$((count + 1))
  echo "check $count $result $random"
done
`;

/** Return whether the kernel has been fetched. */
function isFetched(): boolean {
  return existsSync(cachedPath());
}

function cachedPath(...names: readonly string[]): string {
  return join(cacheFolder(), 'linux-cloud', ...names);
}

/**
 * The value for the `skip` option of tests of this guest: `false` where they can run, else the reason.
 *
 * In CI they run on the oldest supported Node only, because what they show does not depend on Node.
 *
 * @throws {Error} if the kernel is missing there, because a skipped test in CI would be an unnoticed failure.
 */
export function requireLinux(): string | false {
  if (process.env.CI && !/^v20\./.test(process.version)) return 'CI runs them on Node 20';
  if (isFetched()) return false;
  const reason = 'there is no kernel: run test/qemu/harness/linux-guest.ts';
  if (process.env.CI) throw new Error(`${reason}; these tests must not be skipped in CI`);
  return reason;
}

/** Fetch the kernel, its modules and busybox, unless they are there. Requires root on Debian. */
export async function fetchLinux(): Promise<string> {
  const target = cachedPath();
  if (isFetched()) return target;
  mkdirSync(cacheFolder(), { recursive: true, mode: 0o700 });
  const [unpacked, partial] = [`${target}.unpacked`, `${target}.new`];
  for (const path of [unpacked, partial]) rmSync(path, { recursive: true, force: true });
  const suite = (codename: string): string => codename;
  await unpackPackages(unpacked, [
    { suite, packages: ['linux-image-cloud-amd64'], isMeta: true },
    { suite, packages: ['busybox-static'] },
  ]);
  mkdirSync(partial);
  const find = (folder: string, start: string): string => {
    const name = readdirSync(join(unpacked, folder)).find((each) => each.startsWith(start));
    assert.ok(name, `${folder} has a ${start}`);
    return join(unpacked, folder, name);
  };
  copyFileSync(find('boot', 'vmlinuz-'), join(partial, 'vmlinuz'));
  copyFileSync(find('bin', 'busybox'), join(partial, 'busybox'));
  const modules = join(find('lib/modules', ''), 'kernel');
  for (const path of MODULES) {
    copyFileSync(join(modules, `${path}.ko`), join(partial, `${basename(path)}.ko`));
  }
  rmSync(unpacked, { recursive: true });
  // The folder appears complete.
  renameSync(partial, target);
  return target;
}

/** Return the guest's first file system. */
function initialFileSystem(): Buffer {
  const folders = ['bin', 'data', 'dev', 'modules', 'proc', 'sys'];
  const entries: CpioEntry[] = folders.map((path) => ({ path, isFolder: true }));
  entries.push({ path: 'dev/console', device: [5, 1] });
  const busybox = readFileSync(cachedPath('busybox'));
  entries.push({ path: 'bin/busybox', contents: busybox, isExecutable: true });
  for (const path of MODULES) {
    const name = `${basename(path)}.ko`;
    entries.push({ path: `modules/${name}`, contents: readFileSync(cachedPath(name)) });
  }
  entries.push({ path: 'init', contents: Buffer.from(INIT), isExecutable: true });
  return cpioArchive(entries);
}

/** The files of which every machine with this guest consists. */
export interface LinuxFiles {
  readonly initialFileSystem: string;
  readonly disk: string;
}

/** Make the guest's files in a directory. */
export function makeLinuxFiles(dir: TempDir): LinuxFiles {
  const files = { initialFileSystem: dir.join('initrd.cpio'), disk: dir.join('disk') };
  writeFileSync(files.initialFileSystem, initialFileSystem());
  // Each sector differs from the others.
  const disk = Buffer.alloc(DISK_BYTES);
  for (let at = 0; at < disk.length; at += 4)
    disk.writeUInt32LE(Math.imul(at, 0x9e3779b1) >>> 0, at);
  writeFileSync(files.disk, disk);
  return files;
}

/** A check of the guest's. */
export interface LinuxCheck {
  readonly count: number;
  /** `right`, or what is wrong. */
  readonly result: string;
  /** Digest of what its hardware source of entropy gave, 16 hexadecimal digits. */
  readonly random: string;
}

/**
 * Return the checks that a guest has printed.
 *
 * @param output - What its console has received since it was started, wherever it ran meanwhile.
 * @throws AssertionError for a line that is not one of a check, such as one of the kernel's.
 */
export function checksOf(output: string): LinuxCheck[] {
  // The last line may still be on its way.
  const lines = output.replaceAll('\r', '').split('\n').slice(0, -1);
  return lines.map((line) => {
    const [, count, result = '', random = ''] =
      /^check (\d+) (\w+) ([0-9a-f]{16})$/.exec(line) ?? [];
    assert.ok(count, `the guest printed: ${line}`);
    return { count: Number(count), result, random };
  });
}

/** Options of a machine for the guest. */
export interface LinuxOptions {
  readonly files: LinuxFiles;
  /** Its memory is 256 MiB by default. */
  readonly qemu: QemuOptions;
  /** Wait for a guest, instead of booting one. */
  readonly isIncoming?: boolean;
  readonly extraArgs?: readonly string[];
}

/** A QEMU with the guest, or that waits for it. */
export interface LinuxMachine extends AsyncDisposable {
  readonly qemu: Qemu;
  readonly qmp: QmpClient;
  /** Path of another monitor, for one client. */
  readonly monitor: string;
  /** Return what the guest has printed in this QEMU. */
  output(): string;
  /**
   * Wait for a number of lines in this QEMU.
   *
   * @param before - What the guest had printed elsewhere.
   * @returns All that the guest has printed.
   */
  waitOutput(lines: number, before?: string): Promise<string>;
}

/** Start a QEMU for the guest; hold it by `await using`. */
export async function startLinux(options: LinuxOptions): Promise<LinuxMachine> {
  const { files, isIncoming = false, extraArgs = [] } = options;
  const dir = makeTempDir();
  const [monitor, ours, console] = [dir.join('spare'), dir.join('qmp'), dir.join('console')];
  const qemu = await startQemu({
    memoryMiB: MEMORY_MIB,
    ...options.qemu,
    machine: MACHINE,
    ...(isIncoming && { incoming: 'defer' }),
    extraArgs: [
      ...[ours, monitor].flatMap((path) => ['-qmp', `unix:${path},server=on,wait=off`]),
      ...['-smp', '2', '-kernel', cachedPath('vmlinuz'), '-initrd', files.initialFileSystem],
      ...['-append', 'console=ttyS0 quiet panic=-1 mitigations=off'],
      ...['-chardev', `file,id=console,path=${console}`],
      ...['-device', 'isa-serial,chardev=console,index=0'],
      ...['-drive', `if=none,id=disk,format=raw,read-only=on,file=${files.disk}`],
      ...['-device', 'virtio-blk-pci,drive=disk'],
      ...['-netdev', 'user,id=net,restrict=on'],
      ...['-device', 'virtio-net-pci,netdev=net'],
      ...['-object', 'rng-random,id=entropy,filename=/dev/urandom'],
      ...['-device', 'virtio-rng-pci,rng=entropy'],
      ...extraArgs,
    ],
  });
  const qmp = await QmpClient.connect(ours, { oob: true });
  const output = (): string => readFileSync(console, 'latin1');
  return {
    qemu,
    qmp,
    monitor,
    output,
    waitOutput: (lines, before = '') =>
      until(() => output().split('\n').length > lines && before + output(), {
        what: `${lines} lines of the guest`,
        intervalMs: 50,
      }),
    [Symbol.asyncDispose]: async () => {
      await qmp.close();
      await qemu.stop();
      dir.remove();
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.stdout.write(`${await fetchLinux()}\n`);
}
