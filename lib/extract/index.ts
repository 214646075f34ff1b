export { combineVisitors } from '../migration/memory/combine-visitors.ts';
export { BlockFiles, blockFilesIn } from './block-files.ts';
export {
  GuestMemoryFile,
  type GuestMemoryFormat,
  type GuestMemoryOptions,
} from './guest-memory-file.ts';
export type { Output, Published } from './output.ts';
export { openScratchStore, type ScratchStore } from './scratch-store.ts';
export { SparseFile, temporarySparseFile } from './sparse-file.ts';
export { SparseOutput, type SparseOutputOptions } from './sparse-output.ts';
