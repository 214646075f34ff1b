import { GuestWriter } from '../../migration/guest-writer/guest-writer.ts';
import { writerOptionsOf } from '../../migration/guest-writer/write-saved-guest.ts';
import type { SavedGuest } from '../../migration/saved-guest/saved-guest.ts';
import { MigrationWriter } from '../../migration/writer/migration-writer.ts';
import { QemuFile } from '../../qemu-file/qemu-file.ts';
import { noop } from '../../util/noop.ts';
import { RamRecords } from './ram-records.ts';
import type { SnapshotPages } from './snapshot-pages.ts';

/** Bytes that are read at a time. */
const READ_BYTES = 262_144;

/**
 * Return a file from which a snapshot is read as a migration stream of one round, each page once.
 *
 * @param guest - The snapshot. Closing the file closes it.
 * @param pages - Its pages, for this stream alone.
 * @param onClose - Called when the guest is closed.
 */
export function streamOf(
  guest: SavedGuest,
  pages: SnapshotPages,
  onClose: () => Promise<void> = async () => {},
): QemuFile {
  const stream = new SnapshotStream(guest, pages);
  return new QemuFile({
    getBuffer: (target) => stream.read(target),
    async close() {
      await stream.settled();
      await guest.close();
      await onClose();
    },
    sizes: { lookAheadSize: READ_BYTES },
  });
}

/** The bytes of a stream: what precedes the pages, their records, and the rest. */
export class SnapshotStream {
  readonly #guest: SavedGuest;
  readonly #records: RamRecords;
  /** Bytes that come next, before further records. */
  #next: Uint8Array = new Uint8Array(0);
  /** What follows the records; null until it is known, and when it was read. */
  #rest: Uint8Array | null = null;
  #isBegun = false;
  #reading: Promise<unknown> = Promise.resolve();

  constructor(guest: SavedGuest, pages: SnapshotPages) {
    this.#guest = guest;
    this.#records = new RamRecords(pages);
  }

  /** Put the next bytes into memory; return their number, 0 at the end. */
  read(target: Uint8Array): number | Promise<number> {
    const done = this.#isBegun ? this.#fill(target) : 0;
    if (done > 0 || this.#isEnded) return done;
    const reading = this.#wait(target);
    this.#reading = reading.catch(noop);
    return reading;
  }

  /** Wait until no read is on its way. */
  async settled(): Promise<void> {
    await this.#reading;
  }

  get #isEnded(): boolean {
    return this.#isBegun && this.#records.isDone && this.#rest === null && this.#next.length === 0;
  }

  async #wait(target: Uint8Array): Promise<number> {
    if (!this.#isBegun) await this.#begin();
    for (;;) {
      const done = this.#fill(target);
      if (done > 0 || this.#isEnded) return done;
      await this.#records.wait();
    }
  }

  /** Put what is in the cache into memory. */
  #fill(target: Uint8Array): number {
    const records = this.#records;
    const memory = Buffer.from(target.buffer, target.byteOffset, target.length);
    let done = 0;
    for (;;) {
      const own = this.#next.subarray(0, memory.length - done);
      memory.set(own, done);
      done += own.length;
      this.#next = this.#next.subarray(own.length);
      if (this.#next.length > 0) return done;
      if (records.isDone) {
        if (this.#rest === null) return done;
        this.#next = this.#rest;
        this.#rest = null;
      } else if (memory.length - done >= records.maxBytes) {
        const written = records.fill(memory.subarray(done));
        done += written;
        if (written === 0) return done;
      } else {
        if (done > 0) return done;
        // A reader with little room gets a record in parts.
        const record = Buffer.allocUnsafe(records.maxBytes);
        this.#next = record.subarray(0, records.fill(record));
        if (this.#next.length === 0) return 0;
      }
    }
  }

  /** Write the stream without the records of pages. */
  async #begin(): Promise<void> {
    const guest = this.#guest;
    let written: Buffer[] = [];
    const file = new QemuFile({
      writevBuffer(buffers) {
        const bytes = Buffer.concat(buffers);
        written.push(bytes);
        return bytes.length;
      },
    });
    const writer = new GuestWriter(
      new MigrationWriter(file, writerOptionsOf(guest)),
      'sequential',
      undefined,
    );
    await writer.begin(guest, guest.pages.blocks);
    await file.flush();
    this.#next = Buffer.concat(written);
    written = [];
    await writer.end(guest, false);
    await file.close();
    this.#rest = Buffer.concat(written);
    this.#isBegun = true;
  }
}
