/**
 * Return a function that tests names against patterns, in which `*` stands for any text and `?` for one
 * character; all other characters stand for themselves.
 */
export function matchAny(patterns: readonly string[]): (name: string) => boolean {
  const expressions = patterns.map((pattern) => {
    const source = pattern
      .replace(/[\\^$.+()[\]{}|]/g, '\\$&')
      .replace(/\*+/g, '.*')
      .replaceAll('?', '.');
    return new RegExp(`^${source}$`, 'su');
  });
  return (name) => expressions.some((expression) => expression.test(name));
}
