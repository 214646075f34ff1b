// The names of snapshots at the command line: where one is needed, where none may be, and what a name can be.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseEndpoint, refuseStoreFlags } from '../../../lib/cli/endpoints/endpoint.ts';
import {
  parseCopyTarget,
  parseSnapshotUrl,
  parseWholeStoreUrl,
} from '../../../lib/cli/endpoints/snapshot-url.ts';

const IMPOSSIBLE = ['', '.', '..', '../x', 'a/b', '.hidden', '-x', 'a b', 'ä', 'a'.repeat(129)];

describe('the name in the URL of a store', () => {
  for (const name of IMPOSSIBLE) {
    test(`cannot be ${JSON.stringify(name.slice(0, 20))}, wherever it stands`, () => {
      for (const place of ['store:/srv/vm', 's3://vm/golden?region=eu-central-1']) {
        const url = `${place}#${name}`;
        const refused = { code: 'EINVAL', message: /: use 1 to 128 characters of A-Z a-z 0-9/ };
        for (const parse of [parseEndpoint, parseSnapshotUrl, parseCopyTarget]) {
          assert.throws(() => parse(url), refused, parse.name);
        }
        const to = `${place}#new`;
        for (const [flags, reason] of [
          [{ parent: name }, /^--parent: .*: use 1 to 128/],
          [{ workingSet: url }, /^--working-set: (store|s3):.*: use 1 to 128/],
        ] as const) {
          const operation = 'checkSnapshotName';
          assert.throws(() => refuseStoreFlags(to, flags), { code: 'EINVAL', operation, reason });
        }
      }
    });
  }

  test('can be of 128 characters', () => {
    const name = `_${'Az09._-'.repeat(18)}x`;
    assert.equal(name.length, 128);
    assert.equal(parseSnapshotUrl(`store:/srv/vm#${name}`).snapshot, name);
    assert.equal(refuseStoreFlags('store:/srv/vm#new', { parent: name }), undefined);
  });

  test('is missing where a snapshot is needed, and optional for a copy', () => {
    for (const parse of [parseEndpoint, parseSnapshotUrl]) {
      assert.throws(() => parse('store:/srv/vm'), { code: 'EINVAL', message: /add #NAME/ });
    }
    assert.equal(parseCopyTarget('store:/srv/vm').snapshot, undefined);
    assert.throws(() => refuseStoreFlags('store:/srv/vm#new', { workingSet: 'store:/srv/vm' }), {
      operation: 'parseEndpoint',
      reason: /^--working-set: store:\/srv\/vm: .*add #NAME/,
    });
  });

  test('is refused where a whole store is needed', () => {
    assert.equal(parseWholeStoreUrl('store:/srv/vm').scheme, 'store');
    assert.throws(() => parseWholeStoreUrl('store:/srv/vm#a'), {
      code: 'EINVAL',
      message: /is for a whole store: remove "#a"/,
    });
  });

  test('is left out by a # at the end, where the directory has one in its name', () => {
    const url = parseWholeStoreUrl('store:/srv/vm#2#');
    assert.ok(url.scheme === 'store');
    assert.deepEqual([url.path, url.snapshot], ['/srv/vm#2', undefined]);
  });
});
