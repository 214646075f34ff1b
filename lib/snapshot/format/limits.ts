/** Version of the format of a store: of its mark, packs, maps and manifests. */
export const STORE_VERSION = 1;

/** Bytes of guest memory in a frame, the unit of compression and of reading. */
export const FRAME_BYTES = 131_072;

/** Most bytes of a pack. */
export const MAX_PACK_BYTES = 16_777_216;

/** Most bytes of memory in a frame: that of the largest page, at least. */
export const MAX_FRAME_BYTES = 1_048_576;

/** Most bytes of a map, stored and decompressed. */
export const MAX_MAP_BYTES = 536_870_912;

/** Most bytes of a manifest, of a store's mark and of a writer's mark. */
export const MAX_MANIFEST_BYTES = 65_536;

/** Most packs that a map names. */
export const MAX_PACKS = 1_048_576;

/** Most stored pages that a map reaches, own or shared. */
export const MAX_STORED_PAGES = 2_147_483_646;

/** Sizes in bytes that a page may have. */
export const MIN_PAGE_BYTES = 256;
export const MAX_PAGE_BYTES = 65_536;

/** Bytes of a SHA-256. */
export const DIGEST_BYTES = 32;

/** Bytes of a fingerprint: the first half of the SHA-256 of a page. */
export const FINGERPRINT_BYTES = 16;

/** A frame has fingerprints if it is stored in at least this many times their bytes: 4 % more at most. */
export const MIN_BYTES_PER_FINGERPRINT_BYTE = 25;

/** Return the number of pages in a full frame. */
export function pagesPerFrame(pageSize: number): number {
  return Math.max(1, FRAME_BYTES / pageSize);
}

/** Return whether a number of bytes can be that of a page. */
export function isPageSize(bytes: number): boolean {
  return bytes >= MIN_PAGE_BYTES && bytes <= MAX_PAGE_BYTES && (bytes & (bytes - 1)) === 0;
}
