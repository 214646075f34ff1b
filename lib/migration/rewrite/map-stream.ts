import { QemuFileError } from '../../contract/errors.ts';
import type { QemuFile } from '../../qemu-file/qemu-file.ts';
import type { Command, Configuration, MigrationEvent, Section } from '../format/events.ts';
import { ITEM, RAM_FLAG } from '../format/wire.ts';
import { MigrationReader } from '../reader/migration-reader.ts';
import { encodeConfiguration } from '../writer/encode-configuration.ts';
import { MappedRamWriter } from '../writer/mapped-ram-writer.ts';
import { RawCopy } from './raw-copy.ts';

/*
 * A sequential stream becomes a mapped-ram file while it passes. The `ram` sections are written anew: the list
 * with the places of the pages in START, nothing but the end mark in END, and no PART. Everything else is
 * copied.
 */

/** Commands that have a meaning only while both sides run. */
const LIVE_COMMANDS: ReadonlySet<Command['name']> = new Set(['OPEN_RETURN_PATH', 'PING']);
const OTHER_COMMANDS: ReadonlySet<Command['name']> = new Set(['SWITCHOVER_START', 'UNKNOWN']);

/**
 * Write a sequential stream as a mapped-ram file. A page that is sent again overwrites its place.
 *
 * @param from - Its next byte is the stream's first. It is read to its end, and stays open.
 * @param to - Receives the file; it must be able to seek. It is flushed, not closed.
 * @throws {MigrationStreamError} (rejects) as `MigrationReader`.
 * @throws {QemuFileError} (rejects) `ENOTSUP` for a stream that cannot become such a file: with XBZRLE, postcopy, shared
 *   memory, or of a machine type without a configuration section; `ESPIPE` if `to` cannot seek; the errors of the
 *   files.
 */
export async function mapStream(from: QemuFile, to: QemuFile): Promise<void> {
  await new StreamMapping(from, to).run();
}

class StreamMapping {
  readonly #to: QemuFile;
  readonly #copy: RawCopy;
  readonly #reader: MigrationReader;
  #mapped: MappedRamWriter | null = null;
  #pageSize = 0;
  /** Where the bytes go that the reader passes. */
  #mode: 'held' | 'copied' | 'dropped' = 'held';
  #boundary = 0;
  #end: number | null = null;

  constructor(from: QemuFile, to: QemuFile) {
    this.#to = to;
    this.#copy = new RawCopy(from, to);
    const chunks = this.#copy.chunks(
      () => this.#limit(),
      () => this.#mapped?.ready(),
    );
    this.#reader = new MigrationReader(chunks, {
      pages: {
        blocks: (_blocks, pageSize) => {
          this.#pageSize = pageSize;
        },
        page: (block, offset, bytes) => this.#mapped?.page(block.index, offset, bytes),
        zero: (block, offset, count) => this.#mapped?.zero(block.index, offset, count),
        xbzrle: () => {
          throw unsupported('it has XBZRLE pages');
        },
      },
    });
  }

  async run(): Promise<void> {
    for await (const event of this.#reader) await this.#follow(event);
    this.#copy.copyTo(this.#boundary);
    if (this.#mapped === null) throw unsupported('it has no section "ram"');
    await this.#mapped.finish();
    await this.#to.flush();
  }

  /** Return the offset up to which bytes are to be copied. */
  #limit(): number {
    if (this.#end !== null) {
      const next = this.#copy.byteAt(this.#end);
      if (next !== undefined && next !== ITEM.VM_DESCRIPTION) this.#discardRest();
    }
    if (this.#mode === 'dropped') this.#copy.dropTo(this.#reader.position);
    return this.#mode === 'copied' ? this.#reader.position : this.#boundary;
  }

  async #follow(event: MigrationEvent): Promise<void> {
    switch (event.type) {
      case 'header':
        this.#boundary = this.#reader.position;
        break;
      case 'configuration':
        this.#configure(event.configuration, event.offset, event.offset + event.bytes);
        break;
      case 'section':
        this.#beginSection(event.section);
        break;
      case 'ramBlocks':
        this.#copy.copyTo(event.offset);
        this.#mapped = new MappedRamWriter(this.#to, this.#pageSize);
        await this.#mapped.listBlocks(event.blocks);
        this.#mode = 'dropped';
        break;
      case 'sectionEnd':
        if (event.section.name === 'ram') this.#endRam(event.section, event.footer, event.offset);
        this.#mode = 'held';
        this.#boundary = event.offset;
        break;
      case 'command':
        this.#command(event.command, event.offset, event.offset + event.bytes);
        break;
      case 'end':
        this.#end = event.offset + 1;
        this.#boundary = this.#end;
        break;
      case 'vmDescription':
        this.#boundary = event.offset + event.bytes;
        this.#discardRest();
        break;
      case 'device':
      case 'packageEnd':
      case 'trailing':
      case 'warning':
        break;
    }
  }

  #configure(configuration: Configuration, offset: number, end: number): void {
    const { capabilities } = configuration;
    if (capabilities.length > 0) throw unsupported(`it has ${capabilities.join(', ')}`);
    const mapped = { ...configuration, capabilities: ['mapped-ram'] };
    this.#copy.replace(offset, end, encodeConfiguration(mapped));
    this.#boundary = end;
  }

  #beginSection({ name, kind, offset }: Section): void {
    this.#boundary = offset;
    if (name !== 'ram' || kind === 'full') {
      this.#mode = 'copied';
    } else if (kind === 'start') {
      if (this.#reader.configuration === null) {
        throw unsupported('its machine type has no configuration section');
      }
    } else {
      this.#copy.copyTo(offset);
      if (kind === 'end') this.#copy.copyTo(this.#reader.position);
      this.#mode = 'dropped';
    }
  }

  /** End a `ram` section, of which the bytes up to `end` were dropped. */
  #endRam({ kind, sectionId }: Section, footer: number | null, end: number): void {
    this.#copy.dropTo(end);
    if (kind === 'part') return;
    this.#to.putBe64(RAM_FLAG.EOS);
    if (footer === null) return;
    this.#to.putByte(ITEM.FOOTER);
    this.#to.putBe32(sectionId);
  }

  #command({ name }: Command, offset: number, end: number): void {
    this.#copy.copyTo(offset);
    if (LIVE_COMMANDS.has(name)) this.#copy.dropTo(end);
    else if (!OTHER_COMMANDS.has(name)) throw unsupported(`it has the command ${name}`);
    this.#boundary = end;
  }

  #discardRest(): void {
    this.#copy.copyTo(this.#boundary);
    this.#end = null;
    this.#copy.discard();
  }
}

function unsupported(why: string): QemuFileError {
  const reason = `the stream cannot become a mapped-ram file while it passes: ${why}`;
  return new QemuFileError('ENOTSUP', reason, { operation: 'mapStream' });
}
