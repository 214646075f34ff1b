// convert and compact between peers that speak TLS, by node:tls itself.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import { after, describe, test } from 'node:test';
import tls from 'node:tls';
import { recording, unpack } from '../../../fixtures/recording.ts';
import { makeTempDir } from '../../../helpers/cleanup.ts';
import { Command, run } from '../../../helpers/command/command.ts';
import { assertSays, put } from '../../../helpers/command/reading-command.ts';
import { readStream } from '../../../helpers/reading/read-stream.ts';
import { makeCredentials } from '../../../helpers/transports/credentials.ts';
import { credentialsIn, sendOverTls, sendPlain } from '../../../helpers/transports/tls-sender.ts';
import { until } from '../../../helpers/until.ts';

const LIMITS = { timeout: 300_000 };

const dir = makeTempDir();
after(() => dir.remove());
const { anonymous, good, stranger } = makeCredentials(dir.path);

const [recorded] = recording('pc').files;
assert.ok(recorded);
const bytes = unpack(recorded);
const from = put(dir, 'from', bytes);

/** A TLS server at a path that wants a certificate from its client and collects what it sends. */
class Receiver implements AsyncDisposable {
  readonly chunks: Buffer[] = [];
  readonly #server: tls.Server;

  constructor(path: string) {
    const options = { ...credentialsIn(good, 'server'), requestCert: true };
    this.#server = tls.createServer(options, (socket) => {
      socket.on('error', () => {}).on('data', (chunk: Buffer) => this.chunks.push(chunk));
    });
    this.#server.listen(path);
  }

  get bytes(): Buffer {
    return Buffer.concat(this.chunks);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    await once(this.#server, 'close');
  }
}

describe('convert and compact over TLS', LIMITS, () => {
  test('convert reads from a TLS client and writes to a TLS server', async () => {
    const [socket, target] = [dir.join('from-socket'), dir.join('to-socket')];
    await using receiver = new Receiver(target);
    const ends = [`unix:${socket}`, `unix:${target}`];
    const command = new Command(['convert', ...ends, '--from-tls', good, '--to-tls', good]);
    await command.listening();
    sendOverTls(socket, good, bytes);
    assertSays(await command.ended(), 0);
    assert.ok(receiver.bytes.equals(bytes));
  });

  test('compact reads from a TLS client, and writes to a TLS server, what it does in files', async () => {
    const [socket, target] = [dir.join('compact-from'), dir.join('compact-to')];
    const [file, to] = [dir.join('compact-file'), dir.join('compact-read')];
    assertSays(await run(['compact', from, file]), 0);
    const expected = fs.readFileSync(file);
    await using receiver = new Receiver(target);
    assertSays(await run(['compact', from, `unix:${target}`, '--to-tls', good]), 0);
    assert.ok(receiver.bytes.equals(expected));
    const command = new Command(['compact', `unix:${socket}`, to, '--from-tls', good]);
    await command.listening();
    sendOverTls(socket, good, bytes);
    assertSays(await command.ended(), 0);
    assert.ok(fs.readFileSync(to).equals(expected));
  });

  test('compact reads a further channel over TLS as well', async () => {
    const [main, ...others] = recording('multifd-none').files.map(unpack);
    assert.ok(main);
    const sockets = [dir.join('main'), dir.join('ch0'), dir.join('ch1')];
    const [first = '', ...rest] = sockets;
    const channels = rest.flatMap((path) => ['--channel', `unix:${path}`]);
    const to = dir.join('whole');
    const command = new Command(['compact', `unix:${first}`, to, ...channels, '--from-tls', good]);
    for (const [index, content] of [main, ...others].entries()) {
      const path = sockets[index] ?? '';
      await until(() => fs.existsSync(path) || undefined, { what: 'the command to listen' });
      sendOverTls(path, good, content);
    }
    assertSays(await command.ended(), 0);
    const whole = await readStream([fs.readFileSync(to)]);
    assert.ok(whole.reader.ram.blocks.every(({ pages }) => pages.multifd === 0));
  });

  test('a client without TLS is turned away, and the next one is read', async () => {
    const [socket, to] = [dir.join('plain'), dir.join('after-plain')];
    const command = new Command(['convert', `unix:${socket}`, to, '--from-tls', good]);
    await command.listening();
    await sendPlain(socket, bytes.subarray(0, 4096));
    sendOverTls(socket, good, bytes);
    assertSays(await command.ended(), 0);
    assert.ok(fs.readFileSync(to).equals(bytes));
  });

  test('nothing is written to a server of another authority', async () => {
    const socket = dir.join('other');
    await using receiver = new Receiver(socket);
    const ended = await run(['convert', from, `unix:${socket}`, '--to-tls', stranger]);
    assertSays(ended, 4, /certificate/);
    assert.equal(receiver.bytes.length, 0);
  });

  test('the message about a server that hangs up after the handshake names the certificate', async () => {
    const path = dir.join('hang-up');
    const server = tls.createServer(credentialsIn(good, 'server'), (socket) => socket.destroy());
    server.on('tlsClientError', () => {}).listen(path);
    try {
      const ended = await run(['compact', from, `unix:${path}`, '--to-tls', anonymous]);
      assertSays(ended, 4, /the peer may require a client certificate/);
    } finally {
      server.close();
    }
  });

  test('a stream that is cut leaves no file', async () => {
    const [socket, to] = [dir.join('cut'), dir.join('cut-to')];
    const command = new Command(['compact', `unix:${socket}`, to, '--from-tls', good]);
    await command.listening();
    sendOverTls(socket, good, bytes.subarray(0, 100_000));
    assertSays(await command.ended(), 1, /ends/);
    assert.ok(!fs.existsSync(to));
  });

  test('options that fit no socket, and files that are missing, are refused before anything opens', async () => {
    const to = dir.join('refused');
    assertSays(await run(['convert', from, to, '--from-tls', good]), 2, /only tcp: and unix:/);
    assertSays(await run(['compact', from, to, '--to-tls', good]), 2, /only tcp: and unix:/);
    const absent = ['--to-tls-ca', dir.join('absent')];
    assertSays(await run(['convert', from, `unix:${to}`, ...absent]), 4, /absent/);
    assert.ok(!fs.existsSync(to));
  });
});
