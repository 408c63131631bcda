// Asks the listener that this page came from. The token, where there is one, stays in this tab.

const KEY = 'portcullis-token';
const PATIENCE = 15_000;
/** A reload may take two minutes by itself. */
const LONG_PATIENCE = 130_000;

/** What is wrong, in the API's words; `status` 0: there was no answer. */
export class Problem extends Error {
  constructor(status, { code = 'no-answer', message = '', help = null } = {}, body = null) {
    super(message);
    Object.assign(this, { status, code, help, body });
  }

  get words() {
    return [this.message, this.help].filter(Boolean).join('\n');
  }
}

let held = null;

export function token() {
  try {
    return sessionStorage.getItem(KEY) ?? held;
  } catch {
    return held;
  }
}

export function remember(value) {
  held = value;
  try {
    if (value === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, value);
  } catch {
    // A browser that keeps nothing: the variable does.
  }
}

export async function ask(path, { method = 'GET', body, patient = false } = {}) {
  const headers = { accept: 'application/json' };
  if (token() !== null) headers.authorization = `Bearer ${token()}`;
  if (body !== undefined) headers['content-type'] = 'application/json';
  const signal = AbortSignal.timeout(patient ? LONG_PATIENCE : PATIENCE);
  let response;
  let json = null;
  try {
    response = await fetch(`/api/v1/${path}`, {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
      cache: 'no-store', credentials: 'omit', redirect: 'error', referrerPolicy: 'no-referrer',
    });
    json = await response.json();
  } catch (error) {
    // A body that is no JSON comes from somebody else, or has broken off.
    throw new Problem(0, { message: error.name === 'TimeoutError' ? 'no answer in time' : 'no answer' });
  }
  if (response.ok) return json;
  throw new Problem(response.status, json?.error ?? {}, json);
}

export const query = (pairs) => new URLSearchParams(Object.entries(pairs).filter(([, value]) => value !== '')).toString();
