// A stream with a changed device field: QEMU loads it, and has the value.
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import type { DeviceState } from '../../../lib/migration/format/device-types.ts';
import { copyStream } from '../../../lib/migration/rewrite/copy-stream.ts';
import { FieldChanges } from '../../../lib/migration/rewrite/field-changes.ts';
import { QemuFile } from '../../../lib/qemu-file/qemu-file.ts';
import { recordedOptions, recording, unpack } from '../../fixtures/recording.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { readStream } from '../../helpers/reading/read-stream.ts';
import { Source } from '../../helpers/transports/backends.ts';
import { memoryProblems } from '../harness/guest.ts';
import { defaultBinary, requireQemu, startQemu } from '../harness/harness.ts';
import { findQemu10, requireQemu10 } from '../harness/qemu10.ts';

/** Return a stream with fields changed. */
async function changed(bytes: Buffer, changes: readonly string[]): Promise<Buffer> {
  const pieces: Buffer[] = [];
  const to = new QemuFile({
    writevBuffer(buffers) {
      const piece = Buffer.concat(buffers);
      pieces.push(piece);
      return piece.length;
    },
  });
  await copyStream(new QemuFile(new Source([bytes])), to, { devices: new FieldChanges(changes) });
  return Buffer.concat(pieces);
}

for (const [version, name, skip, binary] of [
  ['7.2', 'pc', requireQemu(), defaultBinary()],
  ['10.0', 'q10-pc', requireQemu10(), findQemu10()],
] as const) {
  describe(`QEMU ${version} has a field that was changed in its stream`, { skip }, () => {
    test('as a register of the processor and of a device, and the guest runs on', async () => {
      await using dir = makeTempDir();
      const { facts, files } = recording(name);
      const [main] = files;
      assert.ok(main);
      const changes = ['cpu.env.regs[3]=0x12345678', 'serial.state.scr=0x5a'];
      const [from, again] = [dir.join('from'), dir.join('again')];
      await writeFile(from, await changed(unpack(main), changes));
      const guest = { ...recordedOptions(facts.guest), binary: binary as string };
      await using qemu = await startQemu({
        ...guest,
        startStopped: true,
        incoming: `exec:cat ${from}`,
      });
      await qemu.waitIncomingEnd();
      await qemu.waitStatus(['paused']);
      assert.match(await qemu.qmp.hmp('info registers'), /EBX=12345678/);
      assert.deepEqual(memoryProblems(await qemu.readRam(), facts.guest.program), []);
      await qemu.resume();
      await qemu.waitCounterRises();
      await qemu.migrate(`exec:cat > ${again}`);
      const { events } = await readStream([await readFile(again)]);
      const state = (wanted: string): DeviceState =>
        events.flatMap((event) =>
          event.type === 'device' && event.section.name === wanted ? [event.state ?? {}] : [],
        )[0] as DeviceState;
      assert.equal((state('serial').state as DeviceState).scr, 0x5a);
      assert.equal((state('cpu')['env.regs'] as number[])[3], 0x12345678);
    });
  });
}
