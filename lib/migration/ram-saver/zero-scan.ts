/*
 * A scan for zeros with SIMD instructions of WebAssembly, which read 16 bytes at a time: several times as fast
 * in the processor's cache as `Buffer.compare` with a page of zeros, and 30 times as fast as a loop over a
 * `BigUint64Array` (bench/ram-saver.ts). It scans memory of WebAssembly only.
 */

/** Bytes of a step of the scan. */
export const SCAN_STEP_BYTES = 128;

/** Bytes of a page of WebAssembly's memory. */
const WASM_PAGE_BYTES = 65_536;

/** Return whether `length` bytes at `at` are zeros; `length` is a multiple of `SCAN_STEP_BYTES`, not 0. */
export type ZeroScan = (at: number, length: number) => number;

/** The used part of `WebAssembly`, which the types of Node 20 do not declare. */
interface WebAssemblyApi {
  Memory: new (size: { initial: number; maximum: number }) => { buffer: ArrayBuffer };
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object, imports: object) => { exports: { s: ZeroScan } };
}

const I32 = 0x7f;
const SIMD = 0xfd;

/** `v128.load` at an offset from the address in local 0. */
function load(offset: number): number[] {
  return [0x20, 0, SIMD, 0, 4, ...uleb(offset)];
}

const V128_OR = [SIMD, 0x50];
const V128_ANY_TRUE = [SIMD, 0x53];

// Locals: 0 is the address, 1 the length, 2 the end.
const BODY = [
  ...[1, 1, I32], // one more local, of type i32
  ...[0x20, 0, 0x20, 1, 0x6a, 0x21, 2], // end = address + length
  ...[0x03, 0x40], // loop
  ...load(0),
  ...[16, 32, 48, 64, 80, 96, 112].flatMap((offset) => [...load(offset), ...V128_OR]),
  ...V128_ANY_TRUE,
  ...[0x04, 0x40, 0x41, 0, 0x0f, 0x0b], // if: return 0
  ...[0x20, 0, 0x41, ...[0x80, 1], 0x6a, 0x22, 0], // address = address + 128
  ...[0x20, 2, 0x49, 0x0d, 0], // repeat while address < end
  0x0b,
  ...[0x41, 1, 0x0b], // return 1
];

const MODULE = Uint8Array.from([
  ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0], // magic and version
  ...section(1, [1, 0x60, 2, I32, I32, 1, I32]), // type 0: (i32, i32) -> i32
  ...section(2, [1, 1, 0x65, 1, 0x6d, 2, 0, 1]), // import the memory `m` of `e`
  ...section(3, [1, 0]), // function 0 is of type 0
  ...section(7, [1, 1, 0x73, 0, 0]), // export function 0 as `s`
  ...section(10, [1, ...uleb(BODY.length), ...BODY]),
]);

/**
 * Return new memory, and the scan of it.
 *
 * @param bytes - Bytes of the memory, rounded up to 64 KiB.
 */
export function createScannedMemory(bytes: number): { memory: ArrayBuffer; isZero: ZeroScan } {
  const { Memory, Module, Instance } = (globalThis as unknown as { WebAssembly: WebAssemblyApi })
    .WebAssembly;
  const pages = Math.ceil(bytes / WASM_PAGE_BYTES);
  const memory = new Memory({ initial: pages, maximum: pages });
  const instance = new Instance(new Module(MODULE), { e: { m: memory } });
  return { memory: memory.buffer, isZero: instance.exports.s };
}

function section(id: number, content: readonly number[]): number[] {
  return [id, ...uleb(content.length), ...content];
}

/** Return an integer below 2^14 in LEB128. */
function uleb(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, value >>> 7];
}
