import assert from 'node:assert/strict';
import net from 'node:net';
import { Duplex } from 'node:stream';
import { describe, test } from 'node:test';
import { QemuFileError } from '../../../lib/contract/errors.ts';
import { QmpClient, QmpError, type QmpEvent } from '../../../lib/vm/index.ts';
import { makeTempDir } from '../../helpers/cleanup.ts';
import { fails } from '../../helpers/errors.ts';
import { watchLeaks } from '../../helpers/leaks.ts';
import { duplexPair } from '../../helpers/transports/duplex-pair.ts';
import { until } from '../../helpers/until.ts';
import { connectFake, FakeMonitor, GREETING } from '../fake-monitor.ts';

describe('a QMP client that connects', () => {
  test('has the greeting, and has left negotiation', async () => {
    const { qmp, monitor } = await connectFake();
    assert.deepEqual(qmp.greeting, {
      version: { major: 10, minor: 0, micro: 2 },
      package: 'Debian 1:10.0.2',
      capabilities: ['oob'],
    });
    assert.deepEqual(monitor.received, []);
    await qmp.close();
  });

  for (const [what, line, code, message] of [
    ['garbage', 'HTTP/1.1 400 Bad Request\r\n', 'EPROTO', /does not speak QMP: it sent "HTTP\/1.1/],
    ['JSON that is no greeting', '{"return": {}}\r\n', 'EPROTO', /does not speak QMP/],
    ['a list', '[1, 2]\n', 'EPROTO', /does not speak QMP/],
    ['a greeting of nothing', '{"QMP": null}\n', 'EPROTO', /does not speak QMP/],
    [
      'the monitor for people',
      "QEMU 7.2.22 monitor - type 'help'\r\n",
      'EPROTO',
      /human monitor \(-monitor\), not QMP; start QEMU with -qmp/,
    ],
    ['a monitor that is pretty', '{\r\n    "QMP": {\r\n', 'EPROTO', /instead of -qmp-pretty/],
    ['control characters', '\u001b[2Jboo\n', 'EPROTO', /\\u\{1b\}\[2Jboo/],
  ] as const) {
    test(`reports a peer that is ${what}`, async () => {
      const [ours, theirs] = duplexPair(Duplex);
      const connecting = QmpClient.connect(ours);
      theirs.on('error', () => {}).write(line);
      await assert.rejects(connecting, fails(code, message));
      assert.equal(ours.destroyed, true);
    });
  }

  test('reports that another client may be connected if no greeting arrives', async () => {
    // Connected already, so that the time cannot be up before that.
    const [ours] = duplexPair(Duplex);
    const connecting = QmpClient.connect(ours, { timeoutMs: 50 });
    await assert.rejects(connecting, fails('ETIMEDOUT', /one client per monitor at a time/));
  });

  test('quotes the beginning of a line that did not end in time', async () => {
    const [ours, theirs] = duplexPair(Duplex);
    const connecting = QmpClient.connect(ours, { timeoutMs: 50 });
    theirs.on('error', () => {}).write('login: ');
    await assert.rejects(connecting, fails('ETIMEDOUT', /only "login:"/));
  });

  test('ends with the connection, with its signal, and where nothing listens', async () => {
    const [ours, theirs] = duplexPair(Duplex);
    const ended = QmpClient.connect(ours);
    theirs.end();
    await assert.rejects(ended, fails('ECONNRESET', /QEMU ended the connection/));
    await assert.rejects(QmpClient.connect(ours), fails('ECONNRESET', /ended the connection/));

    const aborted = QmpClient.connect(duplexPair(Duplex)[0], { signal: AbortSignal.timeout(10) });
    await assert.rejects(aborted, fails('ECANCELED', /connect: aborted/));
    const late = { signal: AbortSignal.abort() };
    await assert.rejects(
      QmpClient.connect(duplexPair(Duplex)[0], late),
      fails('ECANCELED', /aborted/),
    );
    await assert.rejects(QmpClient.connect('/nowhere/qmp'), fails('ENOENT', /nowhere/));
  });

  test('leaves nothing open, for every result', async () => {
    await using dir = makeTempDir();
    const silent: net.Socket[] = [];
    const server = net.createServer((socket) => silent.push(socket)).listen(dir.join('qmp'));
    await using leaks = await watchLeaks();
    for (let i = 0; i < 3; i++) {
      await assert.rejects(QmpClient.connect(dir.join('qmp'), { timeoutMs: 20 }));
      const { qmp, stream } = await connectFake((command) => command.arguments);
      await qmp.execute('echo', { a: 1 });
      await qmp.close();
      for (const name of ['data', 'end', 'error'])
        assert.equal(stream.listenerCount(name), 0, name);
    }
    for (const socket of silent) socket.destroy();
    await leaks.check();
    server.close();
  });
});

describe('a command', () => {
  test('receives its own reply, in any order and at every split', async () => {
    const { qmp, monitor } = await connectFake();
    const names = ['query-a', 'query-b', 'query-c'];
    const answers = names.map((name) => qmp.execute(name, { x: name }));
    const lines: Buffer[] = [];
    for (const name of names.toReversed()) {
      const { id, arguments: args } = await monitor.command(name);
      assert.deepEqual(args, { x: name });
      lines.push(Buffer.from(`${JSON.stringify({ return: `${name} ✓ 🐧`, id })}\r\n`));
      lines.push(
        Buffer.from(
          '{"event": "STOP", "data": {}, "timestamp": {"seconds": 1, "microseconds": 2}}\n',
        ),
      );
    }
    for (const byte of Buffer.concat(lines)) monitor.say(Buffer.of(byte));
    assert.deepEqual(
      await Promise.all(answers),
      names.map((name) => `${name} ✓ 🐧`),
    );
    await until(() => qmp.eventCount === 3, { what: 'the events' });
    await qmp.close();
  });

  test('that QEMU refuses says its class and its words, and only that one fails', async () => {
    const { qmp, monitor } = await connectFake(() => undefined);
    const refused = qmp.execute('bogus', {});
    const { id } = await monitor.command('bogus');
    monitor.say({
      id,
      error: { class: 'CommandNotFound', desc: 'The command bogus has not been found' },
    });
    await assert.rejects(refused, (error: unknown) => {
      assert.ok(error instanceof QmpError && error instanceof QemuFileError);
      assert.deepEqual(
        [error.code, error.command, error.qmpClass, error.description],
        ['ENOTSUP', 'bogus', 'CommandNotFound', 'The command bogus has not been found'],
      );
      assert.match(error.message, /^ENOTSUP: bogus: QEMU refused: The command bogus/);
      return true;
    });
    assert.equal(new QemuFileError('EIO', 'x') instanceof QmpError, false);
    await qmp.close();
  });

  test('ignores objects of another shape', async () => {
    const { qmp, monitor } = await connectFake();
    const events: QmpEvent[] = [];
    qmp.on('event', (one) => events.push(one));
    for (const error of [null, {}, 'no']) {
      const refused = qmp.execute('first');
      const { id } = await monitor.command('first');
      monitor.received.length = 0;
      for (const timestamp of [null, 'now', {}]) monitor.say({ event: 'E', data: 1, timestamp });
      monitor.say({ id, error });
      await assert.rejects(refused, fails('EIO', /QEMU refused: /));
    }
    const [event] = events;
    assert.deepEqual([events.length, event], [9, { event: 'E', data: {}, sequence: 1 }]);
    await qmp.close();
  });

  test('that is given up leaves the client usable, and its late answer is dropped', async () => {
    const { qmp, monitor } = await connectFake();
    const slow = qmp.execute('slow', {}, { timeoutMs: 20 });
    const { id } = await monitor.command('slow');
    await assert.rejects(slow, fails('ETIMEDOUT', /slow: QEMU did not answer within 20 ms/));
    const controller = new AbortController();
    const aborted = qmp.execute('aborted', {}, { signal: controller.signal });
    controller.abort(new Error('enough'));
    await assert.rejects(aborted, fails('ECANCELED', /aborted: aborted by its signal/));
    monitor.say({ return: 'late', id });
    monitor.say({ return: 'nobody asked', id: 4711 });
    monitor.say({ return: 'not even an id' });
    monitor.say({ error: { class: 'GenericError', desc: 'JSON parse error' } });
    const next = qmp.execute('next');
    const { id: nextId } = await monitor.command('next');
    monitor.say({ return: 1, id: nextId });
    assert.equal(await next, 1);
    const signal = AbortSignal.abort();
    await assert.rejects(qmp.execute('never', {}, { signal }), fails('ECANCELED', /never/));
    assert.equal(
      monitor.received.some(({ execute }) => execute === 'never'),
      false,
    );
    await qmp.close();
  });

  test('is rejected at the end of the connection, and so are all later ones', async () => {
    const { qmp, monitor } = await connectFake();
    const closes: unknown[] = [];
    qmp.on('close', (error) => closes.push(error));
    const pending = [qmp.execute('a'), qmp.execute('b'), qmp.waitForEvent('STOP')];
    await monitor.command('b');
    monitor.stream.destroy();
    for (const one of pending) await assert.rejects(one, fails('ECONNRESET', /QEMU ended/));
    await assert.rejects(qmp.execute('c'), fails('ECONNRESET', /QEMU ended/));
    await assert.rejects(qmp.waitForEvent('STOP'), fails('ECONNRESET', /QEMU ended/));
    assert.equal(qmp.isClosed, true);
    assert.equal(closes.length, 1);
    await qmp.close();
  });

  test('is rejected by close(), which can be called again', async () => {
    const { qmp, monitor } = await connectFake();
    const pending = qmp.execute('a');
    await monitor.command('a');
    const closing = qmp.close();
    await assert.rejects(pending, fails('ECANCELED', /a: the QMP client is closed/));
    await closing;
    await qmp.close();
    await assert.rejects(qmp.execute('b'), fails('ECANCELED', /b: the QMP client is closed/));
  });

  test('is rejected if the peer stops speaking QMP', async () => {
    const { qmp, monitor } = await connectFake();
    const pending = qmp.execute('a');
    monitor.say('Segmentation fault\n');
    await assert.rejects(pending, fails('EPROTO', /it sent "Segmentation fault"/));
    await qmp.close();
  });

  test('whose arguments have no JSON is rejected and not sent', async () => {
    const { qmp, monitor } = await connectFake();
    await assert.rejects(qmp.execute('a', { size: 1n }), TypeError);
    assert.deepEqual(monitor.received, []);
    await qmp.close();
  });
});

describe('commands out of band', () => {
  /** A monitor that answers each line with the line itself. */
  async function echoing(
    greeting: object,
    oob: boolean,
  ): Promise<{ connecting: Promise<QmpClient>; lines: string[] }> {
    const [ours, theirs] = duplexPair(Duplex);
    const lines: string[] = [];
    theirs
      .on('error', () => {})
      .setEncoding('utf8')
      .on('data', (text: string) => {
        for (const line of text.split('\n').filter((one) => one !== '')) {
          lines.push(line);
          theirs.write(
            `${JSON.stringify({ return: {}, id: (JSON.parse(line) as { id: number }).id })}\n`,
          );
        }
      });
    const connecting = QmpClient.connect(ours, { oob });
    theirs.write(`${JSON.stringify(greeting)}\n`);
    return { connecting, lines };
  }

  test('are sent as exec-oob, after the capability was enabled', async () => {
    const { connecting, lines } = await echoing(GREETING, true);
    await using qmp = await connecting;
    await qmp.execute('migrate-recover', { uri: 'unix:/x' }, { oob: true });
    await qmp.execute('query-status');
    assert.deepEqual(lines, [
      '{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":1}',
      '{"exec-oob":"migrate-recover","arguments":{"uri":"unix:/x"},"id":2}',
      '{"execute":"query-status","arguments":{},"id":3}',
    ]);
  });

  test('are refused on a client that was connected without oob', async () => {
    const { connecting, lines } = await echoing(GREETING, false);
    await using qmp = await connecting;
    const failing = qmp.execute('migrate-recover', {}, { oob: true });
    await assert.rejects(failing, fails('EINVAL', /connected without `oob`/));
    assert.equal(lines.length, 1);
  });

  test('need a monitor that offers them', async () => {
    const greeting = {
      QMP: { version: { qemu: { micro: 0, minor: 11, major: 2 } }, capabilities: [] },
    };
    const { connecting } = await echoing(greeting, true);
    await assert.rejects(connecting, fails('ENOTSUP', /does not offer the capability "oob"/));
  });
});

describe('events', () => {
  const event = (name: string, data: object = {}): object => ({ event: name, data });

  test('are waited for from before their cause, or with a count from before it', async () => {
    const { qmp, monitor } = await connectFake((command) => {
      if (command.execute === 'stop') monitor.say(event('STOP'));
      return {};
    });
    const stopped = qmp.waitForEvent('STOP');
    await qmp.execute('stop');
    assert.equal((await stopped).sequence, 1);

    const since = qmp.eventCount;
    await qmp.execute('stop');
    await qmp.execute('query-status');
    assert.equal((await qmp.waitForEvent('STOP', { since })).sequence, 2);
    const missed = qmp.waitForEvent('STOP', { timeoutMs: 20 });
    await assert.rejects(missed, fails('ETIMEDOUT', /the event STOP did not arrive within 20 ms/));
    await qmp.close();
  });

  test('are distinguished by name and by their data', async () => {
    const { qmp, monitor } = await connectFake();
    const completed = qmp.waitForEvent('MIGRATION', {
      matches: ({ data }) => data.status === 'completed',
    });
    monitor.say(event('STOP'));
    monitor.say(event('MIGRATION', { status: 'active' }));
    monitor.say(event('MIGRATION', { status: 'completed' }));
    assert.deepEqual((await completed).data, { status: 'completed' });
    assert.equal(qmp.listenerCount('close'), 0);
    await qmp.close();
  });

  test('can be waited for by many at a time, without a warning', async () => {
    const { qmp, monitor } = await connectFake();
    const warnings: Error[] = [];
    const onWarning = (warning: Error): void => void warnings.push(warning);
    process.on('warning', onWarning);
    const waits = Array.from({ length: 20 }, () => qmp.waitForEvent('STOP'));
    monitor.say(event('STOP'));
    await Promise.all(waits);
    process.off('warning', onWarning);
    assert.deepEqual(warnings, []);
    await qmp.close();
  });

  test('whose filter throws fail only that wait', async () => {
    const { qmp, monitor } = await connectFake();
    const matches = (): boolean => {
      throw new Error('what is that?');
    };
    const failing = assert.rejects(qmp.waitForEvent('STOP', { matches }), /what is that/);
    // Longer than a timer can wait.
    const stopped = qmp.waitForEvent('STOP', { timeoutMs: Number.POSITIVE_INFINITY });
    monitor.say(event('STOP'));
    await failing;
    assert.equal((await stopped).sequence, 1);
    await qmp.close();
  });

  test('are iterated over from where that began, to the end of the client', async () => {
    const { qmp, monitor } = await connectFake();
    monitor.say(event('BEFORE'));
    await until(() => qmp.eventCount === 1, { what: 'the first event' });
    const names: string[] = [];
    const iterating = (async () => {
      for await (const { event: name } of qmp) names.push(name);
    })();
    for (const name of ['A', 'B', 'C']) monitor.say(event(name));
    await until(() => names.length === 3, { what: 'the events' });
    await qmp.close();
    await iterating;
    assert.deepEqual(names, ['A', 'B', 'C']);
  });

  test('that are not taken are kept up to a bound, and the loss is reported', async () => {
    const { qmp, monitor } = await connectFake();
    const iterator = qmp[Symbol.asyncIterator]();
    for (let i = 1; i <= 2500; i++) monitor.say(event('FLOOD', { i }));
    await until(() => qmp.eventCount === 2500, { what: 'the events' });
    await assert.rejects(iterator.next(), fails('ENOBUFS', /events arrived before/));
    const kept = await qmp.waitForEvent('FLOOD', { since: 1501 });
    assert.equal(kept.data.i, 1502);
    await qmp.close();
  });

  test('are emitted as well if they have no time', async () => {
    const { qmp, monitor } = await connectFake(() => 'fine');
    const seen: QmpEvent[] = [];
    qmp.on('event', (one) => seen.push(one));
    monitor.say({
      ...event('RESET', { guest: true }),
      timestamp: { seconds: -1, microseconds: -1 },
    });
    await until(() => seen.length === 1, { what: 'the event' });
    assert.deepEqual(seen, [{ event: 'RESET', data: { guest: true }, sequence: 1 }]);
    await qmp.close();
  });
});

test('the end of a monitor reaches the client in the middle of a line', async () => {
  const [ours, theirs] = duplexPair(Duplex);
  const monitor = new FakeMonitor(theirs);
  const connecting = QmpClient.connect(ours);
  monitor.say(GREETING);
  const qmp = await connecting;
  const pending = qmp.execute('a');
  monitor.say('{"return": {}, "i');
  monitor.stream.end();
  await assert.rejects(pending, fails('ECONNRESET', /QEMU ended/));
  await qmp.close();
});
