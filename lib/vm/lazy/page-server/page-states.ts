import { QemuFileError } from '../../../contract/errors.ts';
import type { PageSource } from '../../../migration/page-source/page-source.ts';
import { quote } from '../../../util/format.ts';

/** State of a host page. */
export const PAGE_STATE = {
  /** All zeros, not sent. */
  ZERO: 0,
  /** With data, not sent. */
  DATA: 1,
  /** Sent, or on its way. */
  SENT: 2,
} as const;

const { ZERO, DATA, SENT } = PAGE_STATE;

/** Greatest host page: a page is sent as a whole, from one buffer. */
const MAX_HOST_PAGE_BYTES = 16_777_216;

/** The host pages of one block. */
export interface BlockPages {
  /** Target pages of the block. */
  readonly pages: number;
  /** Target pages of a host page. */
  readonly hostPages: number;
  /** State of each host page. */
  readonly states: Uint8Array;
}

/** Which pages of a guest were sent. All who send pages claim them here, so that each is sent once. */
export class PageStates {
  readonly blocks: readonly BlockPages[];
  /** Target pages of the host pages with data that were not received before. */
  readonly dataPages: number;
  #dataLeft = 0;

  /**
   * @param source - The guest's memory.
   * @param hostPageSizes - Bytes of a host page, by block.
   * @param received - Pages that the destination has already, by block: bit i of byte i/8 is target page i.
   * @throws {QemuFileError} `ENOTSUP` for host pages that are too large.
   */
  constructor(
    source: PageSource,
    hostPageSizes: readonly number[] | undefined,
    received: readonly (Uint8Array | null)[] | undefined,
  ) {
    let dataPages = 0;
    this.blocks = source.blocks.map(({ name, usedLength, hostPageSize }, index) => {
      const hostSize = Math.max(hostPageSizes?.[index] ?? hostPageSize ?? 0, source.pageSize);
      if (hostSize > MAX_HOST_PAGE_BYTES || hostSize % source.pageSize !== 0) {
        const reason = `RAM block ${quote(name)} has host pages of ${hostSize} bytes, at most ${MAX_HOST_PAGE_BYTES} can be sent at once`;
        throw new QemuFileError('ENOTSUP', reason, { operation: 'PageServer' });
      }
      const pages = usedLength / source.pageSize;
      const hostPages = hostSize / source.pageSize;
      const states = new Uint8Array(Math.ceil(pages / hostPages));
      let dataHosts = 0;
      let marked = 0;
      for (const { at, length } of source.extents(index)) {
        // Extents ascend, and two of them may share a host page.
        const from = Math.max(marked, Math.floor(at / hostSize));
        marked = Math.ceil((at + length) / hostSize);
        states.fill(DATA, from, marked);
        dataHosts += marked - from;
      }
      const bitmap = received?.[index] ?? null;
      if (bitmap !== null) dataHosts -= markReceived(states, bitmap, pages, hostPages);
      this.#dataLeft += dataHosts;
      dataPages += dataHosts * hostPages;
      return { pages, hostPages, states };
    });
    this.dataPages = dataPages;
  }

  /** Host pages with data that were not claimed. */
  get dataLeft(): number {
    return this.#dataLeft;
  }

  /** Claim a host page, and return what it was. */
  claim({ states }: BlockPages, host: number): number {
    const state = states[host] as number;
    if (state === DATA) this.#dataLeft -= 1;
    states[host] = SENT;
    return state;
  }
}

/** Mark the host pages all of whose target pages were received; return how many of them have data. */
function markReceived(
  states: Uint8Array,
  bitmap: Uint8Array,
  pages: number,
  hostPages: number,
): number {
  let dataHosts = 0;
  for (let host = 0; host < states.length; host++) {
    const end = Math.min((host + 1) * hostPages, pages);
    let page = host * hostPages;
    while (page < end && (((bitmap[page >> 3] ?? 0) >> (page & 7)) & 1) === 1) page += 1;
    if (page < end) continue;
    if (states[host] === DATA) dataHosts += 1;
    states[host] = SENT;
  }
  return dataHosts;
}

/** Return whether a host page in this state was not sent. */
export function isUnsent(state: number | undefined): boolean {
  return state === DATA || state === ZERO;
}
