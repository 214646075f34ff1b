/** The style of a report's page. */
export const REPORT_STYLE = `
:root {
  color-scheme: light dark;
  --paper: #f6f7f9; --card: #ffffff; --ink: #1c2430; --quiet: #5d6878; --line: #e1e5ea;
  --hover: #f1f4f8; --accent: #1f5f9e; --bar: #b9d0e8;
  --warn: #fff6e0; --warn-line: #e2b34a; --warn-ink: #5d4306;
  --data: #2f6fb3; --resent: #d97b1f; --zero: #c3cfdc; --absent: #edf0f4;
  --normal: #2f6fb3; --xbzrle: #2a9d8f; --compressed: #8a63b8; --multifd: #d97b1f;
  --start: #8a63b8; --part: #2f6fb3; --end: #2a9d8f; --full: #d97b1f; --command: #c0394b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #11151b; --card: #191f27; --ink: #e4e9ef; --quiet: #97a3b2; --line: #2b333e;
    --hover: #212934; --accent: #7db4ea; --bar: #2d4a68;
    --warn: #33290f; --warn-line: #94752a; --warn-ink: #f3dfae;
    --data: #5a9bdc; --resent: #e99545; --zero: #4a596b; --absent: #232b35;
    --normal: #5a9bdc; --xbzrle: #45b8a9; --compressed: #ab8ad6; --multifd: #e99545;
    --start: #ab8ad6; --part: #5a9bdc; --end: #45b8a9; --full: #e99545; --command: #e26a79;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
html { scroll-padding-top: 3.5rem; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1200px; margin: 0 auto; padding: 28px 24px 64px; }
h1, h2, h3, p, dl, dd, ol, ul, figure { margin: 0; padding: 0; }
ol, ul { list-style: none; }
h1 { font-size: 1.7rem; line-height: 1.25; font-weight: 650; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; font-weight: 650; margin-bottom: 14px; }
h3 { font-size: .95rem; font-weight: 600; overflow-wrap: anywhere; }
h1, h3, dd, td, .key, .what, .hits, li { unicode-bidi: isolate; }
small, .quiet { color: var(--quiet); font-size: .85rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 3px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
button {
  font: inherit; font-size: .85rem; color: var(--accent); background: none; cursor: pointer;
  border: 1px solid var(--line); border-radius: 6px; padding: 3px 10px;
}
button:hover { background: var(--hover); }

.kicker {
  color: var(--quiet); font-size: .75rem; font-weight: 600; letter-spacing: .08em;
  text-transform: uppercase; margin-bottom: 4px;
}
.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 18px 20px;
  margin-top: 22px;
}
.facts dt { color: var(--quiet); font-size: .8rem; }
.facts dd { font-size: 1.05rem; font-weight: 550; overflow-wrap: anywhere; }
.facts small { display: block; font-weight: 400; font-size: .8rem; min-height: 1em; }

main > section {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px 22px; margin-top: 18px;
}
main > section.warnings {
  background: var(--warn); border-color: var(--warn-line); color: var(--warn-ink); margin-top: 24px;
}
.warnings h2 { margin-bottom: 8px; }
.warnings li { padding: 3px 0 3px 16px; position: relative; overflow-wrap: anywhere; }
.warnings li::before { content: "–"; position: absolute; left: 0; }
.warnings button { color: inherit; border-color: var(--warn-line); margin-top: 8px; }
.failed { color: var(--command); }
nav {
  position: sticky; top: 0; z-index: 2; display: flex; gap: 20px; overflow-x: auto;
  margin: 22px -24px 0; padding: 10px 24px; background: var(--paper);
  border-bottom: 1px solid var(--line); font-size: .9rem; white-space: nowrap;
}

.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .85rem; color: var(--quiet); }
.legend li { display: flex; align-items: center; gap: 7px; }
.swatch { width: 12px; height: 12px; border-radius: 2px; }
.swatch.absent { outline: 1px solid var(--line); outline-offset: -1px; }
.data { background: var(--data); } .resent { background: var(--resent); }
.zero { background: var(--zero); } .absent { background: var(--absent); }
.start { background: var(--start); } .part { background: var(--part); }
.end { background: var(--end); } .full { background: var(--full); }
.command { background: var(--command); }

.maps {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr));
  gap: 26px 30px; margin: 16px 0 26px;
}
.block { min-width: 0; }
.block.wide, .maps > .more { grid-column: 1 / -1; }
.block figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 14px; }
.block figcaption span { color: var(--quiet); font-size: .85rem; }
.map { margin: 8px 0 6px; min-width: 0; overflow: hidden; }
.map canvas { display: block; touch-action: pan-y; cursor: crosshair; }
#tip {
  position: fixed; z-index: 9; max-width: calc(100vw - 16px); pointer-events: none;
  background: var(--ink); color: var(--card); border-radius: 6px; padding: 6px 10px;
  font-size: .8rem; line-height: 1.45; overflow-wrap: anywhere; font-variant-numeric: tabular-nums;
}
#tip div:first-child { font-weight: 600; }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 550; font-size: .8rem; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 2px; }
td { white-space: nowrap; }
td:first-child { overflow-wrap: anywhere; }
tbody tr:hover { background: var(--hover); }
.more { padding: 10px 0 0; color: var(--quiet); font-size: .85rem; }

.sections th button { border: 0; padding: 0; color: inherit; font-size: inherit; font-weight: inherit; }
.sections th button:hover { background: none; color: var(--accent); }
.sections th[aria-sort] button { color: var(--ink); }
.sections th[aria-sort="ascending"] button::after { content: " ↑"; }
.sections th[aria-sort="descending"] button::after { content: " ↓"; }
.sections > thead th:nth-child(-n+3), .sections > tbody > tr > td:nth-child(-n+3) { text-align: left; }
.sections .size { display: flex; align-items: center; gap: 10px; min-width: 300px; }
.sections .size > :nth-child(2) { min-width: 5em; text-align: right; }
.sections .size small { min-width: 3.6em; text-align: right; }
.track { flex: 1; height: 10px; border-radius: 2px; background: var(--absent); overflow: hidden; }
.bar { display: block; height: 100%; min-width: 2px; background: var(--data); }
.sections .name { white-space: normal; overflow-wrap: anywhere; min-width: 150px; }
.opens { border: 0; padding: 0; text-align: left; font-size: inherit; overflow-wrap: anywhere; }
.opens::after { content: " ▸"; } .opens[aria-expanded="true"]::after { content: " ▾"; }
.opened > td { padding: 0 0 14px 28px; } .opened .scroll { max-width: 520px; }
.sections .opened:hover { background: none; }

.choice { margin-bottom: 6px; }
.choice button:first-child { border-radius: 6px 0 0 6px; }
.choice button:last-child { border-radius: 0 6px 6px 0; border-left: 0; }
.choice [aria-pressed="true"] { background: var(--hover); color: var(--ink); font-weight: 550; }
.chart { margin-bottom: 14px; min-width: 0; }
.chart .uplot, .chart .u-legend { font-family: inherit; }
.chart .u-legend { font-size: .85rem; text-align: left; width: auto; margin: 4px 0 0; color: var(--quiet); }
.chart .u-legend th, .chart .u-legend td { border: 0; padding: 2px 4px; cursor: default; font-size: .85rem; }
.chart .u-series { pointer-events: none; }
.chart .u-legend th { font-weight: 500; }
.chart .u-inline.u-live th::after { content: ""; }
.chart .u-value { min-width: 4em; color: var(--ink); font-variant-numeric: tabular-nums; }
.chart .u-series:hover { background: none; }
.chart .u-series:first-child .u-marker { display: none; }

.strip {
  position: relative; height: 30px; margin: 12px 0 14px; border-radius: 4px; overflow: hidden;
  background: var(--absent);
}
.strip span { position: absolute; top: 0; bottom: 0; min-width: 1px; }
.strip .command { min-width: 2px; }
.events li {
  display: grid; grid-template-columns: 7.5em 6.6em 1fr auto; gap: 0 12px; align-items: baseline;
  padding: 5px 2px; border-bottom: 1px solid var(--line); font-size: .88rem;
}
.events .at, .events .size { color: var(--quiet); font-variant-numeric: tabular-nums; white-space: nowrap; }
.events .at { text-align: right; }
.events .what { overflow-wrap: anywhere; min-width: 0; }
.events .what small { display: block; }
.events details { font-size: .85rem; color: var(--quiet); }
.kind { display: flex; align-items: center; gap: 7px; color: var(--quiet); }

.search { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 14px; margin-bottom: 8px; }
.search label { font-size: .9rem; }
.search input {
  flex: 1; min-width: min(100%, 260px); font: inherit; color: inherit; background: var(--paper);
  border: 1px solid var(--line); border-radius: 6px; padding: 6px 10px;
}
.devices { margin-top: 10px; }
.device { border-top: 1px solid var(--line); }
.device summary {
  display: flex; align-items: baseline; gap: 12px; padding: 4px 2px; cursor: pointer;
  list-style: none; border-radius: 4px;
}
.device summary .key { flex: 0 1 auto; }
.device summary .quiet {
  flex: 1 1 0; min-width: 6em; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
}
.device summary::-webkit-details-marker { display: none; }
.device summary::before { content: "▸"; color: var(--quiet); width: .8em; flex: none; }
.device details[open] > summary::before { content: "▾"; }
.device summary:hover, .field:hover { background: var(--hover); }
.device > details > summary { padding: 6px 2px; }
.device > details > summary .key { font-weight: 550; }
.device > details > summary .quiet { text-align: right; }
.key, .plain, .hex, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .82rem; }
.key { overflow-wrap: anywhere; }
.inside, .hits { margin-left: .45em; padding-left: 1.1em; border-left: 1px solid var(--line); }
.inside { margin-bottom: 6px; }
.hits { margin-bottom: 10px; border-left-color: var(--accent); }
.field {
  display: grid; grid-template-columns: minmax(0, 22em) minmax(0, 13em) minmax(0, 1fr); gap: 0 14px;
  padding: 3px 2px; align-items: baseline; border-radius: 4px;
}
.plain, .hex { overflow-wrap: anywhere; }
.hex { color: var(--quiet); }
pre {
  margin: 4px 0; padding: 8px 12px; overflow-x: auto; background: var(--paper);
  border: 1px solid var(--line); border-radius: 6px; line-height: 1.45;
}

@media (max-width: 640px) {
  main { padding: 18px 14px 48px; }
  main > section { padding: 16px 14px 18px; }
  nav { margin: 18px -14px 0; padding: 10px 14px; }
  h1 { font-size: 1.35rem; }
  .facts { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px 16px; }
  .sections .size { min-width: 190px; }
  .events li { grid-template-columns: auto 1fr auto; }
  .events .what { grid-column: 1 / -1; grid-row: 2; }
  .events .kind { grid-row: 1; grid-column: 1; } .events .at { grid-row: 1; grid-column: 2; text-align: left; }
  .field { grid-template-columns: minmax(0, 1fr) auto; }
  .field .hex { grid-column: 2; text-align: right; } .field .plain { text-align: right; }
}
@media print {
  nav, .search, .more { display: none; }
  main > section { break-inside: auto; border-color: #ccc; }
}
`;
