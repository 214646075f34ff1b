export type { Direction, DuplexOps, OpsOf, ReadOps, WriteOps } from '../lib/contract/ops.ts';
export { type CompressFormat, type CompressOptions, compressTo } from './compress/compress.ts';
export {
  type CompressedSource,
  type DecompressFormat,
  type DecompressOptions,
  decompressWith,
} from './compress/decompress.ts';
export {
  type FdOps,
  type FdOptions,
  fdOps,
} from './file/fd.ts';
export {
  type KeepPartial,
  type OpenFdOptions,
  openFd,
  type PathOps,
  type PathWriteOps,
} from './file/open-file.ts';
export { type MemoryOps, type MemoryOptions, memoryOps } from './memory/memory.ts';
export { type MemoryPairOptions, memoryPair } from './memory/memory-pair.ts';
export {
  type OpenFromOptions,
  type OpenOptions,
  type OpenToOptions,
  openFrom,
  openTo,
} from './open.ts';
export { openPath } from './open-path.ts';
export { type OpenFifoOptions, openFifo } from './pipe/fifo.ts';
export { type PipeOptions, pipeOps } from './pipe/pipe.ts';
export {
  type ChildOps,
  type ExecOptions,
  execOps,
  type ProcessOptions,
  processOps,
} from './process/exec.ts';
export type { ConnectionOps } from './shared/shared-transport.ts';
export { type ConnectOptions, connectSocket } from './socket/connect.ts';
export {
  type AdmissionOptions,
  admit,
  type Rejection,
  type RejectionReason,
  type Verdict,
} from './socket/listen/admit.ts';
export {
  type AcceptOptions,
  type Listener,
  type ListenOptions,
  listenSocket,
} from './socket/listen/listen.ts';
export { type SocketOptions, socketOps } from './socket/socket.ts';
export { describeTarget, type SocketTarget } from './socket/socket-target.ts';
export { directoryStorage } from './storage/directory-storage.ts';
export { memoryStorage } from './storage/memory-storage.ts';
export type {
  LeftoverOptions,
  ObjectStorage,
  StorageOptions,
  StoredObject,
} from './storage/object-storage.ts';
export { openStorage } from './storage/open-storage.ts';
export { type S3StorageOptions, s3Storage } from './storage/s3/s3-storage.ts';
export type { S3Credentials } from './storage/s3/s3-target.ts';
export { isStoreUrl, parseStoreUrl, type StoreUrl } from './storage/store-url.ts';
export { parseUri, type Uri } from './uri.ts';
