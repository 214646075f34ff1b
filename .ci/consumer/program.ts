// A program of a user, checked against the built types, without optional packages and without skipLibCheck.

import { QemuFile } from 'qemu-file';
import * as adapters from 'qemu-file/adapters';
import * as faulty from 'qemu-file/adapters/faulty';
import * as extract from 'qemu-file/extract';
import * as migration from 'qemu-file/migration';
import * as snapshot from 'qemu-file/snapshot';
import * as vm from 'qemu-file/vm';

export const rooms = { QemuFile, adapters, faulty, extract, migration, snapshot, vm };
