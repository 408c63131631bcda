// What a terminal shows, as an SVG: COMMAND as argument, its output with colours on stdin, the picture on stdout.
// A line of text in the picture is one <text> element, so that a test can read the output back from it.
'use strict';
const fs = require('fs');

const COLUMN = 8.4;
const ROW = 20;
const MARGIN = 24;
const BAR = 40;
const INK = '#d7dde5';
const COLOURS = { 91: '#ff7b72', 93: '#e3b341', 94: '#79c0ff', 96: '#56d4dd', 92: '#7ee787' };

const escape = (text) => text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
/** Spaces that no viewer folds. */
const keep = (text) => text.replace(/ /g, '\u00a0');

/** The runs of one line, each with its look; `look` goes on from line to line. */
function runs(line, look) {
  const found = [];
  let rest = line;
  for (let match; (match = rest.match(/\x1b\[([0-9;]*)m/)); rest = rest.slice(match.index + match[0].length)) {
    if (match.index > 0) found.push({ text: rest.slice(0, match.index), ...look });
    for (const code of match[1].split(';').map(Number)) {
      if (code === 0) Object.assign(look, { bold: false, colour: INK });
      else if (code === 1) look.bold = true;
      else if (COLOURS[code]) look.colour = COLOURS[code];
      else throw new Error(`a colour without a place in the picture: ${code}`);
    }
  }
  if (rest) found.push({ text: rest, ...look });
  return found;
}

function drawLine(parts, row) {
  const spans = parts.map(({ text, bold, colour }) =>
    `<tspan fill="${colour}"${bold ? ' font-weight="700"' : ''}>${escape(keep(text))}</tspan>`);
  return `<text x="${MARGIN}" y="${BAR + MARGIN + row * ROW}">${spans.join('')}</text>`;
}

const output = fs.readFileSync(0, 'utf8').replace(/\r/g, '').replace(/\n+$/, '');
const look = { bold: false, colour: INK };
const prompt = [{ text: '$ ', bold: true, colour: '#7ee787' }, { text: process.argv[2], bold: true, colour: '#ffffff' }];
const lines = [prompt, ...output.split('\n').map((line) => runs(line, look))];
const columns = Math.max(...lines.map((parts) => parts.reduce((sum, { text }) => sum + [...text].length, 0)));
const width = Math.ceil(columns * COLUMN + 2 * MARGIN);
const height = BAR + MARGIN + lines.length * ROW;
const dots = ['#ff5f57', '#febc2e', '#28c840'].map((colour, at) => `<circle cx="${24 + at * 20}" cy="20" r="6" fill="${colour}"/>`);

process.stdout.write([
  `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">`,
  `<title>${escape(process.argv[2])}</title>`,
  `<rect width="${width}" height="${height}" rx="10" fill="#12171d"/>`,
  ...dots,
  `<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="14">`,
  ...lines.map(drawLine),
  '</g>',
  '</svg>',
  '',
].join('\n'));
