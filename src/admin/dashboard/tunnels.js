// The live tunnels: filtered, sorted and paged by the gateway, so that a hundred thousand of them are as light as fifty.
import { ask, query } from './api.js';
import { askToClose } from './closing.js';
import { Table, by, el, put } from './dom.js';
import { bytes, cleanLines, count, duration, plural } from './format.js';

const SIZE = 50;
/** Further down nothing is paged. */
const DEEPEST = 10_000;
const PAUSE = 300;

const KEYS = ['id', 'client', 'route', 'server', 'upstream', 'listener', 'subprotocol', 'protocol', 'state', 'age', 'idle', 'messages', 'bytes', 'rtt'];
const MEASURES = ['age', 'idle', 'messages', 'bytes', 'rtt'];
/** The longest name first: what a key is called where it is chosen. */
const NAMES = { id: 'number', rtt: 'round trip' };

let page = 0;
let sort = { key: 'id', direction: 'ascending' };
let matched = 0;
let shown = '';
let turn = 0;
/** A filter that the gateway has not understood is not sent again. */
let misunderstood = null;
let changed = () => {};

const rtt = (micros) => (micros === null ? null : `${(micros / 1000).toFixed(1)} ms`);

const table = new Table(by('tunnels-table'), {
  caption: 'Live tunnels',
  key: (row) => row.id,
  empty: 'No tunnels.',
  onsort: (key) => sortBy(key, sort.key === key ? flip(sort.direction) : natural(key)),
  columns: [
    { head: 'ID', sort: 'id', kind: 'tight', isHeader: true, of: (row) => String(row.id) },
    { head: 'Client', sort: 'client', kind: 'tight', of: (row) => row.client ?? row.peer },
    { head: 'Route', sort: 'route', of: (row) => ({ text: row.route, beside: row.subprotocol }) },
    { head: 'Server', sort: 'server', kind: 'name broad', of: (row) => row.server },
    { head: 'State', sort: 'state', kind: 'tight', of: (row) => ({ text: row.state, tone: row.state === 'open' ? 'good' : 'wait' }) },
    { head: 'Age', sort: 'age', kind: 'count', of: (row) => duration(row.age_ms) },
    { head: 'Idle', sort: 'idle', kind: 'count', of: (row) => duration(row.idle_ms) },
    { head: 'Messages in / out', sort: 'messages', kind: 'count broad', of: (row) => (row.messages_in === null ? null : `${count(row.messages_in)} / ${count(row.messages_out)}`) },
    { head: 'Bytes in / out', sort: 'bytes', kind: 'count broad', of: (row) => `${bytes(row.bytes_in)} / ${bytes(row.bytes_out)}` },
    { head: 'RTT', sort: 'rtt', kind: 'count', of: (row) => rtt(row.rtt_us) },
    { head: '', kind: 'act', of: (row) => ({ buttons: [{ text: 'Close…', label: `Close tunnel ${row.id}`, act: closeOne }] }) },
  ],
});

function closeOne(row) {
  askToClose({
    title: `Close tunnel ${row.id}?`,
    which: { filter: `id=${row.id}` },
    then: changed,
    facts: [
      ['Client', row.client ?? row.peer], ['Peer', row.peer], ['Connection', `${row.connection}, on worker ${row.worker}`],
      ['Listener', row.listener], ['Spoken', [row.protocol, row.tls].filter(Boolean).join(', ')], ['Route', row.route],
      ['Server', row.server], ['Upstream', row.upstream], ['Subprotocol', row.subprotocol], ['Age', duration(row.age_ms)],
      ['Idle', duration(row.idle_ms)],
      ['Bytes', `${bytes(row.bytes_in)} in, ${bytes(row.bytes_out)} out`],
      ['Close', row.closed_by && `by ${row.closed_by}, ${row.close_code ?? 'no code'}`],
    ],
  });
}

const natural = (key) => (MEASURES.includes(key) ? 'descending' : 'ascending');
const flip = (direction) => (direction === 'ascending' ? 'descending' : 'ascending');

function sortBy(key, direction) {
  sort = { key, direction };
  page = 0;
  by('sort').value = key;
  changed();
}

/** From elsewhere on the page: these tunnels. */
export function filterBy(text) {
  by('filter').value = text;
  page = 0;
  changed();
  by('tunnels').scrollIntoView();
  by('filter').focus({ preventScroll: true });
}

export async function refresh() {
  const filter = by('filter').value.trim();
  if (filter === misunderstood) return;
  const mine = ++turn;
  const suffix = sort.direction === 'ascending' ? 'asc' : 'desc';
  let list;
  try {
    list = await ask(`tunnels?${query({ filter, sort: `${sort.key}:${suffix}`, limit: SIZE, offset: page * SIZE })}`);
  } catch (problem) {
    if (problem.status !== 400) throw problem;
    if (mine !== turn) return;
    misunderstood = filter;
    complain(problem.words);
    return;
  }
  // Another one was asked for meanwhile.
  if (mine !== turn) return;
  misunderstood = null;
  complain('');
  if (list.tunnels.length === 0 && page > 0) {
    page = Math.max(0, Math.ceil(list.matched / SIZE) - 1);
    return refresh();
  }
  ({ matched } = list);
  shown = filter;
  table.mark(sort.key, sort.direction);
  table.show(list.tunnels);
  describe(list);
}

function complain(words) {
  put(by('filter-error'), cleanLines(words));
  if (words) by('filter').setAttribute('aria-invalid', 'true');
  else by('filter').removeAttribute('aria-invalid');
  if (words) by('close-all').disabled = true;
}

function describe({ silent_workers: silent, tunnels }) {
  const sum = `${plural(matched, 'tunnel')}${shown ? (matched === 1 ? ' matches' : ' match') : ''}`;
  put(by('tunnels-sum'), silent > 0 ? `${sum}; ${plural(silent, 'worker')} did not answer` : sum);
  const from = page * SIZE;
  const reachable = Math.min(matched, DEEPEST);
  put(by('page-where'), tunnels.length === 0 ? '' : `${count(from + 1)} to ${count(from + tunnels.length)} of ${count(matched)}${from + SIZE >= DEEPEST ? '; a filter shows the rest' : ''}`);
  by('page-before').disabled = page === 0;
  by('page-after').disabled = from + SIZE >= reachable;
  by('close-all').disabled = matched === 0;
  put(by('close-all'), shown ? 'Close these…' : 'Close all…');
}

export function build(whenChanged) {
  changed = whenChanged;
  by('sort').replaceChildren(...KEYS.map((key) => el('option', { value: key }, NAMES[key] ?? key)));
  by('sort').addEventListener('change', (event) => sortBy(event.target.value, natural(event.target.value)));
  let waiting;
  const soon = (delay) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      page = 0;
      changed();
    }, delay);
  };
  by('filter').addEventListener('input', () => soon(PAUSE));
  by('filter-form').addEventListener('submit', (event) => {
    event.preventDefault();
    soon(0);
  });
  by('page-before').addEventListener('click', () => { page -= 1; changed(); });
  by('page-after').addEventListener('click', () => { page += 1; changed(); });
  by('close-all').addEventListener('click', () => askToClose({
    title: `Close ${plural(matched, 'tunnel')}?`,
    which: shown ? { filter: shown } : { all: true },
    facts: [['Filter', shown || 'none: every tunnel there is']],
    then: changed,
  }));
}
