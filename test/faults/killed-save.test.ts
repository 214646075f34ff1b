// A process that is killed while it saves: its partial file, the permissions and the removal of that file.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import net from 'node:net';
import { after, before, describe, test } from 'node:test';
import { makeTempDir, type TempDir } from '../helpers/cleanup.ts';
import { Command, run } from '../helpers/command/command.ts';
import { assertSays, put, putRecording } from '../helpers/command/reading-command.ts';
import { withoutLeaks } from '../helpers/leaks.ts';
import { workedExample } from '../helpers/streams/stream-bytes.ts';
import { until } from '../helpers/until.ts';

/** Bytes that are sent before the end comes: a part of a stream. */
const SENT = 300_000;

/** A recorded stream. */
function recorded(): Buffer {
  const dir = makeTempDir();
  try {
    return fs.readFileSync(putRecording(dir, 'microvm')[0] ?? '');
  } finally {
    dir.remove();
  }
}

/** A save that has begun and not ended. */
interface Saving {
  command: Command;
  source: net.Socket;
  /** The name of the file that it writes. */
  partial: string;
}

/** Lets a command save a part of a stream. */
async function begin(dir: TempDir, sockets: TempDir, bytes: Buffer): Promise<Saving> {
  const had = new Set(fs.readdirSync(dir.path));
  const uri = `unix:${sockets.join(`s${had.size}`)}`;
  const command = new Command(['relay', uri, dir.join('vm.mig')]);
  await command.listening();
  const source = net.connect(uri.slice('unix:'.length));
  source.on('error', () => {});
  source.write(bytes);
  const isNew = (name: string): boolean => !had.has(name) && sizeOf(dir, name) === bytes.length;
  const partial = await until(() => fs.readdirSync(dir.path).find(isNew), {
    what: 'all bytes in the temporary file',
  });
  return { command, source, partial };
}

function sizeOf(dir: TempDir, name: string): number {
  return fs.statSync(dir.join(name)).size;
}

async function kill({ command, source }: Saving): Promise<void> {
  command.child.kill('SIGKILL');
  assert.equal((await command.ended()).signal, 'SIGKILL');
  source.destroy();
}

describe('a save that is killed', () => {
  const stream = recorded();
  const part = stream.subarray(0, SENT);
  let umask = 0;

  // Whoever wants secrets to be readable by all must not get that.
  before(() => {
    umask = process.umask(0);
  });
  after(() => {
    process.umask(umask);
  });

  test('leaves a private partial file named after its final name, and no file of the final name', async () => {
    await using dir = makeTempDir();
    await using sockets = makeTempDir();
    await withoutLeaks(async () => {
      const saving = await begin(dir, sockets, part);
      await kill(saving);
      assert.deepEqual(fs.readdirSync(dir.path), [saving.partial]);
      const { pid } = saving.command.child;
      const name = `^\\.vm\\.mig\\.[0-9a-f]{8}-${pid}-\\d+-[0-9a-f]{12}\\.qemu-file-partial$`;
      assert.match(saving.partial, new RegExp(name));
      assert.equal(fs.statSync(dir.join(saving.partial)).mode & 0o7777, 0o600);
      assert.ok(fs.readFileSync(dir.join(saving.partial)).equals(part));

      const ended = await run(['relay', '-', dir.join('vm.mig')], workedExample());
      assertSays(ended, 0, /relayed/);
      assert.deepEqual(fs.readdirSync(dir.path), ['vm.mig']);
      assert.equal(fs.statSync(dir.join('vm.mig')).mode & 0o7777, 0o600);
      assert.ok(fs.readFileSync(dir.join('vm.mig')).equals(workedExample()));
    });
  });

  test('is cleaned up by the next one, which leaves alone what another is saving', async () => {
    await using dir = makeTempDir();
    await using sockets = makeTempDir();
    await withoutLeaks(async () => {
      const living = await begin(dir, sockets, part);
      const killed = await begin(dir, sockets, part.subarray(0, SENT / 2));
      await kill(killed);
      assert.deepEqual(fs.readdirSync(dir.path).sort(), [living.partial, killed.partial].sort());

      const ended = await run(['relay', '-', dir.join('vm.mig')], workedExample());
      assertSays(ended, 0, /relayed/);
      assert.deepEqual(fs.readdirSync(dir.path).sort(), [living.partial, 'vm.mig'].sort());
      // The other one is none the worse for it, and the last to end has the name.
      living.source.end(stream.subarray(SENT));
      assertSays(await living.command.ended(), 0, /relayed 8\.32 MiB/);
      assert.deepEqual(fs.readdirSync(dir.path), ['vm.mig']);
      assert.ok(fs.readFileSync(dir.join('vm.mig')).equals(stream));
    });
  });

  test('is distinguished from one that broke off, whose bytes are kept', async () => {
    await using dir = makeTempDir();
    await using sockets = makeTempDir();
    await withoutLeaks(async () => {
      const broken = await run(['relay', '-', dir.join('vm.mig')], part);
      assertSays(broken, 3, /; the part that arrived is in \S+\n/);
      const [, kept = ''] = /the part that arrived is in \S+\/(\S+)\n/.exec(broken.stderr) ?? [];
      await kill(await begin(dir, sockets, part));
      const ended = await run(['relay', '-', dir.join('vm.mig')], workedExample());
      assertSays(ended, 0, /relayed/);
      assert.deepEqual(fs.readdirSync(dir.path).sort(), [kept, 'vm.mig'].sort());
      assert.ok(fs.readFileSync(dir.join(kept)).equals(part));
      assert.equal(fs.statSync(dir.join(kept)).mode & 0o7777, 0o600);
    });
  });

  test('of a core that is taken out of a stream, as well', async () => {
    await using dir = makeTempDir();
    await withoutLeaks(async () => {
      const extracting = new Command([
        ...['extract', `unix:${dir.join('s')}`],
        ...['--elf', dir.join('vm.core')],
      ]);
      await extracting.listening();
      const source = net.connect(dir.join('s'));
      source.on('error', () => {});
      source.write(part);
      const isPartial = (name: string): boolean => name.startsWith('.vm.core.');
      const partial = await until(() => fs.readdirSync(dir.path).find(isPartial), {
        what: 'the temporary file',
      });
      assert.equal(fs.statSync(dir.join(partial)).mode & 0o7777, 0o600);
      extracting.child.kill('SIGKILL');
      await extracting.ended();
      source.destroy();
      fs.rmSync(dir.join('s'), { force: true });
      assert.deepEqual(fs.readdirSync(dir.path), [partial]);

      const path = put(dir, 'vm.mig', stream);
      const ended = await run(['extract', path, '--elf', dir.join('vm.core'), '--quiet']);
      assertSays(ended, 0);
      assert.deepEqual(fs.readdirSync(dir.path).sort(), ['vm.core', 'vm.mig']);
      assert.equal(fs.statSync(dir.join('vm.core')).mode & 0o7777, 0o600);
    });
  });
});
