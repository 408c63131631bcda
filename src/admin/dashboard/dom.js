// Elements, made of text only, and tables that change in place so that focus and selection stay where they are.
import { clean } from './format.js';

export const by = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function svg(tag, attributes = {}) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Sets a text only where it is another one. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Says it to those who do not see it. */
export function tell(text) {
  by('news').textContent = clean(text);
}

/** Names and values beneath each other. */
export function pairs(list, entries) {
  list.replaceChildren(...entries.filter(([, value]) => value !== null && value !== undefined && value !== '')
    .flatMap(([name, value]) => [el('dt', {}, name), el('dd', { class: 'foreign' }, clean(value))]));
}

function button({ text, label, act, danger, disabled }, rowOf) {
  return el('button', {
    type: 'button', class: `small${danger ? ' danger' : ''}`, 'aria-label': label && clean(label), disabled,
    onclick: (event) => act(rowOf(event)),
  }, text);
}

/** A cell is a text, or { text, beside, under, tone, link, title, buttons }. */
function fill(cell, value, rowOf) {
  const { text, beside, under, tone, link, buttons, title } = typeof value === 'object' && value !== null ? value : { text: value };
  const parts = [];
  if (buttons) parts.push(...buttons.map((one) => button(one, rowOf)).flatMap((made) => [made, ' ']));
  if (text !== undefined) {
    const isNothing = text === null || text === '';
    const shown = isNothing ? '–' : clean(text);
    if (link && !isNothing) {
      parts.push(el('button', { type: 'button', class: 'link foreign', title, onclick: (event) => link(rowOf(event)) }, shown));
    } else parts.push(el('span', { class: tone ? 'standing' : 'foreign', 'data-tone': tone, title: title && clean(title) }, shown));
    cell.classList.toggle('void', isNothing && !under && !beside);
  }
  if (beside) parts.push(' ', el('span', { class: 'beside foreign' }, clean(beside)));
  if (under) parts.push(el('span', { class: 'under foreign' }, clean(under)));
  cell.replaceChildren(...parts);
}

/**
 * A table in `place`. Columns: { head, of(row), kind, sort, isHeader }; `kind` is a class of its cells. Rows stay the same
 * elements as long as `key(row)` does.
 */
export class Table {
  constructor(place, { caption, columns, key, empty, onsort }) {
    Object.assign(this, { columns, key, rows: new Map() });
    this.heads = columns.map(({ head, kind, sort }) => el('th', { scope: 'col', class: kind },
      sort ? el('button', { type: 'button', class: 'sorter', onclick: () => onsort(sort) }, head)
        : head === '' ? el('span', { class: 'unseen' }, 'Actions') : head));
    this.body = el('tbody');
    this.frame = el('table', {}, el('caption', { class: 'unseen' }, caption), el('thead', {}, el('tr', {}, ...this.heads)), this.body);
    this.empty = el('p', { class: 'empty' }, empty);
    place.replaceChildren(el('div', { class: 'table' }, this.frame), this.empty);
  }

  /** `ascending` or `descending` beside the head that sorts. */
  mark(sort, direction) {
    this.columns.forEach((column, at) => {
      if (column.sort === sort) this.heads[at].setAttribute('aria-sort', direction);
      else this.heads[at].removeAttribute('aria-sort');
    });
  }

  show(rows) {
    const had = document.activeElement;
    const kept = new Map();
    rows.forEach((row, at) => {
      const key = this.key(row);
      const known = this.rows.get(key) ?? this.make();
      known.row = row;
      this.columns.forEach(({ of }, column) => this.refresh(known, column, of(row)));
      if (this.body.children[at] !== known.element) this.body.insertBefore(known.element, this.body.children[at] ?? null);
      kept.set(key, known);
    });
    for (const [key, { element }] of this.rows) if (!kept.has(key)) element.remove();
    this.rows = kept;
    this.frame.hidden = rows.length === 0;
    this.empty.hidden = rows.length > 0;
    // What is moved loses its focus.
    if (had?.isConnected && had !== document.activeElement) had.focus({ preventScroll: true });
  }

  make() {
    const cells = this.columns.map(({ kind, head, isHeader }) => el(isHeader ? 'th' : 'td',
      { class: kind, 'data-head': head || null, scope: isHeader ? 'row' : null }));
    return { element: el('tr', {}, ...cells), cells, said: [] };
  }

  refresh(known, column, value) {
    const said = JSON.stringify(value);
    if (known.said[column] === said) return;
    known.said[column] = said;
    const cell = known.cells[column];
    const hadFocus = cell.contains(document.activeElement);
    fill(cell, value, () => known.row);
    if (hadFocus) cell.querySelector('button:not(:disabled)')?.focus({ preventScroll: true });
  }
}
