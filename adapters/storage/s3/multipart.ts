import type {
  ListMultipartUploadsCommandInput,
  ListMultipartUploadsCommandOutput,
  S3Client,
} from '@aws-sdk/client-s3';
import { noop } from '../../../lib/util/noop.ts';
import { totalLength } from '../../../lib/util/total-length.ts';
import type { ConditionalPut } from './conditional-put.ts';
import { statusOf } from './s3-error.ts';
import { abortedBy, type S3Sdk } from './sdk.ts';

/** Smallest size of a part; S3 takes 5 MiB and more. */
const MIN_PART_BYTES = 16 * 1024 * 1024;
/** Most parts of an object. */
const MAX_PARTS = 10_000;
/** Parts that are sent at the same time. */
const PARTS_AT_ONCE = 4;

/** A bucket, and how to make requests to it. */
export interface Bucket {
  readonly sdk: S3Sdk;
  readonly client: S3Client;
  readonly bucket: string;
  /** Make a request as often as necessary; rejects with a `QemuFileError`. */
  readonly run: <T>(attempt: (number: number) => Promise<T>) => Promise<T>;
  readonly signal: AbortSignal | undefined;
}

/**
 * Upload an object in parts. If that fails, the upload is aborted, so that its parts do not stay.
 *
 * @param key - In the bucket.
 * @param isConditional - Whether the object must not exist.
 */
export async function putMultipart(
  target: Bucket,
  key: string,
  parts: readonly Uint8Array[],
  isConditional: boolean,
  conditional: ConditionalPut,
): Promise<void> {
  const { sdk, client, run } = target;
  const object = { Bucket: target.bucket, Key: key };
  const ended = abortedBy(target.signal);
  const { UploadId } = await run(() =>
    client.send(new sdk.CreateMultipartUploadCommand(object), ended),
  );
  try {
    const Parts = await sendParts(target, { ...object, UploadId }, parts);
    await run((number) => {
      const command = new sdk.CompleteMultipartUploadCommand({
        ...object,
        UploadId,
        MultipartUpload: { Parts },
        ...(isConditional && { IfNoneMatch: '*' }),
      });
      return conditional.attempt(number, () => client.send(command, ended));
    });
  } catch (error) {
    // Not by the signal of the caller, which may be what ended the upload.
    await client.send(new sdk.AbortMultipartUploadCommand({ ...object, UploadId })).catch(noop);
    throw error;
  }
}

interface Part {
  PartNumber: number;
  ETag: string | undefined;
}

async function sendParts(
  { sdk, client, run, signal }: Bucket,
  upload: { Bucket: string; Key: string; UploadId: string | undefined },
  parts: readonly Uint8Array[],
): Promise<Part[]> {
  const total = totalLength(parts);
  const partBytes = Math.max(MIN_PART_BYTES, Math.ceil(total / MAX_PARTS));
  const sent: Part[] = [];
  const pieces = piecesOf(parts, partBytes);
  // Each sender takes the next piece when its last one has arrived, so that few pieces are in memory twice.
  let count = 0;
  let failed = false;
  const sender = async (): Promise<void> => {
    for (let piece = pieces.next(); !failed && piece.done !== true; piece = pieces.next()) {
      const { value: body } = piece;
      count += 1;
      const PartNumber = count;
      try {
        const { ETag } = await run(() => {
          const fields = { ...upload, PartNumber, Body: body, ContentLength: body.length };
          return client.send(new sdk.UploadPartCommand(fields), abortedBy(signal));
        });
        sent[PartNumber - 1] = { PartNumber, ETag };
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const senders = await Promise.allSettled(Array.from({ length: PARTS_AT_ONCE }, sender));
  for (const result of senders) if (result.status === 'rejected') throw result.reason;
  return sent;
}

/** Yield the bytes of buffers in pieces of one size; the last may be smaller. */
function* piecesOf(parts: readonly Uint8Array[], pieceBytes: number): Generator<Uint8Array> {
  let collected: Uint8Array[] = [];
  let missing = pieceBytes;
  for (const part of parts) {
    for (let at = 0; at < part.length; ) {
      const taken = part.subarray(at, at + missing);
      collected.push(taken);
      at += taken.length;
      missing -= taken.length;
      if (missing > 0) continue;
      yield joined(collected);
      collected = [];
      missing = pieceBytes;
    }
  }
  if (collected.length > 0) yield joined(collected);
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  return parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts);
}

/**
 * Abort the multipart uploads under a prefix that began before a time.
 *
 * @param prefix - In the bucket.
 * @param beforeMs - Milliseconds since 1970.
 * @returns Number of uploads aborted.
 */
export async function abortOldUploads(
  { sdk, client, bucket, run, signal }: Bucket,
  prefix: string,
  beforeMs: number,
): Promise<number> {
  let aborted = 0;
  let markers: { KeyMarker?: string; UploadIdMarker?: string } | null = {};
  while (markers !== null) {
    const input: ListMultipartUploadsCommandInput = { Bucket: bucket, Prefix: prefix, ...markers };
    const page: ListMultipartUploadsCommandOutput = await run(() =>
      client.send(new sdk.ListMultipartUploadsCommand(input), abortedBy(signal)),
    );
    for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
      if (Key?.startsWith(prefix) !== true) continue;
      if (Initiated !== undefined && Initiated.getTime() > beforeMs) continue;
      const command = new sdk.AbortMultipartUploadCommand({ Bucket: bucket, Key, UploadId });
      const isGone = await run(() => client.send(command, abortedBy(signal))).then(
        () => true,
        (error: unknown) => {
          if (statusOf((error as { cause?: unknown }).cause) === 404) return false;
          throw error;
        },
      );
      if (isGone) aborted += 1;
    }
    const { NextKeyMarker: KeyMarker, NextUploadIdMarker: UploadIdMarker } = page;
    markers =
      page.IsTruncated === true && KeyMarker !== undefined
        ? { KeyMarker, ...(UploadIdMarker !== undefined && { UploadIdMarker }) }
        : null;
  }
  return aborted;
}
