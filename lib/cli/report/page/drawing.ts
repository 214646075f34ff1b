import { makeElement } from './elements.ts';

/*
 * What drawings have in common: the page's colours, redrawing, and the tip beside the pointer.
 */

/** Return the value of one of the page's colours. */
export function themeColour(name: string): string {
  return window.getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Call `draw` soon, when the colours change, and when the width of `element` changes. */
export function keepDrawn(element: HTMLElement, draw: () => void): void {
  let width = 0;
  const fit = (): void => {
    if (element.clientWidth === width) return;
    width = element.clientWidth;
    draw();
  };
  new ResizeObserver(fit).observe(element);
  window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  // The caller has yet to put the element into the page; until then it has no width.
  void Promise.resolve().then(fit);
}

/** Show lines about what is under the pointer or the keyboard's mark. */
export function showTip(lines: readonly string[], x: number, y: number): void {
  const tip = document.getElementById('tip') as HTMLElement;
  tip.hidden = false;
  tip.replaceChildren(...lines.map((line) => makeElement('div', {}, line)));
  const left = Math.min(x + 14, window.innerWidth - tip.offsetWidth - 8);
  const top = y > tip.offsetHeight + 24 ? y - tip.offsetHeight - 12 : y + 20;
  tip.style.setProperty('left', `${Math.max(8, left)}px`);
  tip.style.setProperty('top', `${top}px`);
}

/** Hide the tip. */
export function hideTip(): void {
  (document.getElementById('tip') as HTMLElement).hidden = true;
}

/** Show a tip while the pointer is over `element`; `describe` returns its lines for a place in it. */
export function explainUnderPointer(
  element: HTMLElement,
  describe: (x: number, y: number) => readonly string[] | null,
): void {
  const show = (event: PointerEvent): void => {
    const { left, top } = element.getBoundingClientRect();
    const lines = describe(event.clientX - left, event.clientY - top);
    if (lines === null) hideTip();
    else showTip(lines, event.clientX, event.clientY);
  };
  element.addEventListener('pointermove', show);
  element.addEventListener('pointerdown', show);
  element.addEventListener('pointerleave', hideTip);
}
