import { after, before, describe } from 'node:test';
import { s3Storage } from '../../../../adapters/storage/s3/s3-storage.ts';
import { type S3Server, startS3Server, withoutS3 } from '../../../helpers/storage/s3.ts';
import { storageConformance } from '../conformance.ts';

for (const isModern of [false, true]) {
  describe(isModern ? 'with conditional PUT' : 'without conditional PUT', {
    skip: withoutS3,
  }, () => {
    let server: S3Server;
    before(async () => {
      server = await startS3Server(isModern);
    });
    after(() => server[Symbol.asyncDispose]());

    storageConformance('storage in S3', { canPutIfAbsent: isModern }, async () => {
      const { endpoint, region, credentials } = server;
      const bucket = await server.makeBucket();
      const storage = await s3Storage({ bucket, prefix: 'a/b', endpoint, region, credentials });
      return { storage, [Symbol.asyncDispose]: () => storage.close() };
    });
  });
}
