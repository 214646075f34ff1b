// The package declares its types under the name it is published by; this is the name we install it by.
declare module 'fast-xxhash' {
  export interface XXHash<T> {
    update(input: string | Uint8Array): XXHash<T>;
    digest(): T;
  }
  export interface XXHashAPI {
    create64(seed?: bigint): XXHash<bigint>;
    h64Raw(input: Uint8Array, seed?: bigint): bigint;
  }
  export default function xxhash(): Promise<XXHashAPI>;
}
