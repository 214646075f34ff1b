export type { CommandItem } from './commands.ts';
export {
  type Container,
  describeContainer,
  SNIFF_SIZE,
  sniffContainer,
} from './container.ts';
export { type DeviceState, decodeState, type StateValue, stateToJson } from './device-state.ts';
export { type CoreLayout, type CoreOptions, type CoreRange, elfCore } from './elf-core.ts';
export type * from './events.ts';
export { type FoundDescription, findVmDescription } from './find-description.ts';
export { type LibvirtSave, parseLibvirtHeader } from './libvirt-save.ts';
export {
  type BlockDigest,
  compareManifests,
  type Manifest,
  parseManifest,
  type SectionDigest,
} from './manifest.ts';
export { type Architecture, type GuestMap, type GuestRange, guestMap } from './memory-map.ts';
export {
  MemoryPageStore,
  type PageStore,
  type Piece,
  PlacedStore,
  SpillingStore,
  shareStore,
} from './page-store.ts';
export { Qcow2Image, type Qcow2Snapshot, type Qcow2VmState, type ReadAt } from './qcow2.ts';
export { type Extent, RamImage, type RamImageOptions } from './ram-image.ts';
export { type MapCell, RamMap } from './ram-map.ts';
export type { RamTable } from './ram-table.ts';
export { MigrationReader, type ReaderOptions } from './reader.ts';
export {
  encodeReturnPath,
  type ReturnPathContent,
  type ReturnPathMessage,
  ReturnPathReader,
} from './return-path.ts';
export type { StreamSource } from './source.ts';
export {
  MigrationStreamError,
  type SectionName,
  type StreamFault,
  type StreamFaultContext,
} from './stream-error.ts';
export {
  type BlockSummary,
  type CommandSummary,
  deviceKey,
  type SectionSummary,
  StreamSummarizer,
  type StreamSummary,
} from './summary.ts';
export {
  checkTarget,
  describeTargetProblem,
  parseTargetDump,
  type TargetCheckInput,
  type TargetDump,
  type TargetProblem,
  type TargetVerdict,
} from './target.ts';
export { type UnwrapOptions, type Unwrapped, unpack, unwrap } from './unwrap.ts';
export { type Verification, type VerifyOptions, verifyStream } from './verify.ts';
export { combineVisitors } from './visitors.ts';
export {
  bodySize,
  type DeviceDescription,
  type FieldDescription,
  parseVmDescription,
  type StateDescription,
  type VmDescription,
} from './vm-description.ts';
export * from './wire.ts';
export { applyXbzrle, xbzrleFault } from './xbzrle.ts';
