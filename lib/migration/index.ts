export {
  type LibvirtFormat,
  type LibvirtHeader,
  type LibvirtSave,
  parseLibvirtHeader,
} from './containers/libvirt-save.ts';
export type { ReadAt } from './containers/qcow2-clusters.ts';
export type { Qcow2Snapshot } from './containers/qcow2-header.ts';
export { Qcow2Image } from './containers/qcow2-image.ts';
export type { Qcow2VmState } from './containers/qcow2-vm-state.ts';
export {
  type Compression,
  type Container,
  describeContainer,
  SNIFF_SIZE,
  sniffContainer,
} from './containers/sniff.ts';
export {
  type ContainerName,
  type UnwrapOptions,
  type Unwrapped,
  unpack,
  unwrap,
} from './containers/unwrap.ts';
export { bodySize } from './devices/body-size.ts';
export {
  type DescriptionWarning,
  type FoundDescription,
  findVmDescription,
  type KnownDescription,
} from './devices/find-vm-description.ts';
export { setField } from './devices/set-field.ts';
export { decodeState, stateToJson } from './devices/state-decoder.ts';
export { encodeState } from './devices/state-encoder.ts';
export { parseVmDescription } from './devices/vm-description.ts';
export type { BlockDifference } from './diff/block-differences.ts';
export {
  type CompareGuestsOptions,
  compareGuests,
  type GuestDifferences,
} from './diff/compare-guests.ts';
export type { DeviceDifference, IsIgnored } from './diff/device-differences.ts';
export type { FieldDifference } from './diff/field-differences.ts';
export type { PageKind, PageKindCounts, PageRange } from './diff/page-kinds.ts';
export type { CompareOptions } from './diff/shared-blocks.ts';
export type * from './format/device-types.ts';
export type * from './format/events.ts';
export {
  MigrationStreamError,
  type SectionName,
  type StreamFault,
  type StreamFaultContext,
} from './format/stream-error.ts';
export type { StreamSource } from './format/stream-source.ts';
export * from './format/wire.ts';
export type { StreamLayout } from './guest-writer/guest-writer.ts';
export {
  type WriteSavedGuestOptions,
  writerOptionsOf,
  writeSavedGuest,
} from './guest-writer/write-saved-guest.ts';
export { combineVisitors } from './memory/combine-visitors.ts';
export { type CoreLayout, type CoreOptions, type CoreRange, elfCore } from './memory/elf-core.ts';
export {
  type Architecture,
  type GuestMap,
  type GuestMapOptions,
  type GuestRange,
  guestMap,
  type UnplacedBlock,
} from './memory/guest-map.ts';
export { type DevicePlace, LayoutFacts, type PcMemory } from './memory/layout-facts.ts';
export type { SizedBlock } from './memory/main-memory.ts';
export {
  MemoryPageStore,
  type PageStore,
  PlacedStore,
  type Placement,
  SpillingStore,
  shareStore,
} from './memory/page-store.ts';
export { type Extent, RamImage, type RamImageOptions } from './memory/ram-image.ts';
export { type MapCell, RamMap } from './memory/ram-map.ts';
export { PageIndexBuilder } from './page-index/page-index-builder.ts';
export type { LivePageSource } from './page-source/live-page-source.ts';
export { type MemoryBlock, MemoryPageSource } from './page-source/memory-page-source.ts';
export type { PageSource, PageSourceBlock } from './page-source/page-source.ts';
export type { RamTable } from './ram/ram-table.ts';
export { applyXbzrle, xbzrleFault } from './ram/xbzrle.ts';
export type { SentPageCounts } from './ram-saver/page-sender.ts';
export { RamSaver, type RamSaverOptions, type RamSaverProgress } from './ram-saver/ram-saver.ts';
export type { CommandItem } from './reader/commands.ts';
export { MigrationReader, type ReaderOptions } from './reader/migration-reader.ts';
export {
  encodeReturnPath,
  type ReturnPathContent,
  type ReturnPathMessage,
  ReturnPathReader,
} from './reader/return-path.ts';
export {
  type CopyOptions,
  type CopyResult,
  copyStream,
  type DeviceEdits,
} from './rewrite/copy-stream.ts';
export { FieldChanges } from './rewrite/field-changes.ts';
export { type CollectFrameOptions, collectFrame } from './saved-guest/collect-frame.ts';
export {
  type CollectSavedGuestOptions,
  collectSavedGuest,
} from './saved-guest/collect-saved-guest.ts';
export { openSavedGuest } from './saved-guest/open-saved-guest.ts';
export type { OpenSavedGuestOptions } from './saved-guest/open-saved-guest-options.ts';
export type { GuestFrame } from './saved-guest/read-frame.ts';
export type { SavedGuest, SavedSection } from './saved-guest/saved-guest.ts';
export {
  type CheckedSection,
  checkTarget,
  describeTargetProblem,
  parseTargetDump,
  type TargetCheckInput,
  type TargetDump,
  type TargetProblem,
  type TargetVerdict,
} from './target/check-target.ts';
export type { TargetField, TargetState } from './target/vmstate-dump.ts';
export {
  type BlockDigest,
  compareContents,
  compareManifests,
  type Manifest,
  parseManifest,
  type SectionDigest,
} from './verify/manifest.ts';
export {
  type BlockSummary,
  type CommandSummary,
  deviceKey,
  type SectionSummary,
  StreamSummarizer,
  type StreamSummary,
} from './verify/summary.ts';
export { type Verification, type VerifyOptions, verifyStream } from './verify/verify.ts';
export type { SectionHeader } from './writer/begun-sections.ts';
export type { RawCommand, WritableCommand } from './writer/encode-command.ts';
export { MappedRamWriter } from './writer/mapped-ram-writer.ts';
export { MigrationWriter, type WriterOptions } from './writer/migration-writer.ts';
export {
  encodeMultifdHeader,
  encodeMultifdInitial,
  type MultifdPacketFields,
} from './writer/multifd-packets.ts';
export { RamWriter, type RamWriterContext } from './writer/ram-writer.ts';
