// The check of `qemu-file relay`: only a sound stream becomes a file.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import { describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { makeTempDir, type TempDir } from '../../helpers/cleanup.ts';
import { Command, type Ended, run } from '../../helpers/command/command.ts';
import { assertSays, put, putRecording } from '../../helpers/command/reading-command.ts';
import {
  be32,
  counted,
  end,
  header,
  stream,
  workedExample,
} from '../../helpers/streams/stream-bytes.ts';
import { portOf } from '../../helpers/transports/sockets.ts';

/** Two processes at a time: each spends most of its life loading. */
const concurrency = 2;

/** The worked example with a fault early in its RAM. */
function malformed(): Buffer {
  const bytes = workedExample();
  // The list of blocks comes to more than its total.
  bytes[49] = 0x10;
  return bytes;
}

/** A stream that is valid as far as it can be read, with a section of an unknown kind. */
function foreign(): Buffer {
  const head = stream('01', be32(9), counted('from-the-future'), be32(0), be32(1));
  // Without a configuration there are no footers, so the section cannot be skipped.
  return stream(header, head, Buffer.alloc(20_000, 0x33), end);
}

/** Checks that nothing was published, and that the bytes are in the partial file that the message names. */
function assertKept(dir: TempDir, { stderr }: Ended, bytes: Buffer, atLeast = bytes.length): void {
  const [name, ...others] = fs.readdirSync(dir.path);
  assert.deepEqual(others, [], 'the only file');
  assert.match(name ?? '', /^\.vm\.mig\.[0-9a-f]+\.qemu-file-partial$/);
  const path = `${fs.realpathSync(dir.path)}/${name}`;
  assert.ok(stderr.includes(`; the part that arrived is in ${path}\n`), stderr);
  const kept = fs.readFileSync(path);
  assert.ok(
    kept.length >= atLeast && kept.equals(bytes.subarray(0, kept.length)),
    `${kept.length}`,
  );
  assert.equal(fs.statSync(path).mode & 0o777, 0o600);
}

describe('a relay to a file', { concurrency }, () => {
  test('publishes a sound stream, whole', async () => {
    await using dir = makeTempDir();
    const ended = await run(['relay', '-', dir.join('vm.mig')], workedExample());
    assertSays(ended, 0, /relayed 4\.55 KiB/);
    assert.ok(fs.readFileSync(dir.join('vm.mig')).equals(workedExample()));
    assert.deepEqual(fs.readdirSync(dir.path), ['vm.mig']);
  });

  test('publishes a stream of a real QEMU, in every way of writing it', async () => {
    await using dir = makeTempDir();
    for (const name of ['postcopy', 'q10-mapped-ram', 'no-footers', 'pc']) {
      const [path = ''] = putRecording(dir, name);
      assertSays(await run(['relay', path, dir.join('copy')]), 0);
      assert.ok(fs.readFileSync(dir.join('copy')).equals(fs.readFileSync(path)), name);
    }
  });

  test('says that the pages of a multifd migration are not in its main channel', async () => {
    await using dir = makeTempDir();
    const [old = ''] = putRecording(dir, 'multifd-none');
    assertSays(
      await run(['relay', old, dir.join('copy')]),
      0,
      /pages of RAM block .* were not sent/,
    );
    const [path = ''] = putRecording(dir, 'q10-multifd-none');
    assertSays(await run(['relay', path, dir.join('copy')]), 3, /multifd channels/);
  });

  test('accepts a stream without a description', async () => {
    await using dir = makeTempDir();
    const bytes = workedExample().subarray(0, 4321);
    const ended = await run(['relay', '-', dir.join('vm.mig')], bytes);
    assertSays(ended, 0, /no VM description/);
    assert.ok(fs.readFileSync(dir.join('vm.mig')).equals(bytes));
  });

  for (const length of [4, 9, 4000, 4270, 4320, 4500]) {
    test(`does not publish a stream that is cut off at byte ${length}, but keeps it`, async () => {
      await using dir = makeTempDir();
      const bytes = workedExample().subarray(0, length);
      const ended = await run(['relay', '-', dir.join('vm.mig')], bytes);
      assertSays(ended, 3, /"from" \(-\) is not a valid migration stream: ENODATA: /);
      assert.equal(ended.stderr.trimEnd().split('\n').length, 1);
      assertKept(dir, ended, bytes);
    });
  }

  test('does not publish a malformed stream, and leaves the file that was there', async () => {
    await using dir = makeTempDir();
    const old = put(dir, 'vm.mig', 'old');
    const ended = await run(['relay', '-', old], malformed());
    assertSays(ended, 3, /not a valid migration stream: EBADMSG: in section "ram"/);
    assert.equal(fs.readFileSync(old, 'utf8'), 'old');
    fs.unlinkSync(old);
    assertKept(dir, ended, malformed(), 0);
  });

  test('publishes anything with --no-check', async () => {
    await using dir = makeTempDir();
    const cut = workedExample().subarray(0, 4000);
    assertSays(await run(['relay', '-', dir.join('vm.mig'), '--no-check'], cut), 0);
    assert.ok(fs.readFileSync(dir.join('vm.mig')).equals(cut));
  });

  test('publishes bytes that are not a stream, unless a check is requested', async () => {
    await using dir = makeTempDir();
    for (const bytes of [Buffer.from('no stream'), Buffer.from('x'), gzipSync(workedExample())]) {
      const path = dir.join('vm.mig');
      assertSays(await run(['relay', '-', path], bytes), 0);
      assert.ok(fs.readFileSync(path).equals(bytes));
      fs.unlinkSync(path);
      const asked = await run(['relay', '-', path, '--check'], bytes);
      assertSays(
        asked,
        3,
        /not a bare migration stream, but (an unknown file|gzip-compressed data)/,
      );
      assertKept(dir, asked, bytes, 0);
      for (const name of fs.readdirSync(dir.path)) fs.unlinkSync(dir.join(name));
    }
  });

  test('publishes a stream with sections that are not known, with a note, unless asked', async () => {
    await using dir = makeTempDir();
    const path = dir.join('vm.mig');
    const ended = await run(['relay', '-', path], foreign());
    assertSays(ended, 0, /was not checked to its end: ENOTSUP: .*"from-the-future"/);
    assert.ok(fs.readFileSync(path).equals(foreign()));
    fs.unlinkSync(path);
    const asked = await run(['relay', '-', path, '--check'], foreign());
    assertSays(asked, 5, /ENOTSUP/);
    assertKept(dir, asked, foreign(), 0);
  });

  test('does not keep the part that an interruption or a broken connection left', async () => {
    await using dir = makeTempDir();
    await using to = makeTempDir();
    const relaying = new Command(['relay', `unix:${dir.join('s')}`, to.join('vm.mig')]);
    await relaying.listening();
    relaying.child.kill('SIGINT');
    assertSays(await relaying.ended(), 130, /interrupted/);
    assert.deepEqual(fs.readdirSync(to.path), []);
    const failing = await run([
      'relay',
      'exec:printf QEVM; exit 3',
      to.join('vm.mig'),
      '--no-check',
    ]);
    assertSays(failing, 4, /exited with status 3/);
    assert.deepEqual(fs.readdirSync(to.path), []);
  });
});

describe('a relay that checks', { concurrency }, () => {
  test('on the way to a socket breaks the connection of a bad stream', async () => {
    const received: { bytes: number; error?: Error }[] = [];
    const server = net.createServer((socket) => {
      const seen: { bytes: number; error?: Error } = { bytes: 0 };
      received.push(seen);
      socket.on('data', (chunk) => {
        seen.bytes += chunk.length;
      });
      socket.on('error', (error) => {
        seen.error = error;
      });
    });
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const to = `tcp:127.0.0.1:${portOf(server)}`;
    assertSays(
      await run(['relay', '-', to, '--check'], malformed()),
      3,
      /not a valid migration stream/,
    );
    const unchecked = await run(['relay', '-', to], malformed());
    assertSays(unchecked, 0);
    const sound = await run(['relay', '-', to, '--check'], workedExample());
    assertSays(sound, 0);
    server.close();
    assert.deepEqual(
      received.slice(1).map(({ bytes, error }) => [bytes, error]),
      [
        [4664, undefined],
        [4664, undefined],
      ],
    );
  });

  test('ends at the first fault, and the source sees its connection break', async () => {
    await using dir = makeTempDir();
    const relaying = new Command(['relay', `unix:${dir.join('s')}`, dir.join('vm.mig')]);
    await relaying.listening();
    const socket = net.connect(dir.join('s'));
    await once(socket, 'connect');
    const closed = once(socket, 'close');
    socket.on('error', () => {});
    // Left open: that it ends is the relay's doing.
    socket.write(malformed());
    await closed;
    const ended = await relaying.ended();
    assertSays(ended, 3, /EBADMSG/);
    assert.deepEqual(
      fs.readdirSync(dir.path).filter((name) => !name.endsWith('.qemu-file-partial')),
      [],
    );
  });

  test('writes a manifest that verify takes, of a stream that is whole', async () => {
    await using dir = makeTempDir();
    const [path, manifest] = [dir.join('vm.mig'), dir.join('vm.json')];
    const args = ['relay', '-', path, '--manifest', manifest];
    assertSays(await run(args, workedExample()), 0);
    assert.equal(fs.statSync(manifest).mode & 0o777, 0o600);
    const verified = await run(['verify', path, '--manifest', manifest]);
    assert.equal(verified.code, 0, verified.stderr);
    const extracted = await run(['extract', path, '--manifest', dir.join('again.json')]);
    assert.equal(extracted.code, 0, extracted.stderr);
    assert.equal(
      fs.readFileSync(dir.join('again.json'), 'utf8'),
      fs.readFileSync(manifest, 'utf8'),
    );
  });

  test('writes no manifest of an unsound stream', async () => {
    await using dir = makeTempDir();
    const options = ['--manifest', dir.join('vm.json')];
    const inputs: [bytes: Buffer, code: number][] = [
      [Buffer.from('no stream'), 3],
      [workedExample().subarray(0, 4000), 3],
      [foreign(), 5],
    ];
    for (const [bytes, code] of inputs) {
      const ended = await run(['relay', '-', dir.join('vm.mig'), ...options], bytes);
      assertSays(ended, code, code === 3 ? /not a valid migration stream/ : /cannot be checked/);
      assert.equal(fs.existsSync(dir.join('vm.json')), false);
      assert.equal(fs.existsSync(dir.join('vm.mig')), false);
    }
  });

  test('fails with 4 when the manifest cannot be written', async () => {
    await using dir = makeTempDir();
    const options = ['--manifest', dir.join('no/such/place')];
    const ended = await run(['relay', '-', dir.join('vm.mig'), ...options], workedExample());
    assertSays(ended, 4, /the manifest \(.*place\): ENOENT/);
  });

  test('leaves the copy of --tee out when the stream is bad', async () => {
    await using dir = makeTempDir();
    await using to = makeTempDir();
    const options = ['--tee', to.join('copy')];
    const ended = await run(['relay', '-', dir.join('vm.mig'), ...options], malformed());
    assert.equal(ended.code, 3, ended.stderr);
    assert.deepEqual(fs.readdirSync(to.path), []);
  });
});
