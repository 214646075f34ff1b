import v8 from 'node:v8';
import vm from 'node:vm';

v8.setFlagsFromString('--expose-gc');
const collect = vm.runInNewContext('gc') as () => void;

/** Collect garbage until only referenced memory is left. */
export function collectGarbage(): void {
  collect();
}
