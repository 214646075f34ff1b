import type { MigrationStreamError, StreamFault } from '../format/stream-error.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { createPayloadDecoder } from './create-payload-decoder.ts';
import {
  DEVICE_HEADER_BYTES,
  INITIAL_PACKET_BYTES,
  type InitialPacket,
  type MultifdTable,
  PACKET_KIND_BYTES,
  PacketFault,
  PagesPacket,
  type PayloadMethod,
  packetKind,
  pagesHeaderSize,
  parseDevicePacket,
  parseInitialPacket,
} from './multifd-packet.ts';
import type { PayloadDecoder } from './payload-decoder.ts';

/** A part of a device's state that came through a multifd channel. */
export interface MultifdDeviceState {
  readonly channelId: number;
  /** Name of the device, such as `0000:00:03.0/vfio`. */
  readonly name: string;
  readonly instanceId: number;
  readonly bytes: Buffer;
}

/** Counts of what has come through a channel. */
export interface MultifdStatistics {
  /** Number of the channel, from its initial packet; -1 before that. */
  id: number;
  /** Packets, without the initial one. */
  packets: number;
  /** Packets with the flag SYNC, which end a round. */
  syncs: number;
  normalPages: number;
  zeroPages: number;
  /** Packets with device state. */
  deviceStates: number;
}

/** Bytes of device state that are read at a time, so that a length is allocated only as its bytes arrive. */
const DEVICE_STATE_CHUNK_BYTES = 1_048_576;

/** Reads one multifd channel. */
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

  /** Place among the connections, which errors name until the channel's number is known. */
  readonly #place: number;
  /** Offset of the current packet. */
  #packetAt = 0;
  /** Pages since the last SYNC. */
  #pagesInRound = 0;
  #method: PayloadMethod | null = null;
  #decoder: PayloadDecoder | null = null;

  /**
   * @param place - Place among the connections, from 1 on.
   * @param onDeviceState - Called with each part of a device's state; without it, device state is dropped.
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

  /** Read the initial packet. */
  async open(): Promise<InitialPacket> {
    this.#packetAt = this.#input.position;
    await this.#need(INITIAL_PACKET_BYTES, 'its initial packet');
    const initial = this.#parse(() => parseInitialPacket(this.#input.view(INITIAL_PACKET_BYTES)));
    this.statistics.id = initial.id;
    return initial;
  }

  /** Read packets up to the one that ends the round, or to the end of the channel. */
  async round(): Promise<'sync' | 'end'> {
    const input = this.#input;
    for (;;) {
      this.#stop.signal.throwIfAborted();
      this.#packetAt = input.position;
      if (input.available === 0 && (await this.#fill(1)) === 0) return this.#endChannel();
      this.statistics.packets += 1;
      await this.#need(PACKET_KIND_BYTES, 'its header');
      const kind = this.#parse(() => packetKind(input.file.peekBuffer(PACKET_KIND_BYTES)));
      if (kind === 'device') {
        await this.#readDeviceState();
      } else {
        await this.#readPages();
        if (this.#packet.isSync) {
          this.#pagesInRound = 0;
          this.statistics.syncs += 1;
          return 'sync';
        }
      }
    }
  }

  /** End a pending read and release the decoder. The pending read is rejected. */
  stop(): void {
    this.#stop.abort();
    this.#decoder?.close();
  }

  /** Return the error of a channel that has ended inside a round. */
  endsEarly(): MigrationStreamError {
    const reason = 'the channel ends before the SYNC that the main channel waits for';
    return this.error('truncated', reason, this.#input.position);
  }

  /** Return the error of a channel that has a SYNC after the end of the main channel. */
  endsLate(): MigrationStreamError {
    return this.error('corrupt', 'a SYNC without a MULTIFD_FLUSH or EOS of the main channel');
  }

  /** @param position - Default: the offset of the current packet. */
  error(
    fault: StreamFault,
    reason: string,
    position: number = this.#packetAt,
  ): MigrationStreamError {
    const { id, packets } = this.statistics;
    const channel = id < 0 ? `multifd connection ${this.#place}` : `multifd channel ${id}`;
    const where = packets === 0 ? channel : `${channel}, packet ${packets}`;
    return this.#input.error(fault, `${where}: ${reason}`, position);
  }

  #endChannel(): 'end' {
    if (this.#pagesInRound === 0) return 'end';
    const reason = `the channel ends after ${this.#pagesInRound} pages without a SYNC`;
    throw this.error('truncated', reason);
  }

  async #readPages(): Promise<void> {
    const packet = this.#packet;
    const size = pagesHeaderSize(this.#table.blockTable.pageSize);
    await this.#need(size, 'its header');
    this.#parse(() => packet.parse(this.#input.view(size), this.#table.blockTable));
    this.#pagesInRound += packet.normal + packet.zero;
    if (packet.normal > 0) {
      this.#checkMethod(packet.method);
      if (packet.method === 'none') await this.#readPlainPages();
      else await this.#readCompressedPages(packet.method);
      this.statistics.normalPages += packet.normal;
    }
    this.#deliverZeroPages();
  }

  #checkMethod(method: PayloadMethod): void {
    this.#method ??= method;
    if (method === this.#method) return;
    const reason = `its compression is ${method}, that of earlier packets is ${this.#method}`;
    throw this.error('corrupt', reason);
  }

  async #readPlainPages(): Promise<void> {
    const input = this.#input;
    const { normal, block, offsets } = this.#packet;
    const { blockTable, dispatch } = this.#table;
    const { pageSize } = blockTable;
    if (block === null) return;
    for (let page = 0; page < normal; page++) {
      if (input.available < pageSize) await this.#need(pageSize, 'a page');
      const bytes = input.view(pageSize);
      block.pages.multifd += 1;
      dispatch.page?.(block, offsets[page] as number, bytes);
    }
  }

  async #readCompressedPages(method: 'zlib' | 'zstd'): Promise<void> {
    const { normal, block, payloadSize } = this.#packet;
    const { blockTable, dispatch } = this.#table;
    const { pageSize } = blockTable;
    await this.#need(payloadSize, 'its payload');
    const payloadAt = this.#input.position;
    // `stop` closes the decoder it finds, so none must be created after it.
    this.#stop.signal.throwIfAborted();
    this.#decoder ??= createPayloadDecoder(method);
    const payload = this.#input.view(payloadSize);
    const bytes = await this.#decode(this.#decoder, method, payload, normal * pageSize, payloadAt);
    if (block === null) return;
    for (let page = 0; page < normal; ) {
      const count = this.#runLength(page, normal);
      const part = bytes.subarray(page * pageSize, (page + count) * pageSize);
      block.pages.multifd += count;
      dispatch.page?.(block, this.#packet.offsets[page] as number, part);
      page += count;
    }
  }

  async #decode(
    decoder: PayloadDecoder,
    method: PayloadMethod,
    payload: Uint8Array,
    size: number,
    payloadAt: number,
  ): Promise<Uint8Array> {
    try {
      return await decoder.decode(payload, size);
    } catch (error) {
      const reason = `its ${method} payload cannot be decoded: ${(error as Error).message}`;
      throw this.error('corrupt', reason, payloadAt);
    }
  }

  #deliverZeroPages(): void {
    const { normal, zero, block, offsets } = this.#packet;
    if (block === null) return;
    for (let page = normal; page < normal + zero; ) {
      const count = this.#runLength(page, normal + zero);
      block.pages.zero += count;
      this.#table.dispatch.zero?.(block, offsets[page] as number, count);
      page += count;
    }
    this.statistics.zeroPages += zero;
  }

  /** Return how many pages of the packet, from `page` on, follow each other in the block. */
  #runLength(page: number, end: number): number {
    const { offsets } = this.#packet;
    const { pageSize } = this.#table.blockTable;
    let next = page + 1;
    while (next < end && offsets[next] === (offsets[next - 1] as number) + pageSize) next++;
    return next - page;
  }

  async #readDeviceState(): Promise<void> {
    await this.#need(DEVICE_HEADER_BYTES, 'its header');
    const packet = this.#parse(() => parseDevicePacket(this.#input.view(DEVICE_HEADER_BYTES)));
    const { name, instanceId, payloadSize } = packet;
    const report = this.#onDeviceState;
    const chunks: Buffer[] = [];
    for (let left = payloadSize; left > 0; ) {
      const size = Math.min(left, DEVICE_STATE_CHUNK_BYTES);
      await this.#need(size, 'device state');
      if (report === undefined) this.#input.file.skip(size);
      else chunks.push(this.#input.file.getBuffer(size));
      left -= size;
    }
    this.statistics.deviceStates += 1;
    const bytes = Buffer.concat(chunks);
    report?.({ channelId: this.statistics.id, name, instanceId, bytes });
  }

  #parse<T>(parse: () => T): T {
    try {
      return parse();
    } catch (error) {
      if (!(error instanceof PacketFault)) throw error;
      throw this.error(error.fault, error.message, this.#packetAt + error.at);
    }
  }

  /** Wait for bytes, like `StreamInput.need`, until the channel is stopped. */
  async #need(size: number, what: string): Promise<void> {
    if (this.#input.available >= size) return;
    const arrived = await this.#fill(size);
    if (arrived >= size) return;
    const reason = `the channel ends inside ${what}: ${arrived} of ${size} bytes`;
    throw this.error('truncated', reason, this.#input.position);
  }

  #fill(size: number): Promise<number> {
    return this.#input.file.fillOrEnd(size, { signal: this.#stop.signal });
  }
}
