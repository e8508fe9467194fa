// The start page: recent studies by QIDO-RS, recent runs by the API, links into the viewer.
'use strict';

const ACTIVE = ['requested', 'submitted', 'running'];
const RESULTS = ['SEG', 'SR', 'DOC'];
const element = id => document.getElementById(id);
const opened = new Set(); // runs whose measurements are shown: the list is not redrawn under a reader's eyes
let timer = null;

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function ask(path, accept = 'application/json', options = {}) {
  const response = await fetch(path, { headers: { Accept: accept }, ...options });
  if (response.status === 401) {
    window.location.assign('/login?next=' + encodeURIComponent(window.location.pathname));
    return new Promise(() => {});
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail || `The platform answered ${response.status}.`);
  }
  return response.status === 204 ? null : response.json();
}

// The first value of a DICOM JSON attribute as text.
function value(study, tag) {
  const found = ((study[tag] || {}).Value || [])[0];
  return found && typeof found === 'object' ? found.Alphabetic || '' : found === undefined ? '' : String(found);
}

const person = name => name.split('^').filter(Boolean).join(', ');
const day = text => (/^\d{8}$/.test(text) ? `${text.slice(0, 4)}-${text.slice(4, 6)}-${text.slice(6)}` : text);

function viewerLink(study, series) {
  const query = new URLSearchParams({ StudyInstanceUIDs: study });
  if (series) query.set('initialSeriesInstanceUID', series);
  return `/viewer/viewer?${query}`;
}

function studyItem(study) {
  const uid = value(study, '0020000D');
  const link = make('a', 'study');
  link.href = viewerLink(uid);
  const picture = make('span', 'picture');
  const image = make('img');
  image.loading = 'lazy';
  image.alt = '';
  image.addEventListener('error', () => image.remove());
  image.src = `/dicom-web/studies/${encodeURIComponent(uid)}/thumbnail`;
  picture.append(image);
  const text = make('span', 'text');
  text.append(
    make('strong', '', person(value(study, '00100010')) || value(study, '00100020') || 'No name'),
    make('span', 'line', value(study, '00081030') || 'No description'),
    make('span', 'line quiet', [value(study, '00100020'), day(value(study, '00080020'))].filter(Boolean).join(' · '))
  );
  const tags = make('span', 'tags');
  for (const modality of (study['00080061'] || {}).Value || []) {
    tags.append(make('span', RESULTS.includes(modality) ? 'tag result' : 'tag', modality));
  }
  const series = value(study, '00201206');
  if (series) tags.append(make('span', 'tag', `${series} series`));
  text.append(tags);
  link.append(picture, text);
  const item = make('li');
  item.append(link);
  return item;
}

function runRow(run) {
  const row = make('tr');
  const state = make('td');
  state.append(make('span', `state ${run.state}`, run.state));
  if (run.reason) state.append(make('div', 'reason', run.reason));
  if (run.waiting) state.append(make('div', 'quiet', run.waiting.sentence));
  const seconds = run.finished_at ? (Date.parse(run.finished_at) - Date.parse(run.requested_at)) / 1000 : null;
  const link = make('td');
  if (run.state === 'succeeded') {
    const button = make('button', '', 'Show result');
    button.type = 'button';
    button.addEventListener('click', () => showResult(run.execution).catch(report));
    const measured = make('button', 'plain', 'Measurements');
    measured.type = 'button';
    measured.setAttribute('aria-expanded', 'false');
    measured.addEventListener('click', () => toggleMeasurements(run.execution, row, measured).catch(report));
    link.append(button, measured);
  }
  row.append(
    state,
    make('td', '', `${run.algorithm} ${run.version}`),
    make('td', '', run.project),
    make('td', 'number', new Date(run.requested_at).toLocaleString()),
    make('td', 'number', seconds === null ? '' : seconds.toFixed(1)),
    make('td', '', run.rule ? `rule ${run.rule}` : run.requested_by),
    link
  );
  return row;
}

// Opens the study with the run's segmentation shown.
async function showResult(execution) {
  const { results } = await ask(`/api/v1/runs/${encodeURIComponent(execution)}`);
  const shown = results.find(result => result.kind === 'SEG') || results[0];
  if (!shown || !shown.study_instance_uid) throw new Error('This run has no result that can be shown.');
  window.location.assign(viewerLink(shown.study_instance_uid, shown.series_instance_uid));
}

// Shows or hides what a run measured, in a row below it.
async function toggleMeasurements(execution, row, button) {
  const open = button.getAttribute('aria-expanded') === 'true';
  if (open) {
    row.nextElementSibling.remove();
    opened.delete(execution);
  } else {
    const { results } = await ask(`/api/v1/runs/${encodeURIComponent(execution)}`);
    const segments = ((results[0] || {}).summary || {}).segments || [];
    const below = make('tr');
    const cell = make('td');
    cell.colSpan = row.cells.length;
    cell.append(segments.length ? measurementTable(segments) : make('span', 'quiet', 'Nothing was measured.'));
    below.append(cell);
    row.after(below);
    opened.add(execution);
  }
  button.setAttribute('aria-expanded', String(!open));
}

function measurementTable(segments) {
  const names = [...new Set(segments.flatMap(segment => (segment.measurements || []).map(item => item.name)))];
  const table = make('table', 'inner');
  const head = make('tr');
  for (const name of ['Segment', ...names]) {
    const cell = make('th', '', name);
    cell.scope = 'col';
    head.append(cell);
  }
  table.append(head);
  for (const segment of segments) {
    const line = make('tr');
    line.append(make('td', '', segment.name || String(segment.label)));
    for (const name of names) {
      const found = (segment.measurements || []).find(item => item.name === name);
      const unit = found ? { '[hnsf\'U]': 'HU', 1: '' }[found.unit] ?? found.unit ?? '' : '';
      line.append(make('td', 'number', found ? `${found.value.toFixed(1)} ${unit}`.trim() : ''));
    }
    table.append(line);
  }
  return table;
}

function report(error) {
  element('problem').textContent = error.message;
  element('problem').hidden = false;
}

async function loadStudies() {
  const query = 'limit=24&includefield=00081030&includefield=00080061&includefield=00201206';
  const studies = (await ask(`/dicom-web/studies?${query}`, 'application/dicom+json')) || [];
  element('studies').replaceChildren(...studies.map(studyItem));
  element('no-studies').hidden = studies.length > 0;
}

async function loadRuns() {
  const { runs } = await ask('/api/v1/runs?limit=20');
  if (opened.size === 0) document.querySelector('#runs tbody').replaceChildren(...runs.map(runRow));
  element('runs').hidden = runs.length === 0;
  element('no-runs').hidden = runs.length > 0;
  return runs.some(run => ACTIVE.includes(run.state));
}

async function load() {
  clearTimeout(timer);
  element('problem').hidden = true;
  const outcomes = await Promise.allSettled([loadStudies(), loadRuns()]);
  for (const outcome of outcomes) if (outcome.status === 'rejected') report(outcome.reason);
  // Only while something is going on, and only while somebody looks.
  if (outcomes[1].value && !document.hidden) timer = setTimeout(load, 2000);
}

element('refresh').addEventListener('click', () => {
  opened.clear();
  load();
});
element('logout').addEventListener('click', async () => {
  await ask('/api/v1/session', 'application/json', { method: 'DELETE' }).catch(() => {});
  window.location.assign('/login');
});
document.addEventListener('visibilitychange', () => document.hidden || load());
ask('/api/v1/session').then(me => (element('who').textContent = me.name)).catch(report);
load();
