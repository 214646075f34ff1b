// Commands that read, from peers that speak TLS, by node:tls itself.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { after, describe, test } from 'node:test';
import { recording, unpack } from '../../fixtures/recording.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { Command, run } from '../../helpers/command/command.ts';
import { assertSays, put } from '../../helpers/command/reading-command.ts';
import { makeCredentials } from '../../helpers/transports/credentials.ts';
import { sendOverTls, sendPlain } from '../../helpers/transports/tls-sender.ts';
import { until } from '../../helpers/until.ts';

const LIMITS = { timeout: 300_000 };

const dir = makeTempDir();
after(() => dir.remove());
const { good } = makeCredentials(dir.path);

const [recorded] = recording('pc').files;
assert.ok(recorded);
const bytes = unpack(recorded);
const file = put(dir, 'file', bytes);

/** Send the stream to a command that reads a socket, over TLS; return how the command ended. */
async function readOverTls(name: string, ...options: string[]) {
  const socket = dir.join(`${name}-socket`);
  const command = new Command([name, `unix:${socket}`, ...options, '--from-tls', good]);
  await command.listening();
  sendOverTls(socket, good, bytes);
  return command.ended();
}

describe('commands that read over TLS', LIMITS, () => {
  test('verify accepts a valid stream', async () => {
    assertSays(await readOverTls('verify'), 0);
  });

  test('inspect prints what it prints of the file', async () => {
    const ended = await readOverTls('inspect', '--json');
    assertSays(ended, 0);
    assert.ok(ended.stdout.equals((await run(['inspect', file, '--json'])).stdout));
  });

  test('extract writes what it writes from the file', async () => {
    const [fromSocket, fromFile] = [dir.join('from-socket'), dir.join('from-file')];
    assertSays(await readOverTls('extract', '--block', 'pc.ram', '--raw', fromSocket), 0);
    assertSays(await run(['extract', file, '--block', 'pc.ram', '--raw', fromFile]), 0);
    assert.ok(fs.readFileSync(fromSocket).equals(fs.readFileSync(fromFile)));
  });

  test('template makes a template', async () => {
    const template = dir.join('template');
    assertSays(await readOverTls('template', template), 0);
    assert.ok(fs.existsSync(`${template}/template.json`));
  });

  test('diff compares a socket with a file, and two sockets', async () => {
    assertSays(await readOverTls('diff', file), 0);
    const sockets = [dir.join('a'), dir.join('b')];
    const ends = sockets.map((path) => `unix:${path}`);
    const command = new Command(['diff', ...ends, '--from-tls', good]);
    for (const socket of sockets) {
      await until(() => fs.existsSync(socket) || undefined, { what: 'the command to listen' });
      sendOverTls(socket, good, bytes);
    }
    assertSays(await command.ended(), 0);
  });

  test('a client without TLS is turned away, and the next one is read', async () => {
    const socket = dir.join('plain');
    const command = new Command(['verify', `unix:${socket}`, '--from-tls', good]);
    await command.listening();
    await sendPlain(socket, bytes.subarray(0, 4096));
    sendOverTls(socket, good, bytes);
    assertSays(await command.ended(), 0);
  });

  test('TLS options for files, and credentials that are missing, are refused before anything opens', async () => {
    const tls = ['--from-tls', good];
    for (const args of [['verify'], ['template', dir.join('none')], ['diff', file]]) {
      const [name = '', ...rest] = args;
      assertSays(await run([name, file, ...rest, ...tls]), 2, /only tcp: and unix:/);
    }
    const absent = ['--from-tls', dir.join('absent')];
    assertSays(await run(['verify', `unix:${dir.join('s')}`, ...absent]), 4, /absent/);
  });
});
