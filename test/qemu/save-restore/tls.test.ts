// A guest that is saved to another host, and restored from there, over TLS.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { Command, run } from '../../helpers/command/command.ts';
import { makeCredentials } from '../../helpers/transports/credentials.ts';
import { firmware, type GuestProgram, memoryProblems } from '../harness/guest.ts';
import { type Qemu, requireQemu, startQemu } from '../harness/harness.ts';
import { endCommand } from '../harness/scenario.ts';

const program: GuestProgram = { patternBytes: 3 << 20, dirtyBytes: 1 << 20 };

test('a guest is saved and restored over TLS, and a stranger gets nothing', {
  skip: requireQemu(),
}, async () => {
  await using dir = makeTempDir();
  const { good, stranger } = makeCredentials(dir.path);
  const start = (name: string, incoming?: string): Promise<Qemu> =>
    startQemu({
      firmware: firmware(program),
      extraArgs: ['-qmp', `unix:${dir.join(name)},server=on,wait=off`],
      ...(incoming === undefined ? {} : { incoming }),
    });
  // Who waits for a stream that does not come must not outlive a test that failed.
  const commands: Command[] = [];
  await using ends = {
    [Symbol.asyncDispose]: () => Promise.all(commands.map(endCommand)).then(() => {}),
  };
  const begin = (...args: string[]): Command => {
    const command = new Command(args);
    commands.push(command);
    return command;
  };
  assert.ok(ends);
  await using source = await start('source.qmp');
  await source.waitGuestReady();
  const file = dir.join('vm.mig');
  const keeping = begin('relay', 'tcp:127.0.0.1:0', file, '--from-tls', good);
  const save = ['save', '--qmp', dir.join('source.qmp')];
  const there = `tcp:127.0.0.1:${await keeping.listening()}`;

  const refused = await run([...save, there, '--to-tls', stranger]);
  assert.equal(refused.code, 4);
  assert.match(refused.stderr, /refuse the certificate|not trusted/);
  await source.waitRunning();
  await source.waitCounterRises();

  const saved = await run([...save, there, '--to-tls', good]);
  assert.equal(saved.code, 0, saved.stderr);
  const kept = await keeping.ended();
  assert.equal(kept.code, 0, kept.stderr);

  await using target = await start('target.qmp', 'defer');
  const restore = ['restore', '--qmp', dir.join('target.qmp')];
  const restoring = begin(...restore, 'tcp:127.0.0.1:0', '--from-tls', good);
  const here = `tcp:127.0.0.1:${await restoring.listening()}`;
  const sent = await run(['relay', file, here, '--to-tls', good]);
  assert.equal(sent.code, 0, sent.stderr);
  const restored = await restoring.ended();
  assert.equal(restored.code, 0, restored.stderr);
  await target.waitRunning();
  await target.waitCounterRises();
  await target.pause();
  assert.deepEqual(memoryProblems(await target.readRam(), program), []);
});

test('credentials for an endpoint that is not a socket are a usage error', async () => {
  await using dir = makeTempDir();
  const { good } = makeCredentials(dir.path);
  const { code, stderr } = await run([
    ...['save', '--qmp', dir.join('none'), dir.join('vm.mig'), '--to-tls', good],
  ]);
  assert.equal(code, 2);
  assert.match(stderr, /TLS/);
});
