import { compressBound } from '../../util/compress-bound.ts';
import { hex } from '../../util/format.ts';
import type { RamBlock } from '../format/events.ts';
import type { StreamInput } from '../format/stream-input.ts';
import { inflatePage } from './inflate-page.ts';
import type { GuestRam } from './ram-table.ts';
import { xbzrleFault } from './xbzrle.ts';

const XBZRLE_HEADER_BYTES = 3;
/** `ENCODING_FLAG_XBZRLE`, the only encoding. */
const XBZRLE_ENCODING = 0x01;
/** Shortest encoding: no unchanged byte and one changed byte. */
const MIN_XBZRLE_BYTES = 3;

/**
 * Reads what follows the word of a page, one method for each encoding of a page. A page that is outside of its block
 * (`isInside` is false) is read, and neither counted nor delivered.
 */
export class PagePayloads {
  readonly #input: StreamInput;
  readonly #ram: GuestRam;

  constructor(input: StreamInput, ram: GuestRam) {
    this.#input = input;
    this.#ram = ram;
  }

  async zero(block: RamBlock, offset: number, isInside: boolean): Promise<void> {
    const input = this.#input;
    await input.need(1, 'the byte of a zero page');
    const fill = input.u8();
    if (!isInside) return;
    if (fill !== 0) return this.filled(block, offset, fill);
    block.pages.zero += 1;
    this.#ram.dispatch.zero?.(block, offset, 1);
  }

  /** Deliver a page of one repeated byte that is not zero. QEMU never sends it, and QEMU 7.2 loads it. */
  filled(block: RamBlock, offset: number, fill: number): void {
    const { pageSize, dispatch, diagnostics } = this.#ram;
    const page = `the page at ${hex(offset)} of "${block.name}"`;
    const reason = `${page} is filled with ${hex(fill)}, which QEMU 10 refuses`;
    diagnostics.warn(reason, this.#input.position - 1);
    block.pages.zero += 1;
    dispatch.placed?.(block, offset, pageSize, -1);
    if (dispatch.filledPage !== null) dispatch.filledPage(block, offset, fill);
    else dispatch.page?.(block, offset, new Uint8Array(pageSize).fill(fill));
  }

  async normal(block: RamBlock, offset: number, isInside: boolean): Promise<void> {
    const input = this.#input;
    const { pageSize, dispatch } = this.#ram;
    await input.need(pageSize, `a page of "${block.name}"`);
    const at = input.position;
    let bytes: Uint8Array | null = null;
    if (dispatch.page === null) input.file.skip(pageSize);
    else bytes = input.view(pageSize);
    if (!isInside) return;
    block.pages.normal += 1;
    dispatch.placed?.(block, offset, pageSize, at);
    if (bytes !== null) dispatch.page?.(block, offset, bytes);
  }

  async xbzrle(block: RamBlock, offset: number, isInside: boolean): Promise<void> {
    const input = this.#input;
    const { pageSize, dispatch } = this.#ram;
    await input.need(XBZRLE_HEADER_BYTES, 'the header of an XBZRLE page');
    const encoding = input.u8();
    const size = input.be16();
    if (encoding !== XBZRLE_ENCODING) {
      const reason = `XBZRLE page with encoding ${hex(encoding)}, not 0x1`;
      throw input.error('corrupt', reason, input.position - XBZRLE_HEADER_BYTES);
    }
    if (size < MIN_XBZRLE_BYTES || size > pageSize) {
      const reason = `XBZRLE page of ${size} encoded bytes, not ${MIN_XBZRLE_BYTES} to ${pageSize}`;
      throw input.error('corrupt', reason, input.position - 2);
    }
    await input.need(size, 'an XBZRLE page');
    const at = input.position;
    const encoded = input.view(size);
    if (!isInside) return;
    const fault = xbzrleFault(encoded, pageSize);
    if (fault === null) {
      block.pages.xbzrle += 1;
      dispatch.xbzrle?.(block, offset, encoded);
      return;
    }
    const page = `XBZRLE page at ${hex(offset)} of "${block.name}"`;
    const reason = `failed to decode the ${page}: ${fault}`;
    this.#ram.diagnostics.report(input.error('corrupt', reason, at));
  }

  async compressed(block: RamBlock, offset: number, isInside: boolean): Promise<void> {
    const input = this.#input;
    const { pageSize, roundCounter, dispatch } = this.#ram;
    await input.need(4, 'the length of a compressed page');
    const size = input.be32();
    const maxSize = compressBound(pageSize);
    if (size > maxSize) {
      const reason = `invalid compressed data length: ${size} bytes, at most ${maxSize}`;
      throw input.error('corrupt', reason, input.position - 4);
    }
    await input.need(size, 'a compressed page');
    const at = input.position;
    const bytes = input.view(size);
    if (!isInside) return;
    roundCounter.expectDisorder(pageSize);
    const page = inflatePage(bytes, pageSize);
    if (typeof page !== 'string') {
      block.pages.compressed += 1;
      dispatch.placed?.(block, offset, pageSize, -1);
      if (dispatch.compressedPage !== null) dispatch.compressedPage(block, offset, bytes);
      else dispatch.page?.(block, offset, page);
      return;
    }
    const reason = `failed to decompress the page at ${hex(offset)} of "${block.name}": ${page}`;
    this.#ram.diagnostics.report(input.error('corrupt', reason, at));
  }
}
