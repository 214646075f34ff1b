// Parsing of QEMU's URIs.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { parseUri, type Uri } from '../../adapters/index.ts';
import { QemuFileError } from '../../lib/index.ts';

const good: Record<string, Uri> = {
  'tcp:localhost:4444': { scheme: 'tcp', host: 'localhost', port: 4444 },
  'tcp:0:4444': { scheme: 'tcp', host: '0', port: 4444 },
  'tcp:192.0.2.1:65535': { scheme: 'tcp', host: '192.0.2.1', port: 65535 },
  'tcp::4444': { scheme: 'tcp', host: '', port: 4444 },
  'tcp:[::1]:0': { scheme: 'tcp', host: '::1', port: 0 },
  'tcp:[fe80::1%eth0]:80': { scheme: 'tcp', host: 'fe80::1%eth0', port: 80 },
  'unix:/run/vm.sock': { scheme: 'unix', path: '/run/vm.sock' },
  'unix:vm,a:b': { scheme: 'unix', path: 'vm,a:b' },
  'fd:0': { scheme: 'fd', fd: 0 },
  'fd:17': { scheme: 'fd', fd: 17 },
  'exec:gzip -c > a:b': { scheme: 'exec', command: 'gzip -c > a:b' },
  'exec:cat /tmp/x,offset=1': { scheme: 'exec', command: 'cat /tmp/x,offset=1' },
  'file:/tmp/save': { scheme: 'file', path: '/tmp/save', offset: 0 },
  'file:foo:x': { scheme: 'file', path: 'foo:x', offset: 0 },
  'file:a,b': { scheme: 'file', path: 'a,b', offset: 0 },
  'file:a,offset=0': { scheme: 'file', path: 'a', offset: 0 },
  'file:a,offset=4096': { scheme: 'file', path: 'a', offset: 4096 },
  'file:a,offset=010': { scheme: 'file', path: 'a', offset: 10 },
  'file:a,offset=0x1000': { scheme: 'file', path: 'a', offset: 4096 },
  'file:a,offset=0X1f': { scheme: 'file', path: 'a', offset: 31 },
  'file:a,offset=4k': { scheme: 'file', path: 'a', offset: 4096 },
  'file:a,offset=4K': { scheme: 'file', path: 'a', offset: 4096 },
  'file:a,offset=2M': { scheme: 'file', path: 'a', offset: 2 ** 21 },
  'file:a,offset=1.5G': { scheme: 'file', path: 'a', offset: 1.5 * 2 ** 30 },
  'file:a,offset=1T': { scheme: 'file', path: 'a', offset: 2 ** 40 },
  'file:a,offset=1P': { scheme: 'file', path: 'a', offset: 2 ** 50 },
  'file:a,offset=512B': { scheme: 'file', path: 'a', offset: 512 },
  '/tmp/save': { scheme: 'file', path: '/tmp/save', offset: 0 },
  save: { scheme: 'file', path: 'save', offset: 0 },
  './foo:x': { scheme: 'file', path: './foo:x', offset: 0 },
  'dir/a:b': { scheme: 'file', path: 'dir/a:b', offset: 0 },
  'a,offset=1': { scheme: 'file', path: 'a,offset=1', offset: 0 },
  '-': { scheme: 'stdio' },
  '--': { scheme: 'file', path: '--', offset: 0 },
};

/** Each with a part of its message. */
const bad: Record<string, RegExp> = {
  '': /empty/,
  'foo:x':
    /known are tcp:host:port, unix:path.*write a path with a colon as \.\/foo:x or file:foo:x/,
  ':x': /unknown scheme ":"/,
  'TCP:a:1': /unknown scheme "TCP:"/,
  'C:\\guest': /unknown scheme/,
  'tcp:': /tcp:host:port/,
  'tcp:localhost': /tcp:host:port/,
  'tcp:localhost:': /"" is not a port number/,
  'tcp:localhost:x': /"x" is not a port number/,
  'tcp:localhost:65536': /port number in 0…65535/,
  'tcp:localhost:-1': /port number/,
  'tcp:localhost: 1': /port number/,
  'tcp:localhost:0x10': /port number/,
  'tcp:localhost:ssh': /port number/,
  'tcp:::1:4444': /brackets/,
  'tcp:[]:4444': /brackets/,
  'tcp:[::1]4444': /brackets/,
  'tcp:[::1:4444': /brackets/,
  'tcp:localhost:4444,ipv4': /after a comma/,
  'tcp:localhost:4444,to=4446': /after a comma/,
  'unix:': /path is missing/,
  [`unix:/${'x'.repeat(108)}`]: /109 bytes/,
  'fd:': /is not a descriptor; write its number/,
  'fd:name': /is not a descriptor; write its number/,
  'fd:-1': /is not a descriptor; write its number/,
  'fd:1.5': /is not a descriptor; write its number/,
  'exec:': /command is missing/,
  'exec:  ': /command is missing/,
  'file:': /path is missing/,
  'file:,offset=1': /path is missing/,
  'file:a,offset=': /"" is not an offset/,
  'file:a,offset=x': /"x" is not an offset/,
  'file:a,offset=-1': /"-1" is not an offset/,
  'file:a,offset=1.5': /"1\.5" is not an offset/,
  'file:a,offset=0x': /"0x" is not an offset/,
  'file:a,offset=0x1k': /"0x1k" is not an offset/,
  'file:a,offset=1 k': /"1 k" is not an offset/,
  'file:a,offset=1kB': /"1kB" is not an offset/,
  'file:a,offset=9E': /"9E" is not an offset/,
  'file:a,offset=1,offset=2': /"1,offset=2" is not an offset/,
  'a\0b': /NUL/,
};

function errorOf(text: string): QemuFileError {
  try {
    parseUri(text);
  } catch (error) {
    assert.ok(error instanceof QemuFileError);
    assert.equal(error.operation, 'parseUri');
    return error;
  }
  assert.fail(`${text} was parsed`);
}

describe('parseUri', () => {
  for (const [text, uri] of Object.entries(good)) {
    test(`parses ${text}`, () => assert.deepEqual(parseUri(text), uri));
  }

  for (const [text, reason] of Object.entries(bad)) {
    test(`rejects ${JSON.stringify(text.slice(0, 40))} with a reason`, () => {
      const { code, message } = errorOf(text);
      assert.equal(code, 'EINVAL');
      assert.match(message, reason);
    });
  }

  for (const text of ['vsock:2:1234', 'rdma:host:4444']) {
    test(`rejects ${text} as not supported`, () => {
      const { code, message } = errorOf(text);
      assert.equal(code, 'ENOTSUP');
      assert.match(message, /not supported, because/);
    });
  }

  test('returns a URI or throws a QemuFileError for any text', () => {
    const schemes = fc.constantFrom('', 'tcp:', 'unix:', 'fd:', 'exec:', 'file:', 'vsock:', 'x:');
    fc.assert(
      fc.property(schemes, fc.string(), (scheme, rest) => {
        try {
          return typeof parseUri(scheme + rest).scheme === 'string';
        } catch (error) {
          return error instanceof QemuFileError;
        }
      }),
    );
  });

  test('parses every number of bytes as an offset', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (offset) => {
        for (const digits of [`${offset}`, `0x${offset.toString(16)}`]) {
          assert.deepEqual(parseUri(`file:p,offset=${digits}`), {
            scheme: 'file',
            path: 'p',
            offset,
          });
        }
      }),
    );
  });
});
