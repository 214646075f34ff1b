import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { describe, test } from 'node:test';
import { ReturnPathVerdict } from '../../../lib/cli/relay/return-path-verdict.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { Command } from '../../helpers/command/command.ts';

const PONG = '0002000400000001';
const SHUT = '0001000400000000';
const SHUT_1 = '0001000400000001';

/** Return the verdict on a return path of these bytes, in chunks of the given size. */
function failureOf(hex: string, size: number): string | null {
  const end = new ReturnPathVerdict();
  const bytes = Buffer.from(hex, 'hex');
  for (let at = 0; at < bytes.length; at += size) end.observe(bytes.subarray(at, at + size));
  return end.failure()?.error.message ?? null;
}

describe('the end of a return path', () => {
  test('is good if the last message reports success, in any chunks', () => {
    for (const size of [1, 3, 7, 8, 16]) {
      assert.equal(failureOf(PONG + SHUT, size), null);
      assert.equal(failureOf(SHUT, size), null);
    }
  });

  test('is good if no message ever arrived, because none was requested', () => {
    assert.equal(failureOf('', 1), null);
  });

  test('is bad if the destination says so, or nothing', () => {
    for (const size of [1, 3, 7, 8, 16]) {
      assert.match(failureOf(PONG + SHUT_1, size) ?? '', /EPROTO.*could not load.*SHUT 1/);
      assert.match(failureOf(PONG, size) ?? '', /EPROTO.*before the destination confirmed/);
      assert.match(
        failureOf(PONG + SHUT.slice(0, 14), size) ?? '',
        /EPROTO.*before the destination confirmed/,
      );
      assert.match(
        failureOf(PONG.slice(0, 4), size) ?? '',
        /EPROTO.*before the destination confirmed/,
      );
    }
  });
});

/** Relays a stream to a destination that answers with some bytes, and ends. */
async function relayTo(
  answer: string,
  ...args: string[]
): Promise<{ code: number | null; stderr: string }> {
  await using dir = makeTempDir();
  const server = createServer((socket: Socket) => {
    socket.on('error', () => {}).resume();
    socket.once('end', () => socket.end(Buffer.from(answer, 'hex')));
  });
  await once(server.listen(dir.join('to')), 'listening');
  const [from, to] = [`unix:${dir.join('from')}`, `unix:${dir.join('to')}`];
  const relay = new Command(['relay', from, to, ...args]);
  await relay.listening();
  const source = connect({ path: dir.join('from'), allowHalfOpen: true });
  source.on('error', () => {}).resume();
  source.end(Buffer.from('5145564d00000003', 'hex'));
  const { code, stderr } = await relay.ended();
  source.destroy();
  server.close();
  return { code, stderr };
}

describe('a relay between sockets', () => {
  for (const args of [[], ['--channels', '2']]) {
    test(`is done when the destination says that it has the guest (${args.join(' ')})`, async () => {
      const { code, stderr } = await relayTo(PONG + SHUT, ...args);
      assert.equal(code, 0, stderr);
    });

    test(`has failed when the destination leaves without a word (${args.join(' ')})`, async () => {
      const { code, stderr } = await relayTo(PONG, ...args);
      assert.equal(code, 4, stderr);
      assert.match(stderr, /"to" \(unix:.*\).* failed after 8 bytes: EPROTO/);
    });
  }

  test('ignores the return path if no check is requested', async () => {
    const { code, stderr } = await relayTo(PONG, '--no-check');
    assert.equal(code, 0, stderr);
  });
});
