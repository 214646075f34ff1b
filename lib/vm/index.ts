export type { PageRange } from '../migration/page-source/page-source.ts';
export {
  decodeWorkingSet,
  encodeWorkingSet,
  MAX_WORKING_SET_BYTES,
  type WorkingSetMemory,
} from '../migration/page-source/working-set.ts';
export type { LazyProgress, LazyRestoreOptions, LazyRestoreResult } from './lazy/lazy-options.ts';
export type { PageReason, PageServerStats } from './lazy/page-server/page-server-types.ts';
export { recoverLazily } from './lazy/recover-lazily.ts';
export { restoreLazily } from './lazy/restore-lazily.ts';
export type { MigrationProgress } from './migration-watch.ts';
export { QmpClient } from './qmp/qmp-client.ts';
export { QmpError } from './qmp/qmp-error.ts';
export type { QmpEvent } from './qmp/qmp-events.ts';
export type { QmpGreeting } from './qmp/qmp-message.ts';
export type {
  QmpClientEvents,
  QmpConnectOptions,
  QmpEventOptions,
  QmpExecuteOptions,
} from './qmp/qmp-options.ts';
export { restoreVm } from './restore/restore.ts';
export type { RestoreOptions, RestoreResult } from './restore/restore-options.ts';
export { saveVm } from './save/save.ts';
export type { SaveOptions, SaveResult } from './save/save-options.ts';
export type { VmSink } from './save/sink.ts';
export { makeTemplate, type TemplateOptions } from './template/make-template.ts';
export { type RestoreTemplateOptions, restoreTemplate } from './template/restore-template.ts';
export type { Template, TemplateBlock } from './template/template-file.ts';
