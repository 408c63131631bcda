// Asks before tunnels are closed: which, with which code, for which reason.
import { ask } from './api.js';
import { by, pairs, tell } from './dom.js';
import { clean, cleanLines, plural } from './format.js';

const dialog = by('closing');
/** { filter } or { all: true }, and what is to be done afterwards. */
let meant = null;

export function askToClose({ title, facts, which, then }) {
  meant = { which, then };
  by('closing-title').textContent = clean(title);
  pairs(by('closing-facts'), facts);
  by('closing-code').value = '1008';
  by('closing-reason').value = '';
  by('closing-error').textContent = '';
  dialog.showModal();
  by('closing-code').focus();
}

async function close() {
  const button = by('closing-confirm');
  button.disabled = true;
  try {
    const body = { ...meant.which, code: Number(by('closing-code').value), reason: by('closing-reason').value || null };
    const { closed, silent_workers: silent } = await ask('tunnels/close', { method: 'POST', body });
    dialog.close();
    tell(`${plural(closed, 'tunnel')} closed${silent > 0 ? `; ${plural(silent, 'worker')} did not answer` : ''}`);
    meant.then();
  } catch (problem) {
    by('closing-error').textContent = cleanLines(problem.words ?? problem.message);
  } finally {
    button.disabled = false;
  }
}

export function build() {
  by('closing-cancel').addEventListener('click', () => dialog.close());
  by('closing-form').addEventListener('submit', (event) => {
    event.preventDefault();
    close();
  });
}
