import type { MigrationStreamError, StreamFault } from '../format/stream-error.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { createPayloadDecoder } from './create-payload-decoder.ts';
import {
  DEVICE_HEADER_SIZE,
  HEAD_SIZE,
  INITIAL_SIZE,
  type InitialPacket,
  type MultifdTable,
  PacketFault,
  PagesPacket,
  type PayloadMethod,
  packetKind,
  pagesHeaderSize,
  parseDevicePacket,
  parseInitialPacket,
} from './multifd-packet.ts';
import type { PayloadDecoder } from './payload-decoder.ts';

/** A part of a device's state that came through a channel, as it was sent. */
export interface MultifdDeviceState {
  readonly channelId: number;
  /** Name of the device, such as `0000:00:03.0/vfio`. */
  readonly name: string;
  readonly instanceId: number;
  readonly bytes: Buffer;
}

/** What came through a channel so far. */
export interface MultifdStatistics {
  /** Its number, -1 before it was said. */
  id: number;
  /** Packets, without the initial one. */
  packets: number;
  /** Rounds that were ended. */
  syncs: number;
  normalPages: number;
  zeroPages: number;
  /** Packets of device state. */
  deviceStates: number;
}

/** Bytes of device state that are waited for at a time. */
const PIECE = 1_048_576;

/** One multifd channel. */
export class MultifdChannel {
  readonly #input: StreamInput;
  readonly #table: MultifdTable;
  readonly #onDeviceState: ((state: MultifdDeviceState) => void) | undefined;
  readonly #stop = new AbortController();
  readonly #packet = new PagesPacket();
  readonly statistics: MultifdStatistics = {
    id: -1,
    packets: 0,
    syncs: 0,
    normalPages: 0,
    zeroPages: 0,
    deviceStates: 0,
  };

  /** For errors, as long as the number is not known. */
  readonly #place: number;
  /** Where the current packet begins. */
  #begin = 0;
  /** Pages since the last round ended. */
  #pending = 0;
  #method: PayloadMethod | null = null;
  #decoder: PayloadDecoder | null = null;

  /**
   * @param place - Its place among the connections, from 1 on.
   * @param onDeviceState - Gets device state; without it that is dropped.
   */
  constructor(
    input: StreamInput,
    place: number,
    table: MultifdTable,
    onDeviceState: ((state: MultifdDeviceState) => void) | undefined,
  ) {
    this.#input = input;
    this.#place = place;
    this.#table = table;
    this.#onDeviceState = onDeviceState;
  }

  /** Reads the initial packet. */
  async open(): Promise<InitialPacket> {
    this.#begin = this.#input.position;
    await this.#need(INITIAL_SIZE, 'its initial packet');
    const initial = this.#parse(() => parseInitialPacket(this.#input.view(INITIAL_SIZE)));
    this.statistics.id = initial.id;
    return initial;
  }

  /** Reads packets up to the one that ends the round, or to the end of the channel. */
  async round(): Promise<'sync' | 'end'> {
    const input = this.#input;
    for (;;) {
      this.#stop.signal.throwIfAborted();
      this.#begin = input.position;
      if (input.available === 0 && (await this.#fill(1)) === 0) return this.#ended();
      this.statistics.packets += 1;
      await this.#need(HEAD_SIZE, 'its header');
      const kind = this.#parse(() => packetKind(input.file.peekBuffer(HEAD_SIZE)));
      if (kind === 'device') {
        await this.#deviceState();
      } else {
        await this.#pages();
        if (this.#packet.isSync) {
          this.#pending = 0;
          this.statistics.syncs += 1;
          return 'sync';
        }
      }
    }
  }

  /** Ends whatever is under way, with an error that is of no use to anyone. */
  stop(): void {
    this.#stop.abort();
    this.#decoder?.close();
  }

  /** The error of a channel that has ended although a round has not. */
  endsEarly(): MigrationStreamError {
    const reason = 'the stream ends before the SYNC that the main channel waits for';
    return this.error('truncated', reason, this.#input.position);
  }

  /** The error of a channel that waits for the main channel, which is over. */
  endsLate(): MigrationStreamError {
    return this.error('corrupt', 'a SYNC that the main channel has no word for');
  }

  /** @param position - Default: where the current packet begins. */
  error(fault: StreamFault, reason: string, position: number = this.#begin): MigrationStreamError {
    const { id, packets } = this.statistics;
    const channel = id < 0 ? `multifd connection ${this.#place}` : `multifd channel ${id}`;
    const where = packets === 0 ? channel : `${channel}, packet ${packets}`;
    return this.#input.error(fault, `${where}: ${reason}`, position);
  }

  #ended(): 'end' {
    if (this.#pending === 0) return 'end';
    const reason = `the stream ends after ${this.#pending} pages without a SYNC`;
    throw this.error('truncated', reason);
  }

  async #pages(): Promise<void> {
    const packet = this.#packet;
    const size = pagesHeaderSize(this.#table.pageSize);
    await this.#need(size, 'its header');
    this.#parse(() => packet.parse(this.#input.view(size), this.#table));
    this.#pending += packet.normal + packet.zero;
    if (packet.normal > 0) {
      this.#checkMethod(packet.method);
      if (packet.method === 'none') await this.#plainPages();
      else await this.#packedPages(packet.method);
      this.statistics.normalPages += packet.normal;
    }
    this.#zeroPages();
  }

  #checkMethod(method: PayloadMethod): void {
    this.#method ??= method;
    if (method === this.#method) return;
    const reason = `its compression is ${method}, that of packets before ${this.#method}`;
    throw this.error('corrupt', reason);
  }

  async #plainPages(): Promise<void> {
    const input = this.#input;
    const { normal, block, offsets } = this.#packet;
    const { pageSize, onPage } = this.#table;
    if (block === null) return;
    for (let page = 0; page < normal; page++) {
      if (input.available < pageSize) await this.#need(pageSize, 'a page');
      const bytes = input.view(pageSize);
      block.pages.multifd += 1;
      onPage?.(block, offsets[page] as number, bytes);
    }
  }

  async #packedPages(method: 'zlib' | 'zstd'): Promise<void> {
    const { normal, block, payloadSize } = this.#packet;
    const { pageSize, onPage } = this.#table;
    await this.#need(payloadSize, 'its payload');
    const begin = this.#input.position;
    // Stopped meanwhile, nobody would close it.
    this.#stop.signal.throwIfAborted();
    this.#decoder ??= createPayloadDecoder(method);
    const payload = this.#input.view(payloadSize);
    const bytes = await this.#decode(this.#decoder, method, payload, normal * pageSize, begin);
    if (block === null) return;
    for (let page = 0; page < normal; ) {
      const count = this.#run(page, normal);
      const part = bytes.subarray(page * pageSize, (page + count) * pageSize);
      block.pages.multifd += count;
      onPage?.(block, this.#packet.offsets[page] as number, part);
      page += count;
    }
  }

  async #decode(
    decoder: PayloadDecoder,
    method: PayloadMethod,
    payload: Uint8Array,
    size: number,
    begin: number,
  ): Promise<Uint8Array> {
    try {
      return await decoder.decode(payload, size);
    } catch (error) {
      const reason = `its ${method} payload cannot be decoded: ${(error as Error).message}`;
      throw this.error('corrupt', reason, begin);
    }
  }

  #zeroPages(): void {
    const { normal, zero, block, offsets } = this.#packet;
    if (block === null) return;
    for (let page = normal; page < normal + zero; ) {
      const count = this.#run(page, normal + zero);
      block.pages.zero += count;
      this.#table.onZero?.(block, offsets[page] as number, count);
      page += count;
    }
    this.statistics.zeroPages += zero;
  }

  /** How many pages of the packet, from one on, lie behind each other in the block. */
  #run(page: number, end: number): number {
    const { offsets } = this.#packet;
    const { pageSize } = this.#table;
    let next = page + 1;
    while (next < end && offsets[next] === (offsets[next - 1] as number) + pageSize) next++;
    return next - page;
  }

  async #deviceState(): Promise<void> {
    await this.#need(DEVICE_HEADER_SIZE, 'its header');
    const packet = this.#parse(() => parseDevicePacket(this.#input.view(DEVICE_HEADER_SIZE)));
    const { name, instanceId, payloadSize } = packet;
    const report = this.#onDeviceState;
    const pieces: Buffer[] = [];
    for (let left = payloadSize; left > 0; ) {
      const size = Math.min(left, PIECE);
      await this.#need(size, 'device state');
      if (report === undefined) this.#input.file.skip(size);
      else pieces.push(this.#input.file.getBuffer(size));
      left -= size;
    }
    this.statistics.deviceStates += 1;
    const bytes = Buffer.concat(pieces);
    report?.({ channelId: this.statistics.id, name, instanceId, bytes });
  }

  #parse<T>(parse: () => T): T {
    try {
      return parse();
    } catch (error) {
      if (!(error instanceof PacketFault)) throw error;
      throw this.error(error.fault, error.message, this.#begin + error.at);
    }
  }

  /** Waits until bytes are there, as `StreamInput.need`, or the channel is stopped. */
  async #need(size: number, what: string): Promise<void> {
    if (this.#input.available >= size) return;
    const there = await this.#fill(size);
    if (there >= size) return;
    const reason = `the stream ends inside ${what}: ${there} of ${size} bytes are there`;
    throw this.error('truncated', reason, this.#input.position);
  }

  #fill(size: number): Promise<number> {
    return this.#input.file.fillOrEnd(size, { signal: this.#stop.signal });
  }
}
