"""How the report looks, in light and dark, and how its tables sort. Nothing is loaded from anywhere."""

STYLE = """
:root { color-scheme: light dark; --page: #f4f6f9; --card: #fff; --ink: #1c2430; --muted: #5d6878; --line: #dfe4eb;
  --accent: #0b6bcb; --ours: #e8f2fd; --warn: #8a4b00; --warn-page: #fff4e2; --hover: #f1f4f8; }
@media (prefers-color-scheme: dark) { :root { --page: #0e1217; --card: #171c24; --ink: #e8ecf2; --muted: #97a3b4;
  --line: #2b3340; --accent: #5cb0ff; --ours: #16304a; --warn: #ffc777; --warn-page: #33260f; --hover: #1f2630; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 3.2rem; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header, main, nav { max-width: 1280px; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 1.8rem; }
h1 { margin: 0; font-size: 1.75rem; letter-spacing: -.01em; }
header p { margin: .2rem 0 1rem; color: var(--muted); }
nav { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; padding-top: .65rem;
  padding-bottom: .65rem; background: var(--page); border-bottom: 1px solid var(--line); font-weight: 500; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
section, article { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.2rem 1.4rem;
  margin: 1.2rem 0; }
article { content-visibility: auto; contain-intrinsic-size: auto 1800px; }
h2 { margin: 0 0 .8rem; font-size: 1.2rem; } h3 { margin: 1.4rem 0 .4rem; font-size: 1rem; }
h2 + h3 { margin-top: 0; }
p { margin: .4rem 0 .8rem; } .muted, .source { color: var(--muted); font-size: .87rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: .8rem 1rem; }
.tiles strong { display: block; font-size: 1.6rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles .name { font-weight: 500; } .tiles .beside { color: var(--muted); font-size: .85rem; }
.scroll { overflow-x: auto; margin: .4rem 0 .6rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .34rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; font-weight: 500; }
thead th { color: var(--muted); font-weight: 600; border-bottom: 2px solid var(--line); vertical-align: bottom;
  white-space: normal; line-height: 1.25; }
tbody tr:hover { background: var(--hover); } tbody tr:last-child > * { border-bottom: 0; }
tr.ours { background: var(--ours); } tr.ours > * { font-weight: 650; } tr.paper > * { font-weight: 600; }
.wrap th { text-align: left; } .wrap td { white-space: normal; text-align: left; overflow-wrap: anywhere; }
.sortable thead th { cursor: pointer; user-select: none; } .sortable thead th:hover { color: var(--ink); }
th[aria-sort=ascending]::after { content: " \\2191"; } th[aria-sort=descending]::after { content: " \\2193"; }
.notice { background: var(--warn-page); color: var(--warn); border-radius: 8px; padding: .55rem .9rem;
  margin: .6rem 0; }
img { display: block; width: 100%; height: auto; border-radius: 8px; margin: .6rem 0; }
.facts { display: flex; flex-wrap: wrap; gap: .1rem 1.6rem; margin: 0 0 .5rem; color: var(--muted); }
.facts b { color: var(--ink); font-variant-numeric: tabular-nums; font-weight: 600; }
.heading { display: flex; justify-content: space-between; align-items: baseline; gap: 1rem; }
.heading span { display: flex; gap: 1rem; font-size: .87rem; }
details summary { cursor: pointer; color: var(--accent); font-weight: 500; margin: .8rem 0 .3rem; }
code, pre { font: .86rem/1.5 ui-monospace, "SF Mono", Consolas, monospace; overflow-wrap: anywhere; }
ul { margin: .4rem 0; padding-left: 1.2rem; }
@media print { nav { display: none; } section, article { break-inside: avoid; border: 0; padding: 0; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent;
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const sorted = [...body.rows].sort((one, two) => {
      const [a, b] = [key(one, column), key(two, column)];
      const [x, y] = [parseFloat(a), parseFloat(b)];
      if (column && isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
      const order = column && !isNaN(x) ? x - y : a.localeCompare(b, undefined, { numeric: true });
      return down ? -order : order;
    });
    body.append(...sorted);
  }));
}
"""
