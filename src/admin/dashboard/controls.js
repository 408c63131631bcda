// Reload, log level, and the dialog in which the gateway says what has come of something.
import { ask } from './api.js';
import { by, el, tell } from './dom.js';
import { clean, cleanLines } from './format.js';

const LEVELS = ['error', 'warn', 'info', 'debug', 'trace'];
const dialog = by('outcome');

/** Words, and a report as `portcullis check` prints it. */
export function report(title, words, text = '') {
  by('outcome-title').textContent = clean(title);
  by('outcome-words').textContent = cleanLines(words);
  by('outcome-report').textContent = cleanLines(text.trimEnd());
  by('outcome-report').hidden = text === '';
  by('outcome-close').textContent = 'Done';
  by('outcome-cancel')?.remove();
  if (!dialog.open) dialog.showModal();
  by('outcome-close').focus();
}

/** Whether somebody says yes. */
export function confirm({ title, words, yes }) {
  report(title, words);
  by('outcome-close').textContent = yes;
  dialog.returnValue = '';
  const cancel = el('button', { type: 'button', id: 'outcome-cancel', onclick: () => dialog.close('') }, 'Cancel');
  by('outcome-close').before(cancel);
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

function changes({ server, log, admin, ...lists }) {
  const said = Object.entries({ server, log, admin }).filter(([, is]) => is).map(([name]) => `[${name}] changed`);
  for (const [what, kinds] of Object.entries(lists)) {
    for (const [how, names] of Object.entries(kinds)) if (names.length > 0) said.push(`${what} ${how}: ${names.join(', ')}`);
  }
  return said.length === 0 ? 'Nothing is different.' : `${said.join('; ')}.`;
}

async function reload(changed) {
  const button = by('reload');
  button.disabled = true;
  button.textContent = 'Reloading…';
  try {
    const done = await ask('reload', { method: 'POST', body: {}, patient: true });
    report(`Reloaded: generation ${done.generation}`, changes(done.changes), done.report);
  } catch (problem) {
    report('Not reloaded', problem.message, problem.body?.report ?? '');
  } finally {
    button.disabled = false;
    button.textContent = 'Reload';
    changed();
  }
}

async function setLevel(changed) {
  const level = by('level').value;
  try {
    await ask('log', { method: 'PUT', body: { level } });
    tell(`The log's level is ${level}`);
  } catch (problem) {
    report('The level stays', problem.words);
  }
  changed();
}

export async function refreshLog() {
  const { level, configured } = await ask('log');
  const select = by('level');
  // Nobody's choice is taken away while it is being made.
  if (document.activeElement === select && select.matches(':open, :focus-visible')) return;
  const known = LEVELS.includes(level) ? LEVELS : [...LEVELS, level];
  select.replaceChildren(...known.map((name) => el('option', { value: name }, name === configured ? `${name} (configured)` : name)));
  select.value = level;
}

export function build(changed) {
  by('outcome-close').addEventListener('click', () => dialog.close('yes'));
  by('reload').addEventListener('click', () => reload(changed));
  by('level').addEventListener('change', () => setLevel(changed));
}
