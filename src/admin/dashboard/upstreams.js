// Upstreams and their servers: how each stands, what it has, and whether it drains.
import { ask } from './api.js';
import { confirm, report } from './controls.js';
import { Table, by, put, tell } from './dom.js';
import { clock, count, duration, plural, term } from './format.js';
import { filterBy } from './tunnels.js';

/** Rows that a page bears. */
const MOST = 500;

const STANDINGS = {
  up: ['● up', 'good'], trial: ['◐ trial', 'wait'], 'on-trial': ['◐ on trial', 'wait'],
  ejected: ['▲ ejected', 'bad'], down: ['✕ down', 'bad'],
};
const WHY = { asked: 'by an operator', 'no-weight': 'its weight is 0', gone: 'no longer configured' };

let changed = () => {};

function standing({ server, drain }) {
  if (server.draining) return { text: '◌ draining', tone: 'wait', beside: WHY[drain?.why] ?? drain?.why };
  const [text, tone] = STANDINGS[server.standing] ?? [server.standing, 'rest'];
  return { text, tone, beside: server.since ? `since ${clock(server.since)}` : null };
}

function checks({ upstream, server: { last_check: last, checks: { failed } } }) {
  if (!last) return { text: upstream.checked ? 'not yet' : 'not checked', tone: 'rest' };
  return { text: last.passed ? `passed in ${duration(last.took_ms)}` : last.failure ?? 'failed', beside: failed > 0 ? `${count(failed)} failed` : null };
}

function aside({ checked, websocket_only: isOnly, queue, retries }) {
  return [isOnly && 'WebSocket only', queue.length > 0 && `${count(queue.length)} waiting`,
    retries.refused > 0 && `${count(retries.refused)} retries refused`].filter(Boolean).join(', ');
}

const table = new Table(by('upstreams-list'), {
  caption: 'Servers of upstreams',
  key: ({ upstream, server }) => `${upstream.name} ${server.id}`,
  empty: 'No upstreams.',
  columns: [
    { head: 'Server', kind: 'name', isHeader: true, of: ({ server }) => ({ text: server.server, beside: server.backup ? 'backup' : server.weight !== 1 ? `weight ${server.weight}` : null }) },
    { head: 'Upstream', kind: 'tight broad', of: ({ upstream, server, isFirst }) => ({ text: upstream.name === server.server ? null : upstream.name, beside: isFirst ? aside(upstream) : null }) },
    { head: 'Health', kind: 'tight broad', of: standing },
    { head: 'Tunnels', kind: 'count', of: ({ server }) => ({ text: count(server.tunnels), link: server.tunnels > 0 ? showTunnels : undefined, title: 'Show them' }) },
    { head: 'Requests', kind: 'count', of: ({ server }) => count(server.requests) },
    { head: 'Idle', kind: 'count', of: ({ server }) => count(server.idle_connections) },
    { head: 'Ejections', kind: 'count', of: ({ server }) => count(server.ejections) },
    { head: 'Last check', kind: 'broad', of: checks },
    { head: '', kind: 'act', of: (row) => ({ buttons: [action(row)] }) },
  ],
});

function action({ server, drain }) {
  if (!server.draining) return { text: 'Drain', label: `Drain ${server.server}`, act: drainIt };
  return { text: 'Resume', label: `Resume ${server.server}`, act: resume, disabled: drain?.why !== 'asked' };
}

const showTunnels = ({ upstream, server }) => filterBy(`${term('upstream', upstream.name)} ${term('server', server.server)}`);

async function drainIt({ upstream, server }) {
  const fate = upstream.drain_rate ? `are closed, ${count(upstream.drain_rate)} in a second` : 'stay until they end';
  const isSure = await confirm({
    title: `Drain ${server.server}?`,
    words: `It gets nothing new in ${upstream.name}. Its ${plural(server.tunnels, 'tunnel')} ${fate}.`,
    yes: 'Drain',
  });
  if (!isSure) return;
  const body = { what: 'server', server: server.server, upstream: upstream.name };
  await attempt(() => ask('drains', { method: 'POST', body }), `${server.server} drains`);
}

function resume({ server, drain }) {
  return attempt(() => ask(`drains/${encodeURIComponent(drain.id)}`, { method: 'DELETE' }), `${server.server} takes work again`);
}

async function attempt(call, done) {
  try {
    await call();
    tell(done);
  } catch (problem) {
    report('The gateway says no', problem.words);
  }
  changed();
}

export async function refresh() {
  const [{ upstreams }, { drains }] = [await ask('upstreams'), await ask('drains')];
  const drainOf = new Map(drains.filter(({ what }) => what === 'server').map((drain) => [`${drain.upstream} ${drain.server}`, drain]));
  const rows = upstreams.flatMap((upstream) => upstream.servers.map((server, at) => (
    { upstream, server, isFirst: at === 0, drain: drainOf.get(`${upstream.name} ${server.server}`) })));
  const well = rows.filter(({ server }) => server.standing === 'up' && !server.draining).length;
  const rest = rows.length > MOST ? `; the first ${MOST} are shown` : '';
  put(by('upstreams-sum'), `${plural(rows.length, 'server')}, ${count(well)} up${rest}`);
  table.show(rows.slice(0, MOST));
}

export function build(whenChanged) {
  changed = whenChanged;
}
