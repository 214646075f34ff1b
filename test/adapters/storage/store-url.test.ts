import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isStoreUrl, parseStoreUrl } from '../../../adapters/storage/store-url.ts';

const S3 = { endpoint: undefined, region: undefined, pathStyle: undefined };

test('a directory with and without the name of a snapshot', () => {
  assert.deepEqual(parseStoreUrl('store:/srv/vm#agent-1'), {
    scheme: 'store',
    path: '/srv/vm',
    snapshot: 'agent-1',
  });
  assert.deepEqual(parseStoreUrl('store:vm'), { scheme: 'store', path: 'vm', snapshot: undefined });
});

test('the name follows the last #, and can be empty', () => {
  assert.deepEqual(parseStoreUrl('store:a#b#c'), { scheme: 'store', path: 'a#b', snapshot: 'c' });
  assert.equal(parseStoreUrl('store:a#').snapshot, '');
});

test('a bucket alone, with a prefix, and with parameters', () => {
  assert.deepEqual(parseStoreUrl('s3://vm#x'), {
    scheme: 's3',
    bucket: 'vm',
    prefix: '',
    ...S3,
    snapshot: 'x',
  });
  assert.deepEqual(parseStoreUrl('s3://vm/a/b.c/'), {
    scheme: 's3',
    bucket: 'vm',
    prefix: 'a/b.c',
    ...S3,
    snapshot: undefined,
  });
  assert.deepEqual(
    parseStoreUrl('s3://vm/p?endpoint=http://127.0.0.1:9000&region=eu-central-1&pathStyle=true#n'),
    {
      scheme: 's3',
      bucket: 'vm',
      prefix: 'p',
      endpoint: 'http://127.0.0.1:9000',
      region: 'eu-central-1',
      pathStyle: true,
      snapshot: 'n',
    },
  );
  const encoded = parseStoreUrl('s3://vm?endpoint=https%3A%2F%2Fs3.example%2Fx');
  assert.equal(encoded.scheme === 's3' && encoded.endpoint, 'https://s3.example/x');
});

test('text that is meant as a store is recognised', () => {
  assert.ok(isStoreUrl('store:x') && isStoreUrl('s3://x') && isStoreUrl('s3:x'));
  assert.ok(!isStoreUrl('file:store:x') && !isStoreUrl('./store:x') && !isStoreUrl('tcp:store:1'));
});

for (const [text, reason] of [
  ['store:', /directory is missing/],
  ['store:#x', /directory is missing/],
  ['store:a\0b#x', /NUL/],
  ['s3:bucket#x', /bucket is missing/],
  ['s3://#x', /bucket is missing/],
  ['s3:///prefix#x', /bucket is missing/],
  ['s3://b ad#x', /not the name of a bucket/],
  ['s3://-bad#x', /not the name of a bucket/],
  ['s3://vm/../x#x', /prefix must be words/],
  ['s3://vm//x#x', /prefix must be words/],
  ['s3://vm/a b#x', /prefix must be words/],
  ['s3://vm?endpoint=ftp://x#x', /not an endpoint/],
  ['s3://vm?endpoint=nonsense#x', /not an endpoint/],
  ['s3://vm?endpoint=http://me:secret@host#x', /must not contain credentials/],
  ['s3://vm?pathStyle=yes#x', /true or false/],
  ['s3://vm?password=x#x', /unknown parameter "password"/],
  ['http://vm#x', /not a store; write store:DIR\[#NAME\] or s3:\/\/BUCKET/],
  ['', /not a store/],
] as const) {
  test(`${JSON.stringify(text)} is refused: ${reason.source}`, () => {
    assert.throws(() => parseStoreUrl(text), { name: 'QemuFileError', code: 'EINVAL', reason });
  });
}

test('a refused endpoint with credentials is not repeated in the message', () => {
  const url = 's3://vm?endpoint=http://me:secret@host#x';
  assert.throws(
    () => parseStoreUrl(url),
    (error: Error) => !error.message.includes('secret'),
  );
});
