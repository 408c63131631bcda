// What a program has drawn on a whole screen, as an SVG: COMMAND COLUMNS as arguments, everything that it has written on
// stdin, the picture on stdout. The picture is the screen as it was before the program gave it back.
'use strict';
const fs = require('fs');

const [command, columns] = process.argv.slice(2);
const COLUMN = 8.4;
const ROW = 19;
const MARGIN = 20;
const BAR = 40;
const INK = '#d7dde5';
const GROUND = '#12171d';
const COLOURS = ['#12171d', '#ff7b72', '#7ee787', '#e3b341', '#79c0ff', '#d2a8ff', '#56d4dd', '#d7dde5', '#8b949e'];

const cells = new Map();
let [row, column] = [0, 0];
let look = {};

/** A colour of 16, as `38;5;N`; `39` and `49` are the terminal's own. */
function style(words) {
  const codes = words === '' ? [0] : words.split(';').map(Number);
  while (codes.length > 0) {
    const code = codes.shift();
    if (code === 0) look = {};
    else if (code === 1) look = { ...look, bold: true };
    else if (code === 7) look = { ...look, turned: true };
    else if (code === 22) look = { ...look, bold: false };
    else if (code === 27) look = { ...look, turned: false };
    else if (code === 39) look = { ...look, ink: undefined };
    else if (code === 49) look = { ...look, ground: undefined };
    else if ((code === 38 || code === 48) && codes[0] === 5) look = { ...look, [code === 38 ? 'ink' : 'ground']: COLOURS[codes.splice(0, 2)[1]] };
    else if (code !== 59) throw new Error(`a look without a place in the picture: ${code}`);
  }
}

const raw = fs.readFileSync(0, 'utf8').split('\x1b[?1049h').at(-1).split('\x1b[?1049l')[0];
for (const [, words, end, letter] of raw.matchAll(/\x1b\[([?0-9;]*)([A-Za-z])|([^\x1b])/gu)) {
  if (end === 'H') [row, column] = words === '' ? [0, 0] : words.split(';').map((word) => Number(word) - 1);
  else if (end === 'J') cells.clear();
  else if (end === 'm') style(words);
  else if (letter !== undefined && letter >= ' ') {
    cells.set(`${row} ${column}`, { letter, ...look });
    column += 1;
  }
}

const escape = (text) => text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/ /g, '\u00a0');
const rows = Math.max(...[...cells.keys()].map((key) => Number(key.split(' ')[0]))) + 1;
const width = Math.ceil(columns * COLUMN + 2 * MARGIN);
const height = BAR + MARGIN / 2 + rows * ROW + MARGIN / 2;

function draw(at) {
  const runs = [];
  for (let place = 0; place < columns; place += 1) {
    const { letter = ' ', ...looks } = cells.get(`${at} ${place}`) ?? {};
    const last = runs.at(-1);
    if (last && JSON.stringify(last.looks) === JSON.stringify(looks)) last.text += letter;
    else runs.push({ text: letter, looks, place });
  }
  const top = BAR + MARGIN / 2 + at * ROW;
  return runs.flatMap(({ text, looks: { bold, ink = INK, ground = GROUND, turned }, place }) => {
    const [front, back] = turned ? [ground, ink] : [ink, ground];
    const x = (MARGIN + place * COLUMN).toFixed(1);
    const long = (text.length * COLUMN).toFixed(1);
    const drawn = [];
    if (back !== GROUND) drawn.push(`<rect x="${x}" y="${top}" width="${long}" height="${ROW}" fill="${back}"/>`);
    if (text.trim() !== '') drawn.push(`<text x="${x}" y="${top + 14}" textLength="${long}" fill="${front}"${bold ? ' font-weight="700"' : ''}>${escape(text)}</text>`);
    return drawn;
  }).join('');
}

const dots = ['#ff5f57', '#febc2e', '#28c840'].map((colour, at) => `<circle cx="${24 + at * 20}" cy="20" r="6" fill="${colour}"/>`);
process.stdout.write([
  `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">`,
  `<title>${escape(command)}</title>`,
  `<rect width="${width}" height="${height}" rx="10" fill="${GROUND}"/>`,
  ...dots,
  `<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="14">`,
  ...Array.from({ length: rows }, (_, at) => draw(at)),
  '</g>',
  '</svg>',
  '',
].join('\n'));
