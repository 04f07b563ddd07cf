const rows = () => [...document.querySelectorAll('#board tbody tr')];
const control = name => document.getElementById(name);
function filter() {
  const data = control('dataset').value, metric = control('metric').value, text = control('text').value.toLowerCase();
  for (const row of rows()) row.hidden = Boolean(data && row.dataset.set !== data) ||
    !row.cells[0].textContent.toLowerCase().includes(text);
  for (const part of document.querySelectorAll('section[data-set]')) part.hidden = data && part.dataset.set !== data;
  for (const cell of document.querySelectorAll('#board [data-metric]'))
    cell.hidden = metric && cell.dataset.metric !== metric;
  control('count').textContent = `${rows().filter(row => !row.hidden).length} of ${rows().length} rows`;
}
function sort(index, header) {
  const down = header.getAttribute('aria-sort') !== 'descending';
  for (const other of document.querySelectorAll('#board th')) other.removeAttribute('aria-sort');
  header.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const value = row => { const cell = row.cells[index], n = parseFloat(cell.dataset.value ?? cell.textContent);
    return isNaN(n) ? cell.textContent : n; };
  const sorted = rows().sort((a, b) => { const x = value(a), y = value(b);
    if ((x === '') !== (y === '')) return x === '' ? 1 : -1;
    const order = typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y));
    return down ? -order : order; });
  const body = document.querySelector('#board tbody');
  for (const row of sorted) body.append(row);
}
document.querySelectorAll('#board th').forEach((header, index) =>
  header.querySelector('button').addEventListener('click', () => sort(index, header)));
for (const name of ['dataset', 'metric', 'text']) control(name).addEventListener('input', filter);
filter();
