// The live numbers: what is open now, what happens in a second, and the last ten minutes of both. All of that is kept in
// this page alone. One cursor goes through all plots, by pointer or by arrow keys.
import { by, el, put, svg } from './dom.js';
import { bytes, count, rate } from './format.js';

/** What is kept; what is drawn is no longer than what there is, and no shorter than the other. */
const LONGEST = 600_000;
const SHORTEST = 60_000;
const WIDTH = 300;
const HEIGHT = 56;
/** Longer than this between two answers is a gap in the line. */
const GAP = 15_000;

const NUMBERS = [
  { name: 'Tunnels', of: (now) => now.tunnels, show: count },
  { name: 'Connections', of: (now) => now.connections.open, show: count },
  { name: 'Requests / s', per: (totals) => totals.requests, show: rate },
  { name: 'Messages / s', per: (totals) => totals.messages_in + totals.messages_out, show: rate },
  { name: 'Bytes / s', per: (totals) => totals.bytes_in + totals.bytes_out, show: bytes },
  { name: 'Handshakes refused / s', per: (totals) => totals.handshakes_refused, show: rate, isBad: true },
];

/** { at, values }: the moment by this page's clock, and each number, or null where nobody knows it. */
let past = [];
let before = null;
/** How long ago the cursor is, or null. */
let cursor = null;

const tiles = NUMBERS.map(({ name }, which) => {
  const area = svg('path', { class: 'area' });
  const line = svg('path', { class: 'line' });
  const mark = svg('line', { class: 'cursor', y1: 0, y2: HEIGHT, visibility: 'hidden' });
  const plot = svg('svg', {
    class: 'plot', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', tabindex: '0',
    'aria-label': `${name}, up to ten minutes. Arrow keys look back.`,
  });
  plot.append(area, line, mark);
  const [value, when] = [el('output'), el('p', { class: 'when' })];
  const tile = el('article', { class: 'number', 'aria-label': name }, el('h3', {}, name), value, plot, when);
  plot.addEventListener('pointermove', (event) => {
    const { left: from, width } = plot.getBoundingClientRect();
    look(span() * (1 - (event.clientX - from) / width));
  });
  plot.addEventListener('pointerleave', () => look(null));
  plot.addEventListener('blur', () => look(null));
  plot.addEventListener('keydown', (event) => {
    const step = { ArrowLeft: 10_000, ArrowRight: -10_000 }[event.key];
    if (step) look((cursor ?? 0) + step);
    else if (event.key === 'Escape') look(null);
    else return;
    event.preventDefault();
  });
  return { which, tile, value, when, area, line, mark };
});

export function build() {
  by('numbers').replaceChildren(...tiles.map(({ tile }) => tile));
}

/** One more answer of `status`. */
export function note(status) {
  const at = Date.now();
  // By the gateway's clock: how long an answer was on its way does not matter then.
  const isSame = before !== null && before.started === status.started && before.uptime_ms < status.uptime_ms;
  const seconds = isSame ? (status.uptime_ms - before.uptime_ms) / 1000 : 0;
  const values = NUMBERS.map(({ of, per }) => {
    if (of) return of(status);
    if (!isSame || !status.totals || !before.totals) return null;
    const more = per(status.totals) - per(before.totals);
    return more < 0 ? null : more / seconds;
  });
  before = status;
  past.push({ at, values });
  const oldest = at - LONGEST - GAP;
  past = past.filter((moment) => moment.at >= oldest);
  draw();
}

/** Rates of a gateway that was away are not to be had from what it said before. */
export function interrupt() {
  before = null;
}

function look(ago) {
  cursor = ago === null ? null : Math.min(Math.max(ago, 0), span());
  draw();
}

const span = () => (past.length === 0 ? SHORTEST : Math.min(Math.max(past.at(-1).at - past[0].at, SHORTEST), LONGEST));

const ago = (millis) => (millis < 60_000 ? `${Math.round(millis / 1000)} s` : `${Math.round(millis / 60_000)} min`);

function nearest(at) {
  let best = null;
  for (const moment of past) if (best === null || Math.abs(moment.at - at) < Math.abs(best.at - at)) best = moment;
  return best !== null && Math.abs(best.at - at) < GAP ? best : null;
}

function draw() {
  if (past.length === 0) return;
  const now = past.at(-1).at;
  const looked = cursor === null ? past.at(-1) : nearest(now - cursor);
  for (const { which, tile, value, when, area, line, mark } of tiles) {
    const { show, isBad } = NUMBERS[which];
    const shown = looked?.values[which] ?? null;
    put(value, shown === null ? '–' : show(shown));
    const most = Math.max(0, ...past.map(({ values }) => values[which] ?? 0));
    const reach = cursor === null ? `last ${ago(span())}` : `${Math.round(cursor / 1000)} s ago`;
    put(when, most > 0 ? `${reach}, max ${show(most)}` : reach);
    if (isBad) tile.dataset.tone = most > 0 ? 'bad' : '';
    const runs = curves(which, now, most);
    line.setAttribute('d', runs.map((run) => `M${run.map(([x, y]) => `${x},${y}`).join('L')}`).join(''));
    area.setAttribute('d', runs.map((run) => `M${run[0][0]},${HEIGHT}L${run.map(([x, y]) => `${x},${y}`).join('L')}L${run.at(-1)[0]},${HEIGHT}Z`).join(''));
    const x = (WIDTH * (1 - (cursor ?? 0) / span())).toFixed(1);
    mark.setAttribute('x1', x);
    mark.setAttribute('x2', x);
    mark.setAttribute('visibility', cursor === null ? 'hidden' : 'visible');
  }
}

/** The line in pieces, without what is not known. */
function curves(which, now, most) {
  const runs = [];
  let last = -Infinity;
  for (const { at, values } of past) {
    const value = values[which];
    if (value === null) continue;
    const x = (WIDTH * (1 - (now - at) / span())).toFixed(1);
    const y = (HEIGHT - 2 - (HEIGHT - 8) * (most > 0 ? value / most : 0)).toFixed(1);
    if (at - last > GAP) runs.push([]);
    runs.at(-1).push([x, y]);
    last = at;
  }
  return runs;
}
