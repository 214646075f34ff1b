/*
 * The texts after the options in `--help`.
 */

const ENDPOINTS = `
Endpoints are QEMU's own: <from> takes what QEMU's -incoming takes, <to> what its migrate takes.
  tcp:host:port          <from> listens (port 0: the system chooses one), <to> connects;
                         IPv6 as in tcp:[::1]:4444; an empty host is this machine
  unix:path              <from> listens, <to> connects
  exec:command           the standard output of a command, or its standard input
  fd:N                   an inherited file descriptor
  file:path[,offset=N]   a file, a device or a FIFO; N as in 4096, 0x1000, 4k
  path                   the same, without an offset and without a colon before the first slash
  -                      standard input or standard output
  store:DIR#NAME         a snapshot in a store in a directory: <to> makes it, store and snapshot
  s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&pathStyle=true]#NAME
                         a snapshot in a store in an S3 bucket
`;

export const PROGRAM_HELP = `
qemu-file COMMAND --help lists the options of a command, its endpoints and exit codes.

Examples:
  qemu-file save --qmp /run/vm.qmp vm.mig.zst --compress zstd
  qemu-file inspect vm.mig.zst
  qemu-file restore --qmp /run/new.qmp vm.mig.zst
`;

export const RELAY_HELP: string = `${ENDPOINTS}
SIGUSR1 prints the progress as one line.

A file appears under its name only when it is complete. A migration stream that goes to a file
must also be valid; --no-check switches this off.

Exit codes: 0 done, 2 usage, 3 the input is not valid (empty, truncated, damaged),
4 input or output failed, 5 not supported, 130 interrupted (128 + the signal's number).

Examples:
  qemu-file relay tcp:0.0.0.0:4444 tcp:otherhost:4444 --max-bandwidth 100MiB
  qemu-file relay unix:/run/migrate.sock guest.mig --digest
  qemu-file relay guest.mig "exec:gzip -c > guest.mig.gz"
  qemu-file relay unix:/run/from.sock tcp:otherhost:4444 --channels 9   (multifd-channels 8)
`;

export const READ_HELP: string = `${ENDPOINTS}
The stream may be compressed (gzip, zstd, xz, bzip2, lzop), in a save image of libvirt, or in a
qcow2 image, as the VM state of a snapshot.

Exit codes: 0 valid, 1 the stream is damaged or incomplete, 2 usage, 3 not a migration stream,
4 input or output failed, 5 not supported (but valid as far as it was read),
130 interrupted (128 + the signal's number).
`;

/** Examples of the commands that read a stream. */
export const READ_EXAMPLES: Readonly<Record<string, string>> = {
  inspect: `
Examples:
  qemu-file inspect vm.mig
  qemu-file inspect vm.mig --device mc146818rtc
  qemu-file inspect vm.mig --html report.html
`,
  verify: `
Examples:
  qemu-file verify vm.mig --manifest vm.manifest
  qemu-file verify vm.mig --qmp /run/new.qmp
`,
  extract: `
Examples:
  qemu-file extract vm.mig --block pc.ram --raw ram.raw
  qemu-file extract vm.mig --elf vm.core
`,
  template: `
Examples:
  qemu-file template golden.mig /srv/golden
  qemu-file restore --qmp /run/clone.qmp /srv/golden
`,
};

export const DIFF_HELP: string = `${ENDPOINTS}
A stream may be compressed or in a container, as for inspect. The TLS options are for <a> and
<b>, where they are tcp: or unix:.

Exit codes: 0 the guests are the same, 1 they differ, 2 usage, 3 a stream cannot be compared,
4 input or output failed, 130 interrupted (128 + the signal's number).

Example:
  qemu-file diff before.mig after.mig --ignore 'timer.*' --ignore '*.last_update'
`;

export const WRITE_HELP: string = `${ENDPOINTS}
The input may be compressed or in a container, as for inspect; the output is a bare stream, which
QEMU loads. A file appears under its name only when it is complete.

Exit codes: 0 done, 1 the stream is damaged or incomplete, 2 usage, 3 not a migration stream,
4 input or output failed, 5 not supported, 130 interrupted (128 + the signal's number).

Examples:
  qemu-file compact guest.mig small.mig
  qemu-file convert guest.mig other.mig --rename-block pc.ram=mem
`;

export const VM_HELP: string = `${ENDPOINTS}
QEMU must run as the same user, with a QMP monitor: -qmp unix:PATH,server=on,wait=off.
If a save fails, the guest continues as before, and no file appears. Save to something that
keeps the stream; to migrate to a live destination, use relay.

Exit codes: 0 done, 2 usage, 3 the stream is not valid, 4 anything else failed,
5 not supported, 130 interrupted (128 + the signal's number).

Examples:
  qemu-file save --qmp /run/vm.qmp vm.mig.zst --compress zstd
  qemu-system-x86_64 … -incoming defer -qmp unix:/run/new.qmp,server=on,wait=off
  qemu-file restore --qmp /run/new.qmp vm.mig.zst
  qemu-file save --qmp /run/vm.qmp store:/srv/vm#golden
  qemu-file restore --qmp /run/new.qmp store:/srv/vm#golden --lazy
`;

export const STORE_HELP: string = `
A store is a directory or a bucket:
  store:DIR[#NAME]
  s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&pathStyle=true][#NAME]
save, relay, convert and compact write snapshots into it. All commands that read a stream read them.

Exit codes: 0 done, 1 ls or fsck found a damaged snapshot, 2 usage, 4 anything else failed,
130 interrupted (128 + the signal's number).

Examples:
  qemu-file store ls store:/srv/vm
  qemu-file store copy store:/srv/vm#box-1 s3://vm-snapshots/prod
  qemu-file store gc store:/srv/vm --grace 1h
`;
