// What is only looked at: routes, refusals, certificates, the configuration.
import { ask } from './api.js';
import { Table, by, el, put } from './dom.js';
import { clean, cleanLines, clock, count, day, duration, plural, term, toml } from './format.js';
import { filterBy } from './tunnels.js';

const MOST_ROUTES = 500;
const REFUSALS = 50;
const SOON = 14 * 86400;

const routes = new Table(by('routes-table'), {
  caption: 'Routes, in the order of the configuration',
  key: (row) => row.name,
  empty: 'No routes.',
  columns: [
    { head: 'Route', isHeader: true, of: (row) => ({ text: row.name, beside: row.listeners.join(', ') }) },
    { head: 'Hosts', of: (row) => row.hosts.join(', ') || 'any' },
    { head: 'Path', of: (row) => ({ text: row.path, beside: row.strip_prefix && `without ${row.strip_prefix}` }) },
    { head: 'To', of: (row) => row.upstream ?? (row.redirect ? `${row.redirect.status} ${row.redirect.to}` : `answers ${row.respond}`) },
    { head: 'Origins', of: ({ websocket }) => (websocket ? { text: websocket.origins.join(', '), beside: websocket.allow_missing_origin ? null : 'never without' } : { text: 'no WebSocket', tone: 'rest' }) },
    { head: 'Subprotocols', of: ({ websocket }) => websocket?.subprotocols?.join(', ') ?? null },
    { head: 'Tunnels', kind: 'count', of: ({ websocket }) => (websocket?.tunnels == null ? null : { text: count(websocket.tunnels), beside: websocket.max_tunnels && `of ${count(websocket.max_tunnels)}`, link: websocket.tunnels > 0 ? (row) => filterBy(term('route', row.name)) : undefined, title: 'Show them' }) },
  ],
});

const refusals = new Table(by('refusals-table'), {
  caption: 'Requests and handshakes that were refused, the newest first',
  key: (row) => `${row.time} ${row.connection} ${row.turn}`,
  empty: 'Nobody was refused.',
  columns: [
    { head: 'Time', kind: 'tight', of: (row) => clock(row.time) },
    { head: 'Reason', isHeader: true, of: (row) => ({ text: row.reason, under: row.detail }) },
    { head: 'Status', kind: 'count', of: (row) => (row.status === null ? null : String(row.status)) },
    { head: 'Client', of: (row) => ({ text: row.client, under: [row.protocol, row.listener].filter(Boolean).join(', ') }) },
    { head: 'Asked for', kind: 'broad', of: (row) => ({ text: row.method ? `${row.method} ${row.host ?? ''}${row.path}` : null, under: row.route && `route ${row.route}` }) },
    { head: 'Origin', kind: 'broad', of: (row) => ({ text: row.origin, under: row.user_agent }) },
  ],
});

function left(seconds) {
  if (seconds < 0) return { text: 'expired', tone: 'bad' };
  return { text: `in ${duration(seconds * 1000)}`, tone: seconds < SOON ? 'wait' : 'good' };
}

const certificates = new Table(by('certificates-table'), {
  caption: 'Certificates of the gateway',
  key: (row) => row.fingerprint_sha256 + row.file,
  empty: 'No certificates: nothing here is served over TLS.',
  columns: [
    { head: 'Names', isHeader: true, of: (row) => ({ text: row.names.join(', ') || row.subject, under: row.file }) },
    { head: 'Expires', kind: 'tight', of: (row) => ({ ...left(row.expires_in_s), beside: day(row.not_after) }) },
    { head: 'Used by', of: ({ used_by: uses }) => uses.map(({ listener, hosts }) => `${listener ?? 'admin'}${hosts.length > 0 ? ` for ${hosts.join(', ')}` : ''}`).join('; ') },
    { head: 'SHA-256', of: (row) => ({ text: row.fingerprint_sha256.slice(0, 16), title: row.fingerprint_sha256 }) },
  ],
});

export async function refreshRoutes() {
  const { routes: rows } = await ask('routes');
  put(by('routes-sum'), plural(rows.length, 'route') + (rows.length > MOST_ROUTES ? `; the first ${MOST_ROUTES} are shown` : ''));
  routes.show(rows.slice(0, MOST_ROUTES));
}

export async function refreshRefusals() {
  const { refusals: rows, silent_workers: silent } = await ask(`refusals?limit=${REFUSALS}`);
  put(by('refusals-sum'), silent > 0 ? `${plural(silent, 'worker')} did not answer` : rows.length === 0 ? '' : `the last ${count(rows.length)}`);
  // Several of one connection may have the same time.
  const seen = new Map();
  refusals.show(rows.map((row) => {
    const which = `${row.time} ${row.connection}`;
    seen.set(which, (seen.get(which) ?? 0) + 1);
    return { ...row, turn: seen.get(which) };
  }));
}

export async function refreshCertificates() {
  certificates.show((await ask('certificates')).certificates);
}

let generation = null;

export async function refreshConfiguration() {
  const config = await ask('config');
  const shown = JSON.stringify(config);
  if (shown === generation) return;
  generation = shown;
  put(by('configuration-sum'), `generation ${config.generation}; what could be a secret is masked`);
  by('configuration-files').replaceChildren(...config.files.map(({ path, tables }, at) => (
    el('details', { class: 'file', open: at === 0 && config.files.length === 1 }, el('summary', { class: 'mono' }, clean(path)),
      el('pre', { tabindex: '0', 'aria-label': clean(path) }, cleanLines(toml(tables)))))));
}
