// The status page: asks /status.json for what it has not seen yet, and draws it. No other file, no library.
'use strict';
(() => {
  const el = (name, attributes = {}, ...children) => {
    const svg = /^(svg|path|line)$/.test(name);
    const made = svg ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const by = (id) => document.getElementById(id);
  const put = (node, text) => node.textContent !== text && (node.textContent = text);

  // Figures for people: three digits are enough.
  const scaled = (value, base, units) => {
    let index = 0;
    while (Math.abs(value) >= base && index < units.length - 1) {
      value /= base;
      index++;
    }
    const digits = Math.abs(value) >= 100 || (index === 0 && Number.isInteger(value)) ? 0 : Math.abs(value) >= 10 ? 1 : 2;
    return `${value.toFixed(digits)}${units[index]}`;
  };
  const count = (value) => (value < 10000 && Number.isInteger(value) ? value.toLocaleString('en') : scaled(value, 1000, ['', 'k', 'M', 'G', 'T']));
  const bytes = (value) => scaled(value, 1024, [' B', ' KiB', ' MiB', ' GiB', ' TiB']);
  const time = (value) => (value === 0 ? '0 s' : value < 0.001 ? `${(value * 1e6).toFixed(0)} µs` : value < 1 ? `${(value * 1000).toFixed(value < 0.01 ? 1 : 0)} ms` : span(value));
  const span = (value) => {
    if (value < 60) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
    const parts = [[86400, 'd'], [3600, 'h'], [60, 'min']];
    const at = Math.max(parts.findIndex(([size]) => value >= size), 0);
    const [size, unit] = parts[at];
    const [small, smaller] = parts[at + 1] ?? [1, 's'];
    return `${Math.floor(value / size)} ${unit} ${Math.floor((value % size) / small)} ${smaller}`;
  };

  // What is drawn: each line takes a field of the samples, or with `rate` its growth a second.
  const PLOTS = [
    { title: 'Connections', show: count, lines: [['open', 'connections.open'], ['handshaking', 'connections.handshaking']] },
    { title: 'Messages a second', show: count, rate: true, lines: [['in', 'messages.in'], ['out', 'messages.out']] },
    { title: 'Bytes a second', show: bytes, rate: true, lines: [['in', 'bytes.in'], ['out', 'bytes.out']] },
    { title: 'PHP behind', show: time, lines: [['lag', 'watchdog.lag']], least: 0.001 },
    { title: 'Round trips', show: time, lines: [['median', 'rtt.median'], ['95th of 100', 'rtt.high']], least: 0.0001 },
    {
      title: 'Memory of messages', show: bytes, stacked: true, least: 1024,
      lines: [['connections', 'memory.connections'], ['sending', 'memory.sending'], ['shared', 'memory.shared'], ['waiting', 'memory.inbound'], ['sessions', 'memory.sessions'], ['other', 'memory.other']],
    },
    { title: 'Sessions and channels', show: count, lines: [['sessions', 'sessions.count'], ['channels', 'channels'], ['users', 'users']] },
    { title: 'Lost and cut, a second', show: count, rate: true, lines: [['gaps', 'sessions.gaps'], ['dropped', 'messages.dropped'], ['dead links', 'connections.dead']] },
  ];
  const NUMBERS = [
    ['connections', (s) => count(s.connections.open)],
    ['sessions', (s) => count(s.sessions.count)],
    ['channels', (s) => count(s.channels)],
    ['users', (s) => count(s.users)],
    ['PHP behind', (s) => time(s.watchdog.lag)],
    ['events waiting', (s) => count(s.watchdog.eventsWaiting)],
    ['round trip, median', (s) => (s.rtt.measured ? time(s.rtt.median) : '–')],
    ['memory of messages', (s) => bytes(s.memory.used)],
  ];
  const WIDTH = 300;
  const HEIGHT = 100;

  const letters = 'abcdef';
  const numbers = NUMBERS.map(([name]) => {
    const value = el('dd', {}, '–');
    by('numbers').append(el('div', {}, el('dt', {}, name), value));
    return value;
  });
  const plots = PLOTS.map((plot, index) => {
    const kind = plot.stacked ? 'area' : 'line';
    const paths = plot.lines.map((_, at) => el('path', { class: `${kind} ${letters[at]}` }));
    const svg = el('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-labelledby': `plot-${index}` });
    for (const y of [0, HEIGHT / 2, HEIGHT]) svg.append(el('line', { class: 'grid', x1: 0, x2: WIDTH, y1: y, y2: y }));
    svg.append(...paths);
    const axis = ['top', 'mid', 'low'].map((name) => el('span', { class: name, 'aria-hidden': 'true' }, ''));
    const values = plot.lines.map(() => el('b', {}, '–'));
    const keys = plot.lines.map(([name], at) => {
      const mark = plot.stacked ? el('path', { class: `area ${letters[at]}`, d: 'M0 0H20V12H0Z' }) : el('path', { class: `line ${letters[at]}`, d: 'M0 6H20' });
      return el('li', {}, el('svg', { viewBox: '0 0 20 12', 'aria-hidden': 'true' }, mark), name, values[at]);
    });
    const began = el('span', {}, '');
    by('plots').append(
      el('figure', { class: 'card' }, el('div', { class: 'title' }, el('h2', { id: `plot-${index}` }, plot.title)), el('div', { class: 'plot' }, svg, ...axis), el('p', { class: 'time', 'aria-hidden': 'true' }, began, el('span', {}, 'now')), el('ul', { class: 'keys' }, ...keys)),
    );
    return { ...plot, paths, axis, values, began };
  });

  // Whole at once: nothing moves when it is there.
  by('main').hidden = false;

  let fields = [];
  let samples = [];
  let every = 2;
  let kept = 300;

  /** The values of a line, one a sample; a rate has none for the first. */
  const series = (name, rate) => {
    const at = fields.indexOf(name);
    return samples.map((sample, index) => {
      if (!rate) return sample[at];
      const last = samples[index - 1];
      return last ? Math.max(0, sample[at] - last[at]) / Math.max(sample[0] - last[0], 0.001) : null;
    });
  };
  /** The end of the axis: 1, 2 or 5 of a power. */
  const ceiling = (value, base) => {
    const unit = base === 1024 ? 1024 ** Math.floor(Math.log(value) / Math.log(1024)) : 1;
    const ten = 10 ** Math.floor(Math.log10(value / unit));
    return unit * ten * [1, 2, 5, 10].find((step) => step * ten * unit >= value * 0.9999);
  };
  const draw = (plot) => {
    const lines = plot.lines.map(([, name]) => series(name, plot.rate));
    // Each layer stands on those before it.
    const tops = plot.stacked ? lines.map((_, at) => samples.map((_, index) => lines.slice(0, at + 1).reduce((sum, line) => sum + line[index], 0))) : lines;
    const most = tops.flat().reduce((most, value) => Math.max(most, value ?? 0), 0);
    const top = ceiling(Math.max(most, plot.least ?? 1), plot.show === bytes ? 1024 : 10);
    const end = samples.at(-1)?.[0] ?? 0;
    // The axis grows with what there is to show.
    const seconds = [60, 120, 300].find((span) => span >= end - (samples[0]?.[0] ?? 0)) ?? every * kept;
    const x = (index) => WIDTH - ((end - samples[index][0]) / seconds) * WIDTH;
    const y = (value) => HEIGHT - (value / top) * HEIGHT;
    const trace = (line) => line.map((value, index) => (value === null ? '' : `${x(index).toFixed(1)} ${y(value).toFixed(1)}`)).filter(Boolean);
    lines.forEach((line, at) => {
      const upper = trace(tops[at]);
      const lower = plot.stacked ? (at ? trace(tops[at - 1]).reverse() : [`${WIDTH} ${HEIGHT}`, `${x(0).toFixed(1)} ${HEIGHT}`]) : [];
      plot.paths[at].setAttribute('d', upper.length ? `M${[...upper, ...lower].join('L')}${plot.stacked ? 'Z' : ''}` : '');
      put(plot.values[at], line.at(-1) == null ? '–' : plot.show(Math.round(line.at(-1) * 1e6) / 1e6));
    });
    [top, top / 2, 0].forEach((value, at) => put(plot.axis[at], plot.show(value)));
    put(plot.began, `${Math.round(seconds / 60)} min ago`);
  };

  const figures = (tree, heading, into) => {
    const section = el('section', {}, el('h3', {}, heading));
    into.append(section);
    for (const [key, value] of Object.entries(tree)) {
      if (value !== null && typeof value === 'object') figures(value, key, into);
      else section.append(el('p', {}, key, el('b', {}, value === null ? '–' : typeof value === 'number' && !Number.isInteger(value) ? value.toFixed(4) : String(value))));
    }
  };

  const plural = (number, word, end = 's') => `${count(number)} ${word}${number === 1 ? '' : end}`;
  /** Only where callbacks run in processes of their own. */
  const staff = (told) => {
    by('workers').hidden = !told;
    if (!told) return;
    const names = ['worker', 'state', 'process', 'connections', 'messages', 'behind', 'memory', 'age'];
    // The one that leaves before the one that follows it.
    const list = [...told.list].sort((a, b) => a.number - b.number || b.uptime - a.uptime);
    const rows = list.map((one) => {
      const cells = [one.number, one.state, one.pid, count(one.connections), count(one.messages), time(one.lag), bytes(one.memory), span(one.uptime)];
      return el('tr', { 'data-state': one.state }, ...cells.map((text, at) => el('td', { 'data-name': names[at] }, String(text))));
    });
    by('workers-list').replaceChildren(...rows);
    const serving = told.list.filter((one) => one.state === 'serving').length;
    put(by('workers-said'), `${serving} of ${told.count} serve · generation ${told.generation} · ${plural(told.reloads, 'reload')} · ${plural(told.crashes, 'crash', 'es')} · ${count(told.recycled)} recycled · ${count(told.lost)} lost`);
    by('workers-error').hidden = told.lastError === null;
    put(by('workers-error'), told.lastError === null ? '' : `Last error: ${told.lastError}`);
  };

  const say = (state, word) => {
    by('state').dataset.state = state;
    put(by('word'), word);
    document.title = `lifeline: ${word.toLowerCase()}`;
  };
  const get = async (path) => {
    const answer = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
    return answer.json();
  };

  let process;
  const look = async () => {
    try {
      const told = await get(`status.json?since=${samples.at(-1)?.[0] ?? 0}`);
      if (process !== `${told.pid} ${told.started}`) {
        // Another process: what was drawn is not its own. Ask again for all of it.
        const first = process === undefined;
        process = `${told.pid} ${told.started}`;
        if (!first) {
          samples = [];
          return look();
        }
      }
      ({ fields, every, kept } = told.history);
      samples = [...samples, ...told.history.samples].slice(-kept);
      NUMBERS.forEach(([, of], at) => put(numbers[at], of(told.stats)));
      plots.forEach(draw);
      staff(told.stats.workers);
      put(by('about'), `up ${span(told.stats.uptime)} · ${told.addresses.join(', ')} · process ${told.pid} · ${told.version}`);
      by('about').title = by('about').textContent;
      say(told.ready ? 'up' : 'down', told.ready ? 'Ready' : told.stopping ? 'Stopping' : 'Not ready');
      if (by('figures').closest('details').open) {
        by('figures').replaceChildren();
        figures(told.stats, '', by('figures'));
      }
    } catch {
      say('down', 'Not reached');
    }
    return undefined;
  };

  let next = 0;
  let from = 0;
  const list = async () => {
    try {
      const told = await get(`connections.json?limit=50&after=${from}`);
      const rows = told.connections.map((c) => {
        const cells = [c.id, c.remote, c.path, c.user ?? '–', span(c.age), c.rtt === null ? '–' : time(c.rtt), bytes(c.bytesIn), bytes(c.bytesOut), bytes(c.buffered)];
        const names = ['id', 'from', 'path', 'user', 'age', 'round trip', 'in', 'out', 'waiting'];
        return el('tr', {}, ...cells.map((text, at) => el('td', { 'data-name': names[at] }, String(text))));
      });
      by('list').replaceChildren(...rows);
      put(by('listed'), rows.length ? `${count(rows.length)} of ${count(told.total)}, ids from ${told.connections[0].id}` : `${count(told.total)} in all`);
      next = told.next;
      by('next').disabled = next === null;
    } catch {
      put(by('listed'), 'not reached');
    }
  };
  by('first').addEventListener('click', () => ((from = 0), list()));
  by('next').addEventListener('click', () => next !== null && ((from = next), list()));

  const forever = async (what, ms) => {
    for (;;) {
      if (!document.hidden) await what();
      await new Promise((resolve) => setTimeout(resolve, ms));
    }
  };
  document.addEventListener('visibilitychange', () => document.hidden || look());
  forever(look, 2000);
  forever(list, 5000);
})();
