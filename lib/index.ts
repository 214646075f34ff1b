export * from './contract/constants.ts';
export {
  type CloseMessage,
  DIAGNOSTICS_CHANNELS,
  type DiagnosticsMessages,
  type ErrorMessage,
  type FlushMessage,
  type OpenMessage,
  type SectionMessage,
  type ThrottleMessage,
  type VmMessage,
} from './contract/diagnostics-channels.ts';
export { QemuFileError, type QemuFileErrorContext } from './contract/errors.ts';
export type {
  MaybePromise,
  QemuFileGetFd,
  QemuFileOps,
  QemuFileSizes,
  Whence,
} from './contract/ops.ts';
export { asNodeDuplex, toWeb } from './qemu-file/node-interop.ts';
export type { QemuFileOptions, WaitOptions } from './qemu-file/options.ts';
export { BandwidthBudget } from './qemu-file/put/bandwidth-budget.ts';
export { QemuFile, type QemuFileHooks, type QemuFileRamHook } from './qemu-file/qemu-file.ts';
export type { BytesSent } from './qemu-file/ram-hooks.ts';
export type { RelayCheck } from './relay/check-tap.ts';
export { relay } from './relay/relay.ts';
export { relayChannels } from './relay/relay-channels.ts';
export type {
  AcceptChannelOptions,
  ChannelResult,
  ChannelsFailure,
  ChannelsOptions,
  ChannelsResult,
} from './relay/relay-channels-types.ts';
export type {
  RelayDirection,
  RelayEnd,
  RelayFailure,
  RelayOptions,
  RelayResult,
} from './relay/relay-types.ts';
