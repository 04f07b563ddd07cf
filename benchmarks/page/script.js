const rows = () => [...document.querySelectorAll('#board tbody.methods tr')];
const control = name => document.getElementById(name);
const state = new Map();  // what the address keeps behind '#?'

function remember() {
  const kept = [...state].filter(([, value]) => value !== '');
  const text = kept.map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join('&');
  history.replaceState(null, '', text ? `#?${text}` : location.pathname + location.search);
}

function filter() {
  const data = control('dataset').value, metric = control('metric').value, text = control('text').value.toLowerCase();
  for (const row of rows()) row.hidden = Boolean(data && row.dataset.set !== data) ||
    !row.cells[0].textContent.toLowerCase().includes(text);
  for (const part of document.querySelectorAll('section[data-set]')) part.hidden = data && part.dataset.set !== data;
  for (const row of document.querySelectorAll('[data-of]')) row.hidden = data && row.dataset.of !== data;
  for (const cell of document.querySelectorAll('#board [data-metric]'))
    cell.hidden = metric && cell.dataset.metric !== metric;
  control('count').textContent = `${rows().filter(row => !row.hidden).length} of ${rows().length} rows`;
}

function sort(index, down) {
  const headers = [...document.querySelectorAll('#board th')], header = headers[index];
  if (!header) return;
  for (const other of headers) other.removeAttribute('aria-sort');
  header.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const value = row => { const cell = row.cells[index]; if (!cell || cell.colSpan > 1) return '';
    const n = parseFloat(cell.dataset.value ?? cell.textContent); return isNaN(n) ? cell.textContent : n; };
  const sorted = rows().sort((a, b) => { const x = value(a), y = value(b);
    if ((x === '') !== (y === '')) return x === '' ? 1 : -1;
    const order = typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y));
    return down ? -order : order; });
  const body = document.querySelector('#board tbody.methods');
  for (const row of sorted) body.append(row);
  state.set('sort', `${index}${down ? '-' : '+'}`);
}

document.querySelectorAll('#board th').forEach((header, index) =>
  header.querySelector('button').addEventListener('click', () => {
    sort(index, header.getAttribute('aria-sort') !== 'descending'); remember(); }));
for (const name of ['dataset', 'metric', 'text']) control(name).addEventListener('input', () => {
  state.set(name, control(name).value); filter(); remember(); });

// ---- tables as text ----

function cellsOf(table) {
  return [...table.rows].filter(row => !row.hidden).map(row =>
    [...row.cells].filter(cell => !cell.hidden).map(cell => cell.innerText.replace(/\s+/g, ' ').replace(/ [▲▼]$/, '').trim()));
}

function asText(table, form) {
  const lines = cellsOf(table);
  if (form === 'CSV') return lines.map(line => line.map(cell =>
    /[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell).join(',')).join('\n');
  if (form === 'Markdown') return lines.map((line, n) => `| ${line.map(cell => cell.replaceAll('|', '\\|')).join(' | ')} |` +
    (n ? '' : '\n|' + '---|'.repeat(line.length))).join('\n');
  const plain = cell => cell.replace(/[\\{}]/g, '').replace(/([%&#_$])/g, '\\$1').replaceAll('±', '$\\pm$').replaceAll('†', '$^\\dagger$')
    .replaceAll('‡', '$^\\ddagger$').replaceAll('≈', '$\\approx$').replaceAll('≤', '$\\leq$').replaceAll('<', '$<$').replaceAll('|', '$|$').replaceAll('–', '--');
  const body = lines.map(line => line.map(plain).join(' & ') + ' \\\\');
  return `\\begin{tabular}{${'l'.repeat(lines[0].length)}}\n\\toprule\n${body[0]}\n\\midrule\n${body.slice(1).join('\n')}\n\\bottomrule\n\\end{tabular}`;
}

async function copy(text) {
  try { await navigator.clipboard.writeText(text); } catch {
    const area = document.createElement('textarea');
    area.value = text; document.body.append(area); area.select(); document.execCommand('copy'); area.remove();
  }
}

for (const table of document.querySelectorAll('main table')) {
  const bar = document.createElement('p');
  bar.className = 'copy';
  bar.append('copy as');
  for (const form of ['CSV', 'Markdown', 'LaTeX']) {
    const button = document.createElement('button');
    button.type = 'button'; button.textContent = form;
    button.setAttribute('aria-label', `copy ${table.caption ? table.caption.textContent : 'table'} as ${form}`);
    button.addEventListener('click', async () => { await copy(asText(table, form)); button.textContent = `${form} ✓`;
      setTimeout(() => { button.textContent = form; }, 1200); });
    bar.append(button);
  }
  table.closest('.scroll').after(bar);
}

// ---- viewer ----

const viewer = control('viewer'), cases = [...document.querySelectorAll('.case')];
let place = 0, method = '', slide = -1;  // the slide of a case with several images; -1: the one in the list

const parsed = new Map();

function slidesOf(part) {
  const kept = part.querySelector('script');
  if (!parsed.has(part)) parsed.set(part, kept ? JSON.parse(kept.textContent) : [null]);
  return parsed.get(part);
}

function show() {
  const part = cases[place], maps = [...part.querySelectorAll('button[data-method]')];
  const chosen = maps.find(button => button.dataset.method === method) ?? maps[0];
  const slides = slidesOf(part), own = parseInt(part.dataset.shown);
  const number = slide < 0 || slide >= slides.length ? own : slide, other = slides[number];
  const input = part.querySelector('.input img');
  const caption = chosen.dataset.method ? chosen.closest('figure').querySelector('figcaption').textContent : 'input';
  const which = slides.length > 1 ? ` · ${other ? other.name : part.dataset.image} (${number + 1} of ${slides.length})` : '';
  control('viewer-title').textContent = `${part.dataset.name}${which} · ${caption}`;
  control('viewer-input').src = other ? other.image : input.src; control('viewer-input').alt = input.alt;
  const map = control('viewer-map'), url = other ? other.maps[chosen.dataset.method] : chosen.querySelector('img').src;
  map.hidden = !chosen.dataset.method || !url;
  if (!map.hidden) { map.src = url; map.alt = chosen.querySelector('img').alt; }
  map.style.opacity = control('opacity').value / 100;
  control('viewer-scale').hidden = !part.dataset.common || !chosen.dataset.method;
  const outline = control('viewer-outline');
  const size = other ? other.size : [part.dataset.width, part.dataset.height];
  outline.setAttribute('viewBox', `0 0 ${size[0]} ${size[1]}`);
  outline.firstChild.setAttribute('d', other ? other.outline : part.dataset.outline);
  outline.style.display = control('outline').checked ? '' : 'none';
  const copied = other ? other.copy_of : part.dataset.copy;
  control('viewer-copy').textContent = copied ? `looks like training image ${copied}` : '';
  for (const name of ['previous-image', 'next-image']) control(name).hidden = slides.length < 2;
  state.set('case', place); state.set('map', method); state.set('image', slides.length > 1 ? number : '');
  remember();
}

function open(part, name, image = -1) {
  place = cases.indexOf(part); method = name; slide = image;
  show();
  if (!viewer.open) viewer.showModal();
}

function step(by) { place = (place + by + cases.length) % cases.length; slide = -1; show(); }

function leaf(by) {
  const part = cases[place], last = slidesOf(part).length - 1;
  slide = Math.min(Math.max((slide < 0 ? parseInt(part.dataset.shown) : slide) + by, 0), last);
  show();
}

function turn(by) {
  const names = [...cases[place].querySelectorAll('button[data-method]')].map(button => button.dataset.method);
  method = names[(Math.max(names.indexOf(method), 0) + by + names.length) % names.length];
  show();
}

for (const part of cases) for (const button of part.querySelectorAll('button'))
  button.addEventListener('click', () => open(part, button.dataset.method));
control('opacity').addEventListener('input', show);
control('outline').addEventListener('change', show);
for (const [name, act] of [['previous-case', () => step(-1)], ['next-case', () => step(1)],
  ['previous-image', () => leaf(-1)], ['next-image', () => leaf(1)],
  ['previous-method', () => turn(-1)], ['next-method', () => turn(1)]]) control(name).addEventListener('click', act);
viewer.addEventListener('keydown', event => {
  if (event.target.id === 'opacity' && event.key.startsWith('Arrow')) return;
  const act = { ArrowUp: () => step(-1), ArrowDown: () => step(1), ArrowLeft: () => turn(-1), ArrowRight: () => turn(1),
    PageUp: () => leaf(-1), PageDown: () => leaf(1) }[event.key];
  if (act) { event.preventDefault(); act(); }
});
viewer.addEventListener('close', () => { for (const key of ['case', 'map', 'image']) state.delete(key); remember(); });
addEventListener('beforeprint', () => document.querySelectorAll('details:not(.raw)').forEach(part => { part.open = true; }));

// ---- what the address says ----

if (location.hash.startsWith('#?')) for (const pair of location.hash.slice(2).split('&')) {
  const [key, value] = pair.split('=');
  state.set(key, decodeURIComponent(value ?? ''));
}
for (const name of ['dataset', 'metric', 'text']) if (state.get(name)) control(name).value = state.get(name);
filter();
if (/^\d+[+-]$/.test(state.get('sort') ?? '')) sort(parseInt(state.get('sort')), state.get('sort').endsWith('-'));
const wanted = cases[parseInt(state.get('case'))];
if (wanted) open(wanted, state.get('map') ?? '', parseInt(state.get('image') || '-1'));
