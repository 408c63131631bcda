// The page: asks what it shows again and again, says when nobody answers, and lets people log in.
import { ask, remember, token } from './api.js';
import * as closing from './closing.js';
import * as controls from './controls.js';
import { by, put, tell } from './dom.js';
import { clean, duration, plural } from './format.js';
import * as lists from './lists.js';
import * as numbers from './numbers.js';
import * as tunnels from './tunnels.js';
import * as upstreams from './upstreams.js';

const BEAT = 2000;
/** Where nobody answers: so often, so that a gateway that is back is seen at once. */
const SEARCH = 1000;
/** So many times as long as an answer took is waited before it is asked for again. */
const SPARING = 5;

/** What is asked for, how often, and what is called when it cannot be had. */
const panels = [
  { every: 2000, refresh: tunnels.refresh, sum: 'tunnels-sum' },
  { every: 4000, refresh: upstreams.refresh, sum: 'upstreams-sum' },
  { every: 4000, refresh: lists.refreshRefusals, sum: 'refusals-sum' },
  { every: 10_000, refresh: lists.refreshRoutes, sum: 'routes-sum' },
  { every: 10_000, refresh: controls.refreshLog },
  { every: 60_000, refresh: lists.refreshCertificates },
  { every: 60_000, refresh: lists.refreshConfiguration, sum: 'configuration-sum' },
].map((panel) => ({ ...panel, due: 0 }));

let generation = null;
let started = null;
let isOut = false;
let isPaused = false;
/** Somebody has done something, and wants to see it even where tables stand still. */
let isForced = false;
let timer = null;
let isBusy = false;
let isAgain = false;

const PHASES = { running: 'good', draining: 'wait', ended: 'bad' };

function showStatus(status) {
  put(by('phase'), status.phase);
  by('phase').dataset.tone = PHASES[status.phase] ?? 'wait';
  const { configuration, workers } = status;
  const refused = configuration.refused > 0 ? `, ${plural(configuration.refused, 'reload')} refused` : '';
  const left = status.drain_left_ms === null ? '' : ` · ${duration(status.drain_left_ms)} left to drain`;
  put(by('facts'), clean(`${status.version} · pid ${status.pid} · ${plural(workers.length, 'worker')} · up ${duration(status.uptime_ms)} · generation ${configuration.generation}${refused}${left}`));
  document.title = `${status.tunnels} tunnels · Portcullis`;
}

function show(part) {
  by('login').hidden = part !== 'login';
  by('main').hidden = part !== 'main';
  by('tools').hidden = part !== 'main';
  by('forget').hidden = token() === null;
}

function outage(words) {
  if (!isOut) {
    isOut = true;
    numbers.interrupt();
    document.body.classList.add('is-stale');
    put(by('phase'), 'no answer');
    by('phase').dataset.tone = 'bad';
  }
  by('outage').hidden = false;
  put(by('outage'), clean(words));
}

function recovered(status) {
  if (isOut) {
    isOut = false;
    document.body.classList.remove('is-stale');
    by('outage').hidden = true;
    panels.forEach((panel) => { panel.due = 0; });
    tell(started !== null && status.started !== started ? 'The gateway was started again' : 'The gateway answers again');
  }
  if (generation !== status.configuration.generation || started !== status.started) panels.forEach((panel) => { panel.due = 0; });
  ({ started } = status);
  ({ generation } = status.configuration);
}

function askForToken(problem) {
  const wasWrong = problem.code !== 'no-token' && token() !== null;
  remember(null);
  by('phase').dataset.tone = 'wait';
  put(by('phase'), 'locked');
  put(by('facts'), '');
  put(by('token-error'), wasWrong ? 'This is not the token.' : '');
  if (by('login').hidden) {
    show('login');
    by('token').focus();
  }
}

async function refreshAll() {
  const status = await ask('status');
  recovered(status);
  show('main');
  showStatus(status);
  numbers.note(status);
  if ((isPaused && !isForced) || document.hidden) return;
  isForced = false;
  for (const panel of panels) {
    if (Date.now() < panel.due) continue;
    const began = Date.now();
    panel.due = began + panel.every - BEAT / 2;
    try {
      await panel.refresh();
      // What takes a gateway long is not asked often.
      panel.due = Math.max(panel.due, Date.now() + SPARING * (Date.now() - began));
    } catch (problem) {
      if (problem.status === 0 || problem.status === 401 || problem.status === undefined) throw problem;
      if (panel.sum) put(by(panel.sum), clean(problem.words));
    }
  }
}

/** One beat; the next one comes by itself. */
async function beat() {
  if (isBusy) {
    isAgain = true;
    return;
  }
  isBusy = true;
  clearTimeout(timer);
  let next = BEAT;
  try {
    await refreshAll();
  } catch (problem) {
    if (problem.status === undefined) console.error(problem);
    if (problem.status === 401) {
      askForToken(problem);
      isBusy = false;
      return;
    }
    next = SEARCH;
    outage(problem.status > 0 ? `The gateway does not let this page in: ${problem.words}` : 'The gateway does not answer. Trying again…');
  }
  isBusy = false;
  timer = setTimeout(beat, isAgain ? 0 : next);
  isAgain = false;
}

/** Somebody has changed something: show it now. */
function changed() {
  panels.forEach((panel) => { if (panel.every <= 10_000) panel.due = 0; });
  isForced = true;
  beat();
}

by('login').addEventListener('submit', (event) => {
  event.preventDefault();
  remember(by('token').value.trim());
  by('token').value = '';
  beat();
});
by('forget').addEventListener('click', () => {
  remember(null);
  location.reload();
});
by('pause').addEventListener('click', () => {
  isPaused = !isPaused;
  by('pause').setAttribute('aria-pressed', String(isPaused));
  tell(isPaused ? 'Tables stand still' : 'Tables go on');
  if (!isPaused) changed();
});
document.addEventListener('visibilitychange', () => { if (!document.hidden && !isOut && by('login').hidden) changed(); });

numbers.build();
closing.build();
tunnels.build(changed);
upstreams.build(changed);
controls.build(changed);
beat();
