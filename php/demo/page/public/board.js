// The board: a document, each card a key of it. Edits are seen at once here, and hold if nobody was faster.
import { $, put } from './tools.js';

const LISTS = ['To do', 'Doing', 'Done'];

const button = (text, label, press) => {
  const element = document.createElement('button');
  element.type = 'button';
  element.textContent = text;
  element.setAttribute('aria-label', label);
  element.addEventListener('click', press);
  return element;
};
/** Only what this page could have set. */
const valid = (value) => value && typeof value.text === 'string' && value.text && LISTS[value.list] !== undefined;

/** Returns what draws it anew. */
export function startBoard(client, happened) {
  const board = client.document('board');
  /** By key: the version that was edited here, until the server has the edit. */
  const edited = new Map();
  /** By key: what this tab wanted, where somebody was faster. */
  const beaten = new Map();
  const cards = new Map();

  function edit(key, value) {
    edited.set(key, board.version(key));
    beaten.delete(key);
    try {
      if (value) board.set(key, value);
      else board.delete(key);
    } catch (error) {
      happened(`The board: ${error.message}`, 'bad');
    }
    drawBoard();
  }
  function move(key, by) {
    const value = board.get(key);
    const list = value.list + by;
    edit(key, { ...value, list });
    put('board-says', `“${value.text}” is in ${LISTS[list]} now`);
    // The card went away under the keyboard.
    const card = cards.get(key);
    (card?.querySelector(`[data-by="${by}"]:enabled`) ?? card?.querySelector('textarea'))?.focus();
  }

  function makeCard(key) {
    const line = document.createElement('li');
    const text = document.createElement('textarea');
    text.rows = 1;
    text.maxLength = 120;
    text.addEventListener('change', () => {
      const value = board.get(key);
      const given = text.value.trim();
      if (!value || given === value.text) return;
      if (given) edit(key, { ...value, text: given });
      else edit(key);
    });
    text.addEventListener('keydown', (event) => {
      if (event.key === 'Enter') {
        event.preventDefault();
        text.blur();
      }
    });
    const back = button('←', '', () => move(key, -1));
    const on = button('→', '', () => move(key, 1));
    back.dataset.by = -1;
    on.dataset.by = 1;
    const note = document.createElement('p');
    line.append(text, back, on, button('×', '', () => edit(key)), note);
    return line;
  }

  function drawBoard() {
    const shown = board.keys().filter((key) => valid(board.get(key))).sort();
    for (const [key, line] of cards) if (!shown.includes(key)) cards.delete(key), line.remove();
    const lists = [...document.querySelectorAll('.lists ul')];
    const filled = [0, 0, 0];
    for (const key of shown) {
      const value = board.get(key);
      if (!cards.has(key)) cards.set(key, makeCard(key));
      const line = cards.get(key);
      const [text, back, on, remove, note] = line.children;
      const focused = document.activeElement === text;
      if (!focused && text.value !== value.text) text.value = value.text;
      text.setAttribute('aria-label', `Card ${value.text}`);
      back.disabled = value.list === 0;
      on.disabled = value.list === 2;
      back.setAttribute('aria-label', `Move “${value.text}” to ${LISTS[value.list - 1] ?? 'the left'}`);
      on.setAttribute('aria-label', `Move “${value.text}” to ${LISTS[value.list + 1] ?? 'the right'}`);
      remove.setAttribute('aria-label', `Remove “${value.text}”`);
      if (board.pending === 0 || edited.get(key) !== board.version(key)) edited.delete(key);
      line.classList.toggle('waiting', edited.has(key));
      const wanted = beaten.get(key);
      note.hidden = !wanted;
      if (wanted && !note.childElementCount) {
        const mine = wanted.text === value.text ? LISTS[wanted.list] : `“${wanted.text}”`;
        note.append(`Somebody was faster. You wanted: ${mine}. `, button('Do it anyway', `Make it ${mine} anyway`, () => edit(key, wanted)));
      } else if (!wanted) note.replaceChildren();
      const [list, place] = [lists[value.list], filled[value.list]++];
      // Moving it would take the keyboard away.
      if (list.children[place] !== line && !(focused && line.parentElement === list)) list.insertBefore(line, list.children[place] ?? null);
    }
    put('board-state', board.pending ? `${board.pending} ${board.pending === 1 ? 'edit waits' : 'edits wait'}` : 'one document, everybody edits it');
  }

  board.on('change', drawBoard);
  board.on('synced', drawBoard);
  board.on('settled', drawBoard);
  board.on('conflict', ({ key, mine, theirs }) => {
    const name = mine?.text ?? theirs?.text ?? key;
    happened(`Conflict on “${name}”: the server's value holds`, 'bad');
    put('board-says', `Somebody was faster with “${name}”`);
    if (valid(mine) && theirs) beaten.set(key, mine);
    drawBoard();
  });
  board.on('refused', ({ reason }) => {
    happened(`The board did not take an edit: ${reason}`, 'bad');
    drawBoard();
  });
  $('pin').addEventListener('submit', (event) => {
    event.preventDefault();
    const text = $('card').value.trim();
    if (!text) return;
    edit(`${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 10)}`, { text, list: 0 });
    $('card').value = '';
  });

  return drawBoard;
}
