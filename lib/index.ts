export { BandwidthBudget } from './bandwidth-budget.ts';
export type {
  AcceptChannelOptions,
  ChannelResult,
  ChannelsFailure,
  ChannelsOptions,
  ChannelsResult,
} from './channels.ts';
export * from './constants.ts';
export { QemuFileError, type QemuFileErrorContext } from './errors.ts';
export type { BytesSent, QemuFileHooks, QemuFileRamHook } from './hooks.ts';
export { asNodeDuplex, toWeb } from './interop.ts';
export type { RelayCheck } from './onlooker.ts';
export type { Answer, QemuFileGetFd, QemuFileOps, QemuFileSizes, Whence } from './ops.ts';
export type { QemuFileOptions, WaitOptions } from './options.ts';
export { QemuFile } from './qemu-file.ts';
export {
  type RelayDirection,
  type RelayEnd,
  type RelayFailure,
  type RelayOptions,
  type RelayResult,
  relay,
} from './relay.ts';
export { relayChannels } from './relay-channels.ts';
