// relay over TLS to programs that are not QEMU.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, type TestContext, test } from 'node:test';
import { pattern } from '../../helpers/bytes.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { run } from '../../helpers/command/command.ts';
import { makeCredentials } from '../../helpers/transports/credentials.ts';
import { until } from '../../helpers/until.ts';

const LIMITS = { timeout: 300_000, skip: spawnSync('socat', ['-V']).status !== 0 };

const dir = makeTempDir();
after(() => dir.remove());
const { good } = makeCredentials(dir.path);

/** Start `socat -u` with a TLS listener; returns it with the port that it listens on. */
async function startSocat(
  t: TestContext,
  to: string,
): Promise<[socat: ChildProcess, port: number]> {
  const credentials = `cert=${join(good, 'server-cert.pem')},key=${join(good, 'server-key.pem')}`;
  const listen = `OPENSSL-LISTEN:0,bind=127.0.0.1,verify=0,${credentials}`;
  const socat = spawn('socat', ['-d', '-d', '-u', listen, to], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  t.after(() => socat.kill());
  let log = '';
  socat.stderr.on('data', (text) => {
    log += String(text);
  });
  const port = await until(() => /listening on AF=2 127\.0\.0\.1:(\d+)/.exec(log)?.[1], {
    what: 'socat to listen',
  });
  return [socat, Number(port)];
}

describe('relay over TLS to socat, which never writes', LIMITS, () => {
  const relay = async (port: number, bytes: Buffer) => {
    const from = dir.join('from');
    writeFileSync(from, bytes);
    const to = `tcp:127.0.0.1:${port}`;
    const options = ['--no-check', '--to-tls', good, '--to-tls-hostname', 'localhost'];
    return run(['relay', from, to, ...options]);
  };

  test('succeeds when socat has read all bytes', async (t) => {
    const to = dir.join('to');
    const [socat, port] = await startSocat(t, `CREATE:${to}`);
    const exited = once(socat, 'close');
    const sent = pattern(5_000_000);
    const { code, stderr } = await relay(port, sent);
    assert.equal(code, 0, String(stderr));
    await exited;
    assert.ok(readFileSync(to).equals(sent));
  });

  test('fails when socat could not write the bytes that it has read', async (t) => {
    const [socat, port] = await startSocat(t, 'OPEN:/dev/full');
    const exited = once(socat, 'close');
    const { code, stderr } = await relay(port, pattern(20_000_000));
    assert.equal(code, 4, String(stderr));
    assert.match(String(stderr), /"to" .*failed/);
    await exited;
  });
});
