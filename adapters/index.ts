export {
  type AdmissionOptions,
  admit,
  type Refusal,
  type RefusalReason,
  type Welcome,
} from './admission.ts';
export { type CompressFormat, type CompressOptions, compressTo } from './compress.ts';
export {
  type ConnectOptions,
  connectSocket,
  describeTarget,
  type SocketTarget,
} from './connect.ts';
export {
  type CompressedSource,
  type DecompressFormat,
  type DecompressOps,
  decompressWith,
} from './decompress.ts';
export {
  type ChildOps,
  type ChildReadOps,
  type ChildWriteOps,
  type ExecOptions,
  execOps,
  type ProcessOptions,
  processOps,
} from './exec.ts';
export {
  type Direction,
  type FdBothOps,
  type FdOps,
  type FdOptions,
  type FdReadOps,
  type FdWriteOps,
  fdOps,
} from './fd.ts';
export { type OpenFifoOptions, openFifo } from './fifo.ts';
export { type AcceptOptions, type Listener, type ListenOptions, listenSocket } from './listen.ts';
export {
  type MemoryOps,
  type MemoryOptions,
  type MemoryPairOptions,
  memoryOps,
  memoryPair,
} from './memory.ts';
export type { PipeOps, PipeReadOps, PipeWriteOps } from './one-way.ts';
export {
  type OpenFromOptions,
  type OpenOptions,
  type OpenToOptions,
  openFrom,
  openTo,
} from './open.ts';
export { type KeepPartial, type OpenFdOptions, openFd, type PathWriteOps } from './open-fd.ts';
export { openPath } from './open-path.ts';
export { type PipeOptions, pipeOps } from './pipe.ts';
export type { ConnectionOps } from './shared-transport.ts';
export { type SocketOptions, socketOps } from './socket.ts';
export {
  SparseFile,
  SparseOutput,
  type SparseOutputOptions,
  temporarySparseFile,
} from './sparse-file.ts';
export { parseUri, type Uri } from './uri.ts';
