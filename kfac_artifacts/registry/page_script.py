"""What makes the page of a registry comfortable; without it nothing is missing."""

STYLE = """
.wide { overflow-x: auto; max-width: 100%; line-height: 22px; }
td, dd, summary, h1, h2 { overflow-wrap: anywhere; unicode-bidi: isolate; }
.wide table { border-collapse: separate; border-spacing: 0; }
.wide td { min-width: 4rem; }
.wide :is(td, th):first-child { position: sticky; left: 0; background: #fff;
                                min-width: 8rem; }
.wide td:nth-child(2) { min-width: 8rem; }
.wide code, time { white-space: nowrap; }
.wide td.bar { min-width: 6rem; width: 8rem; }
th:nth-child(-n+3), td:nth-child(-n+3), th:nth-child(n+8), td:nth-child(n+8)
  { text-align: left; }
th button { all: unset; cursor: pointer; font-weight: 600; white-space: nowrap; }
th button:focus-visible, summary:focus-visible, .wide:focus-visible
  { outline: 2px solid #0072B2; outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
tr[hidden] { display: none; }
details { border-top: 1px solid #8884; padding: .4rem 0; }
summary { cursor: pointer; }
img { display: block; max-width: 100%; height: auto; }
pre { overflow-x: auto; background: #8882; padding: .6rem .8rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dd { margin: 0; } a { color: #0072B2; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } }
@media (prefers-color-scheme: dark) {
  a { color: #56B4E9; } .wide :is(td, th):first-child { background: #181818; }
}
"""

SCRIPT = """
'use strict';
const number = cell => Number(cell.dataset.sort);  // NaN if it is a word
const compare = (a, b) => number(a) === number(a) && number(b) === number(b)
  ? number(a) - number(b)
  : a.textContent.localeCompare(b.textContent, undefined, {numeric: true});
for (const head of document.querySelectorAll('table thead th')) {
  if (!head.textContent) continue;
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = head.textContent;
  head.replaceChildren(button);
  button.addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') !== 'ascending';
    for (const other of head.parentNode.children) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const body = head.closest('table').tBodies[0];
    const cell = row => row.cells[head.cellIndex];
    const sign = up ? 1 : -1;
    body.append(...[...body.rows].sort((a, b) => sign * compare(cell(a), cell(b))));
  });
}
const filter = document.getElementById('filter');
if (filter) {
  const rows = [...document.querySelector('#tasks ~ .wide tbody').rows];
  const count = document.getElementById('count');
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\\s+/);
    let left = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      if (!row.hidden) left += 1;
    }
    count.textContent = left + ' of ' + rows.length + ' tasks';
  };
  filter.addEventListener('input', apply);
  filter.closest('p').hidden = false;
  apply();
}
const open = () => {
  const found = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (found instanceof HTMLDetailsElement) found.open = true;
};
addEventListener('hashchange', open);
open();
"""
