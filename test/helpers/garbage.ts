import v8 from 'node:v8';
import vm from 'node:vm';

v8.setFlagsFromString('--expose-gc');
const collect = vm.runInNewContext('gc') as () => void;

/** Frees what nobody holds, so that what is left is held. */
export function collectGarbage(): void {
  collect();
}
