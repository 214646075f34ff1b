/*
 * Types of what a report's page uses of a browser. TypeScript's own would make the browser's globals known
 * in all of this package, which runs elsewhere.
 */

/** What an element may contain. */
export type PageContent = PageElement | string;

/** An event, as far as it is looked at. */
export interface PageEvent {
  readonly clientX: number;
  readonly clientY: number;
  readonly key: string;
  preventDefault(): void;
}

/** An element; `open` is of `details`, `value` of an `input`. */
export interface PageElement {
  textContent: string | null;
  hidden: boolean;
  open: boolean;
  value: string;
  readonly clientWidth: number;
  readonly offsetWidth: number;
  readonly offsetHeight: number;
  readonly isConnected: boolean;
  readonly dataset: Record<string, string | undefined>;
  readonly style: { setProperty(name: string, value: string): void };
  append(...content: PageContent[]): void;
  replaceChildren(...content: PageContent[]): void;
  after(...content: PageContent[]): void;
  setAttribute(name: string, value: string): void;
  removeAttribute(name: string): void;
  addEventListener(type: string, listener: (event: PageEvent) => void): void;
  getBoundingClientRect(): { left: number; top: number; width: number; height: number };
}

/** What is drawn with. */
export interface PageContext {
  fillStyle: string;
  strokeStyle: string;
  lineWidth: number;
  clearRect(x: number, y: number, width: number, height: number): void;
  fillRect(x: number, y: number, width: number, height: number): void;
  strokeRect(x: number, y: number, width: number, height: number): void;
  scale(x: number, y: number): void;
}

/** A canvas. */
export interface PageCanvas extends PageElement {
  width: number;
  height: number;
  getContext(kind: '2d'): PageContext;
}

/** The document. */
export interface PageDocument {
  readonly documentElement: PageElement;
  readonly body: PageElement;
  createElement(tag: 'canvas'): PageCanvas;
  createElement(tag: string): PageElement;
  getElementById(id: string): PageElement | null;
}

/** The window. */
export interface PageWindow {
  readonly devicePixelRatio: number;
  readonly innerWidth: number;
  addEventListener(type: string, listener: (event: { readonly message?: string }) => void): void;
  getComputedStyle(element: PageElement): { getPropertyValue(name: string): string };
  matchMedia(query: string): { addEventListener(type: string, listener: () => void): void };
  readonly ResizeObserver: new (seen: () => void) => { observe(element: PageElement): void };
  setTimeout(what: () => void, milliseconds: number): number;
  clearTimeout(timer: number | undefined): void;
}

/** uPlot, as far as it is used. */
export interface PageChart {
  setSize(size: { width: number; height: number }): void;
  destroy(): void;
}

/** uPlot's constructor, as far as it is used. */
export interface PageCharts {
  new (options: unknown, data: readonly (readonly number[])[], into: PageElement): PageChart;
  readonly paths: { bars(options: { size: [number, number] }): unknown };
}
