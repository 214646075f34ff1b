/** Do nothing; the handler of a rejection that is reported elsewhere. */
export function noop(): void {}
