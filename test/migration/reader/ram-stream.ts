// What the tests of the reader share: a stream with RAM in one part, and the fault of a stream.
import assert from 'node:assert/strict';
import { MigrationStreamError } from '../../../lib/migration/format/stream-error.ts';
import { readStream } from '../../helpers/reading/read-stream.ts';
import {
  type Bytes,
  end,
  eos,
  header,
  NO_DEVICES,
  PC,
  piece,
  RAM,
  section,
  stream,
} from '../../helpers/streams/stream-bytes.ts';

/** A stream whose RAM comes in one PART: the list, the records, and the rest. */
export function ramStream(list: Bytes, ...records: readonly Bytes[]): Buffer {
  return stream(
    header,
    PC,
    section('start', 2, RAM, list, eos),
    piece('part', 2, ...records, eos),
    piece('end', 2, eos),
    end,
    NO_DEVICES,
  );
}

/** Read a stream that has a fault; return the fault. */
export async function fault(bytes: Uint8Array, options = {}): Promise<MigrationStreamError> {
  try {
    await readStream([bytes], options);
  } catch (error) {
    assert.ok(error instanceof MigrationStreamError, String(error));
    return error;
  }
  throw new Error('it was read without a fault');
}
