// `npm start`: the main job, on the bundled recording, and live where QEMU is installed.
import { once } from 'node:events';
import { createReadStream, statSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import net from 'node:net';
import { createGunzip } from 'node:zlib';
import { openFrom, openTo, socketOps } from '../../adapters/index.ts';
import { showRam } from '../../lib/cli/commands/summary-text.ts';
import { Meter } from '../../lib/cli/shell/progress.ts';
import { showExactSize, showSize } from '../../lib/cli/shell/sizes.ts';
import { QemuFile } from '../../lib/index.ts';
import {
  MigrationReader,
  RamMap,
  StreamSummarizer,
  verifyStream,
} from '../../lib/migration/index.ts';
import { relay } from '../../lib/relay/relay.ts';
import type { RelayResult } from '../../lib/relay/relay-types.ts';
import { QmpClient, restoreVm, saveVm } from '../../lib/vm/index.ts';
import { readSidecar, recordingPath } from '../fixtures/recording.ts';
import { makeTempDir } from '../helpers/cleanup.ts';
import { firmware } from '../qemu/harness/guest.ts';
import { type Qemu, qemuVersion, startQemu } from '../qemu/harness/harness.ts';

const LIMIT = 4 * 2 ** 20;
/** Cells of the map of a block. */
const CELLS = 256;

function check(result: RelayResult): RelayResult {
  if (result.failure !== null) throw result.failure.error;
  return result;
}

/** Send the recording through a TCP connection into a file, at a limited rate. */
async function moveRecording(): Promise<void> {
  const sidecar = await readSidecar();
  console.log(`A recorded migration (${sidecar.qemu.split(' (')[0]}) through TCP into a file,`);
  console.log(`at no more than ${showSize(LIMIT)}/s:`);
  await using dir = makeTempDir();
  const file = dir.join('vm.mig');

  // The receiving end listens; the sending end reads the output of gunzip.
  const server = net.createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const sending = Promise.all([
    openFrom(`exec:gzip -dc '${recordingPath}'`),
    openTo(`tcp:127.0.0.1:${port}`),
  ]).then(([from, to]) => relay(from, to));
  const [socket] = (await once(server, 'connection')) as [net.Socket];
  server.close();
  const to = await openTo(`file:${file}`, { file: { maxBandwidth: LIMIT, digest: 'xxh64' } });
  const measure = () => ({
    bytes: to.putPosition - to.writableLength,
    limitedMs: to.limitedMs,
  });
  const meter = await Meter.start(measure, sidecar.bytes, false);
  const received = check(await relay(new QemuFile(socketOps(socket)), to));
  meter?.stop();
  check(await sending);

  const { bytes, xxh64 } = received.forward;
  const rate = showSize(Math.round(bytes / received.seconds));
  console.log(`  ${showExactSize(bytes)} in ${received.seconds.toFixed(2)} s: ${rate}/s`);
  console.log(`  held back by the limit for ${received.limitedSeconds.toFixed(2)} s`);
  if (xxh64 !== sidecar.xxh64) {
    throw new Error(`XXH64 is ${xxh64}, the recording's is ${sidecar.xxh64}`);
  }
  console.log(`  XXH64 ${xxh64}: the same as when it was recorded`);
  await lookInto(file);
}

/** Print the sections of a stream and a map of its RAM. */
async function lookInto(path: string): Promise<void> {
  await using from = await openFrom(`file:${path}`);
  const map = new RamMap();
  const reader = new MigrationReader(from, { pages: map });
  const summarizer = new StreamSummarizer();
  for await (const event of reader) summarizer.add(event);
  const summary = summarizer.summary(reader.ram, null);
  const { sections, configuration, devices } = summary;
  console.log(
    `\nWhat is in it: machine ${configuration?.machine}, ${sections.length} sections, ${Object.keys(devices).length} devices`,
  );
  const maps = reader.ram.blocks.map((block) => ({
    name: block.name,
    usedLength: block.usedLength,
    cells: map.cells(block, CELLS),
  }));
  console.log(showRam(summary, maps).trimEnd());
}

/** Save a running guest into a compressed file, and restore it in another QEMU. */
async function moveGuest(): Promise<void> {
  await using dir = makeTempDir();
  const start = (name: string, incoming?: string): Promise<Qemu> =>
    startQemu({
      firmware: firmware({ patternBytes: 4 << 20, dirtyBytes: 1 << 20 }),
      extraArgs: ['-qmp', `unix:${dir.join(name)},server=on,wait=off`],
      ...(incoming === undefined ? {} : { incoming }),
    });
  await using source = await start('source.qmp');
  await source.waitGuestReady();
  console.log(
    `  a guest of 16 MiB runs and dirties memory; its counter is at ${await source.counter()}`,
  );

  const file = dir.join('guest.mig.gz');
  await using qmp = await QmpClient.connect(dir.join('source.qmp'));
  const { bytes, seconds } = await saveVm(qmp, await openTo(file), { compress: 'gzip' });
  const { size, mode } = statSync(file);
  console.log(
    `  saved while it ran: ${showExactSize(bytes)} in ${seconds.toFixed(2)} s, ${showSize(size)} as gzip, mode ${(mode & 0o777).toString(8)}`,
  );
  const counter = await source.counter();
  console.log(`  the first QEMU is in state "${await source.status()}", its counter at ${counter}`);

  const { faults, sections } = await verifyStream(createReadStream(file).pipe(createGunzip()));
  if (faults[0] !== undefined) throw faults[0];
  console.log(`  verified: ${sections.length} sections, each page in its place, nothing missing`);

  await using second = await start('second.qmp', 'defer');
  await using other = await QmpClient.connect(dir.join('second.qmp'));
  const { status } = await restoreVm(other, await openFrom(file));
  const rise = await second.waitCounterRises();
  console.log(
    `  the second QEMU is in state "${status}", its counter rises: ${rise.from} → ${rise.to}`,
  );
}

await moveRecording();
const version = qemuVersion();
if (version === undefined) {
  console.log('\nWith qemu-system-x86_64 installed, this also saves and restores a live guest.');
} else {
  console.log(`\nA live guest (${version.split(' (')[0]}):`);
  await moveGuest();
}
