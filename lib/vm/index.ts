export type { MigrationProgress } from './migration-watch.ts';
export {
  QmpClient,
  type QmpClientEvents,
  type QmpConnectOptions,
  type QmpEventOptions,
  type QmpExecuteOptions,
} from './qmp/qmp-client.ts';
export { QmpError } from './qmp/qmp-error.ts';
export type { QmpEvent } from './qmp/qmp-events.ts';
export type { QmpGreeting } from './qmp/qmp-message.ts';
export { type RestoreOptions, type RestoreResult, restoreVm } from './restore.ts';
export { saveVm } from './save.ts';
export type { SaveOptions, SaveResult } from './save-options.ts';
export type { VmSink } from './sink.ts';
