// Numbers, times and words as they are shown. Pure.

/** Control characters and those that turn text round, which a client may have put into its words. */
const ODD = /[\p{Cc}\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu;

export const clean = (text) => String(text).replace(ODD, '\ufffd');

/** The same for what has lines. */
export const cleanLines = (text) => String(text).split('\n').map(clean).join('\n');

export function bytes(count) {
  let size = count;
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (size < 1024) return unit === 'B' ? `${Math.round(size)} B` : `${size.toFixed(1)} ${unit}`;
    size /= 1024;
  }
  return `${size.toFixed(1)} TiB`;
}

export function duration(millis) {
  const seconds = Math.floor(millis / 1000);
  const two = (number) => String(number).padStart(2, '0');
  if (seconds < 1) return `${Math.round(millis)} ms`;
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${two(Math.floor((seconds % 3600) / 60))} min`;
  return `${Math.floor(seconds / 86400)} d ${two(Math.floor((seconds % 86400) / 3600))} h`;
}

export const count = (number) => number.toLocaleString('en-US');

/** Small ones with a digit behind the point. */
export function rate(number) {
  if (number >= 10_000) return `${(number / 1000).toFixed(1)} k`;
  return number >= 100 || Number.isInteger(number) ? count(Math.round(number)) : number.toFixed(1);
}

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** `12:04:31`, with the day where that is another one. */
export function clock(text) {
  const time = new Date(text);
  if (Number.isNaN(time.valueOf())) return '–';
  const hours = time.toLocaleTimeString('en-GB');
  return time.toDateString() === new Date().toDateString() ? hours : `${time.toISOString().slice(0, 10)} ${hours}`;
}

export const day = (text) => (text ? text.slice(0, 10) : '–');

/** A term of a filter. */
export const term = (name, value) => `${name}=${/^[\w./:@-]+$/.test(value) ? value : `"${value}"`}`;

/** A configuration as one would write it. */
export function toml(tables) {
  const lines = [];
  const key = (name) => (/^[\w-]+$/.test(name) ? name : JSON.stringify(name));
  const isTable = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
  const isTables = (value) => Array.isArray(value) && value.length > 0 && value.every(isTable);
  const inline = (value) => {
    if (Array.isArray(value)) return `[${value.map(inline).join(', ')}]`;
    if (isTable(value)) return `{ ${Object.entries(value).map(([name, inner]) => `${key(name)} = ${inline(inner)}`).join(', ')} }`;
    return JSON.stringify(value);
  };
  const write = (table, path) => {
    const entries = Object.entries(table);
    const isOwn = (value) => isTable(value) || (isTables(value) && path.length === 0);
    for (const [name, value] of entries) if (!isOwn(value)) lines.push(`${key(name)} = ${inline(value)}`);
    for (const [name, value] of entries.filter(([, value]) => isOwn(value))) {
      const below = [...path, key(name)];
      for (const inner of isTable(value) ? [value] : value) {
        const isOnlyAFrame = isTable(value) && Object.values(inner).every(isTable) && Object.keys(inner).length > 0;
        if (!isOnlyAFrame) lines.push('', isTable(value) ? `[${below.join('.')}]` : `[[${below.join('.')}]]`);
        write(inner, below);
      }
    }
  };
  write(tables, []);
  return lines.join('\n').trim();
}
