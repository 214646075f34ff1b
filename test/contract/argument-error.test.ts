// Arguments that no typed program passes: the error names the function, the argument and what it may be.
import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, test } from 'node:test';
import { faultyOps } from '../../adapters/faulty/index.ts';
import {
  admit,
  connectSocket,
  decompressWith,
  describeTarget,
  execOps,
  fdOps,
  listenSocket,
  memoryOps,
  openFd,
  openFifo,
  openFrom,
  openPath,
  openTo,
  parseUri,
  pipeOps,
  processOps,
  socketOps,
} from '../../adapters/index.ts';
import { asNodeDuplex, QemuFile, relay, toWeb } from '../../lib/index.ts';
import {
  collectFrame,
  compareGuests,
  copyStream,
  MigrationReader,
  MigrationWriter,
  openSavedGuest,
  unpack,
  unwrap,
  verifyStream,
} from '../../lib/migration/index.ts';
import {
  makeTemplate,
  QmpClient,
  recoverLazily,
  restoreLazily,
  restoreTemplate,
  restoreVm,
  saveVm,
} from '../../lib/vm/index.ts';

type Call = (given: never) => unknown;

const CASES: readonly [name: string, call: Call, says: RegExp][] = [
  ['new QemuFile', (ops) => new QemuFile(ops), /^new QemuFile: ops must be a table with getBuffer/],
  ['asNodeDuplex', (file) => asNodeDuplex(file), /^asNodeDuplex: file must be a QemuFile,/],
  ['toWeb', (file) => toWeb(file), /^toWeb: file must be a QemuFile,/],
  ['relay, from', (file) => relay(file, new QemuFile({})), /^relay: from must be a QemuFile,/],
  ['relay, to', (file) => relay(new QemuFile({}), file), /^relay: to must be a QemuFile,/],
  ['parseUri', (text) => parseUri(text), /^parseUri: text must be a string,/],
  ['openFrom', (uri) => openFrom(uri), /^openFrom: uri must be tcp:host:port, .*, not /],
  ['openTo', (uri) => openTo(uri), /^openTo: uri must be tcp:host:port, .*, not /],
  ['openPath', (path) => openPath(path, { direction: 'read' }), /^openFd: path must be a string,/],
  ['openFd', (path) => openFd(path, { direction: 'read' }), /^openFd: path must be a string,/],
  [
    'openFifo',
    (path) => openFifo(path, { direction: 'read' }),
    /^openFifo: path must be a string,/,
  ],
  [
    'openFd, direction',
    (direction) => openFd('/nowhere', { direction }),
    /^openFd: direction must be 'read' or 'write',/,
  ],
  [
    'openFifo, direction',
    (direction) => openFifo('/nowhere', { direction }),
    /^openFifo: direction must be 'read' or 'write',/,
  ],
  ['execOps', (command) => execOps(command, 'read'), /^execOps: command must be a string,/],
  [
    'execOps, direction',
    (direction) => execOps('true', direction),
    /^execOps: direction must be 'read' or 'write' or 'both',/,
  ],
  ['processOps', (child) => processOps(child), /^processOps: child must be a ChildProcess/],
  ['socketOps', (socket) => socketOps(socket), /^socketOps: socket must be a Duplex/],
  ['connectSocket', (target) => connectSocket(target), /the target must be { host, port } or/],
  ['listenSocket', (target) => listenSocket(target), /the target must be { host, port } or/],
  ['describeTarget', (target) => describeTarget(target), /the target must be { host, port } or/],
  ['QmpClient.connect', (target) => QmpClient.connect(target), /the target must be { host, port }/],
  ['admit', (listener) => admit(listener), /^admit: listener must be the result of listenSocket,/],
  [
    'decompressWith',
    (format) => decompressWith(format),
    /^decompressWith: format must be 'gzip' or 'bzip2' or 'xz' or 'lzop' or 'zstd',/,
  ],
  ['MigrationWriter', (file) => new MigrationWriter(file), /file must be a QemuFile,/],
  ['MigrationReader', (source) => take(new MigrationReader(source)), /the source must be a Qemu/],
  ['verifyStream', (source) => verifyStream(source), /the source must be a QemuFile or an async/],
  ['collectFrame', (source) => collectFrame(source, {}), /the source must be a QemuFile or an/],
  ['unwrap', (file) => unwrap(file), /^unwrap: file must be a QemuFile,/],
  ['unpack', (file) => unpack(file), /^unpack: file must be a QemuFile,/],
  ['copyStream', (file) => copyStream(file, new QemuFile({})), /^copyStream: from must be a QemuF/],
  ['openSavedGuest', (stream) => openSavedGuest(stream), /stream.file must be a QemuFile,/],
  ['compareGuests', (a) => compareGuests(a, a), /^compareGuests: a must be a SavedGuest,/],
  ['makeTemplate', (guest) => makeTemplate(guest, '/x'), /guest must be a SavedGuest,/],
  ['saveVm', (qmp) => saveVm(qmp, new QemuFile({})), /^saveVm: qmp must be a QmpClient,/],
  ['restoreVm', (qmp) => restoreVm(qmp, new QemuFile({})), /^restoreVm: qmp must be a QmpClient,/],
  ['restoreLazily', (qmp) => restoreLazily(qmp, qmp), /^restoreLazily: qmp must be a QmpClient,/],
  ['recoverLazily', (qmp) => recoverLazily(qmp, qmp), /^recoverLazily: qmp must be a QmpClient,/],
  ['restoreTemplate', (qmp) => restoreTemplate(qmp, '/x'), /qmp must be a QmpClient,/],
];

async function take(reader: MigrationReader): Promise<void> {
  for await (const event of reader) assert.fail(event.type);
}

describe('a wrong argument is a TypeError that names it:', () => {
  for (const [name, call, says] of CASES) {
    test(name, async () => {
      for (const given of [undefined, null, 42, Number.NaN, [1], Symbol.iterator, /x/]) {
        await assert.rejects(async () => call(given as never), {
          name: 'TypeError',
          message: says,
        });
      }
    });
  }

  test('the number of a descriptor', () => {
    for (const fd of [undefined, null, '0', -1, 1.5, Number.NaN, 2 ** 31]) {
      const message = /: fd must be an integer from 0 to 2147483647, not /;
      assert.throws(() => fdOps(fd as never), { name: 'TypeError', message });
      assert.throws(() => pipeOps(fd as never), { name: 'TypeError', message });
    }
  });

  test('the first content of a memory', () => {
    for (const bytes of [null, 'abc', 42, [1, 2]]) {
      const message = /^memoryOps: initial must be a Uint8Array or Buffer, not /;
      assert.throws(() => memoryOps(bytes as never), { name: 'TypeError', message });
    }
  });

  test('a backend that is to fail', () => {
    const message = /^faultyOps: ops must be a table of operations \(QemuFileOps\), not undefined$/;
    assert.throws(() => faultyOps(undefined as never), { name: 'TypeError', message });
  });
});

test('a promise that was not awaited is called one', async () => {
  const promise = Promise.resolve(new QemuFile({}));
  await assert.rejects(relay(promise as never, new QemuFile({})), {
    message: 'relay: from must be a QemuFile, not a promise: await it first',
  });
});

describe('new QemuFile', () => {
  test('takes a table without an operation: its file only stages', () => {
    for (const ops of [{}, { getBuffer: undefined }, Object.create(null) as object]) {
      const file = new QemuFile(ops);
      file.putByte(1);
      assert.equal(file.getError(), 0);
    }
  });

  test('refuses a table that can neither read nor write, such as a stream or one with a misspelt name', () => {
    for (const ops of [new Readable(), { close() {} }, { getbuffer: () => 0 }, [], new Map()]) {
      assert.throws(() => new QemuFile(ops as never), {
        name: 'TypeError',
        message: /^new QemuFile: ops must be a table with getBuffer or writevBuffer, or {} /,
      });
    }
  });

  test('refuses an operation that is not a function, and an unknown digest', () => {
    assert.throws(() => new QemuFile({ getBuffer: 42 as never }), /ops must be a table/);
    assert.throws(() => new QemuFile({}, { digest: 'md5' as never }), {
      name: 'TypeError',
      message: `new QemuFile: digest must be 'xxh64', not "md5"`,
    });
  });
});
