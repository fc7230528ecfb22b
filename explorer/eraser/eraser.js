// The eraser: a picture whose cells a reader rubs out or brings back, by mouse, finger or keyboard.
//
// Joined with the parts of the first player (explorer/player/parts.js). The host hears of a change
// when the reader stops (state "mask": bits in base64url, 1 is seen).

const PAUSE = 300;                // from the last change to the report, in milliseconds
const BRUSHES = [1, 3, 5];

export default function eraser({ parentElement, data, setStateValue }) {
  let e = parentElement.sedEraser;
  if (!e || e.id !== data.id || !e.root.isConnected) {
    const before = e;
    e?.destroy();
    e = parentElement.sedEraser = create(parentElement, data, before);
  }
  e.setState = setStateValue;
  take(e, data);
  return () => setTimeout(() => e.root.isConnected || e.destroy());
}

function create(parent, data, before) {
  const stop = new AbortController();
  const e = { id: data.id, side: data.side, width: data.side, height: data.side, levels: data.levels, colours: data.colours,
    table: rows(data.colours.table), seen: unpack(data.mask, data.side ** 2), given: data.mask, sent: [], past: [],
    brush: before?.brush ?? 3, back: before?.back ?? false, cursor: Math.floor((data.side ** 2 + data.side) / 2), pointer: null, signal: stop.signal };
  build(e);
  parent.append(e.root);
  const watch = new ResizeObserver(() => draw(e));
  watch.observe(e.root);
  e.destroy = () => { stop.abort(); clearTimeout(e.telling); watch.disconnect(); e.root.remove(); };
  return e;
}

// The host's mask counts where it is news: not its last one, and no late echo of what it was told.
function take(e, data) {
  const echo = e.sent.indexOf(data.mask), news = echo < 0 && data.mask !== e.given;
  e.sent = e.sent.slice(echo + 1);
  e.given = data.mask;
  if (news) {
    clearTimeout(e.telling);
    e.sent = [];
    e.past.push(e.seen);
    e.seen = unpack(data.mask, e.side ** 2);
  }
  e.disabled = data.disabled;
  render(e);
}

// -- changing ------------------------------------------------------------------------------------

const keepPast = (e) => { e.past.push(e.seen.slice()); if (e.past.length > 100) e.past.shift(); };

function rub(e, index) {
  const reach = (e.brush - 1) / 2, x = index % e.side, y = Math.floor(index / e.side);
  for (let row = Math.max(0, y - reach); row <= Math.min(e.side - 1, y + reach); row += 1) {
    for (let column = Math.max(0, x - reach); column <= Math.min(e.side - 1, x + reach); column += 1) {
      e.seen[row * e.side + column] = e.back ? 1 : 0;
    }
  }
}

// All cells on the straight way, so that a quick hand leaves no gaps.
function rubAlong(e, from, to) {
  const [x, y, a, b] = [from % e.side, Math.floor(from / e.side), to % e.side, Math.floor(to / e.side)];
  const length = Math.max(Math.abs(a - x), Math.abs(b - y), 1);
  for (let k = 0; k <= length; k += 1) {
    rub(e, Math.round(y + ((b - y) * k) / length) * e.side + Math.round(x + ((a - x) * k) / length));
  }
}

function changed(e) {
  render(e);
  clearTimeout(e.telling);
  e.telling = setTimeout(() => {
    const mask = pack(e.seen);
    say(e, e.count.textContent);
    if (mask === (e.sent.at(-1) ?? e.given)) return;
    e.sent.push(mask);
    e.setState?.("mask", mask);
  }, PAUSE);
}

function all(e, value) {
  keepPast(e);
  e.seen.fill(value);
  changed(e);
}

function undo(e) {
  if (!e.past.length) return;
  e.seen = e.past.pop();
  changed(e);
}

// -- hands ---------------------------------------------------------------------------------------

function pointers(e) {
  const on = (name, act) => e.picture.addEventListener(name, act, { signal: e.signal });
  on("pointerdown", (event) => {
    if (e.disabled || event.button) return;
    e.picture.setPointerCapture(event.pointerId);
    keepPast(e);
    e.cursor = e.pointer = cellAt(e.picture, e, event);
    e.drags = true;
    rub(e, e.pointer);
    changed(e);
  });
  on("pointermove", (event) => {
    const at = cellAt(e.picture, e, event), from = e.pointer;
    if (at === from) return;
    e.pointer = at;
    if (!e.drags || e.disabled) return draw(e);
    e.cursor = at;
    rubAlong(e, from, at);
    changed(e);
  });
  const end = () => { e.drags = false; };
  on("pointerup", end);
  on("pointercancel", end);
  on("pointerleave", () => { if (!e.drags) { e.pointer = null; draw(e); } });
}

function keys(e) {
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  e.picture.addEventListener("keydown", (event) => {
    if (event.altKey || (!by[event.key] && event.key !== " " && event.key !== "Enter" && event.key !== "z")) return;
    if (event.key === "z" ? !(event.ctrlKey || event.metaKey) : event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    if (event.key === "z") return e.disabled || undo(e);
    const [dx, dy] = by[event.key] ?? [0, 0], from = e.cursor;
    const x = clamp((from % e.side) + dx, 0, e.side - 1), y = clamp(Math.floor(from / e.side) + dy, 0, e.side - 1);
    e.cursor = y * e.side + x;
    e.pointer = null;
    const paints = !e.disabled && (!by[event.key] || event.shiftKey);
    if (!paints) { say(e, `Row ${y}, column ${x}: ${e.seen[e.cursor] ? `grey level ${e.levels[e.cursor]}` : "erased"}.`); return draw(e); }
    keepPast(e);
    rubAlong(e, from, e.cursor);
    changed(e);
  }, { signal: e.signal });
  for (const name of ["focus", "blur"]) e.picture.addEventListener(name, () => draw(e), { signal: e.signal });
}

// -- parts ---------------------------------------------------------------------------------------

function build(e) {
  const choice = (words, act) => {
    const b = el("button", { type: "button", class: "choice" }, ...words);
    b.addEventListener("click", () => { act(); render(e); });
    return b;
  };
  const button = (word, act) => {
    const b = el("button", { type: "button", class: "plain" }, word);
    b.addEventListener("click", act);
    return b;
  };
  const group = (name, buttons) => el("div", { class: "choices", role: "group", "aria-label": name }, ...buttons);
  e.root = el("div", { class: "sed eraser", role: "group", "aria-label": "Eraser" });
  e.picture = el("canvas", { class: "picture", role: "application", tabindex: "0", "aria-label": "Picture to erase from. "
    + "Arrow keys move the cursor, Space erases under it or brings back, Shift and arrows do so while moving." });
  e.picture.style.aspectRatio = "1";
  e.modes = [choice(["Erase"], () => { e.back = false; }), choice(["Bring back"], () => { e.back = true; })];
  e.brushes = BRUSHES.map((size) => {
    const b = choice([el("i", { class: "dab", style: `--size:${size}` }), String(size)], () => { e.brush = size; });
    b.ariaLabel = `Brush ${size} by ${size}`;
    return b;
  });
  e.undo = button("Undo", () => undo(e));
  e.undo.title = "Ctrl+Z on the picture";
  e.every = [button("Erase all", () => all(e, 0)), button("Bring all back", () => all(e, 1))];
  e.count = el("p", { class: "count" });
  e.answer = el("p", { class: "unseen", "aria-live": "polite" });
  e.root.append(div("desk", div("", e.picture, e.count), div("tools", group("What the brush does", e.modes),
    group("Size of the brush", e.brushes), div("acts", ...e.every, e.undo), el("p", { class: "note" }, "Draw on the picture. By keyboard: arrows move, Space erases, Shift and arrows erase while moving."))), e.answer);
  pointers(e);
  keys(e);
}

function render(e) {
  const erased = e.seen.reduce((n, one) => n + (one ? 0 : 1), 0);
  e.root.dataset.erased = erased;
  e.count.replaceChildren(el("b", {}, erased), ` of ${e.side ** 2} pixels erased`);
  e.modes.forEach((b, n) => { b.ariaPressed = String(e.back === Boolean(n)); });
  e.brushes.forEach((b, n) => { b.ariaPressed = String(e.brush === BRUSHES[n]); });
  for (const b of [...e.modes, ...e.brushes, ...e.every, e.undo]) b.disabled = e.disabled;
  e.undo.disabled ||= !e.past.length;
  e.root.classList.toggle("off", e.disabled);
  draw(e);
}

// -- drawing -------------------------------------------------------------------------------------

function draw(e) {
  if (!e.picture.clientWidth) return;
  const pen = sheet(e.picture, e, e.colours), { c, dpr } = pen, gone = hatch(c, dpr);
  e.levels.forEach((level, j) => {
    if (!e.seen[j]) pen.fill(j, gone);
    else if (level) pen.fill(j, css(e.table[1 + Math.round((254 * (level - 1)) / 254)]));
  });
  const focused = e.picture.getRootNode().activeElement === e.picture, at = e.pointer ?? (focused ? e.cursor : null);
  if (at === null || e.disabled) return;
  const reach = (e.brush - 1) / 2, x = at % e.side, y = Math.floor(at / e.side), limit = (n) => clamp(n, 0, e.side - 1);
  const [left, up] = pen.cell(limit(y - reach) * e.side + limit(x - reach)), [right, down, w, h] = pen.cell(limit(y + reach) * e.side + limit(x + reach));
  for (const [colour, width] of [["#fff", 5], [e.colours.latent, 2.5]]) {
    c.strokeStyle = colour; c.lineWidth = width * dpr;
    c.strokeRect(left + 0.5, up + 0.5, right + w - left - 1, down + h - up - 1);
  }
}

function hatch(c, dpr) {
  const size = Math.round(6 * dpr), tile = el("canvas", { width: size, height: size }), t = tile.getContext("2d");
  t.fillStyle = "#eceef1"; t.fillRect(0, 0, size, size);
  for (const k of [-size, 0, size]) line(t, [[k, size], [k + size, 0]], "#a3a9b3", dpr);
  return c.createPattern(tile, "repeat");
}

// -- bits ----------------------------------------------------------------------------------------

function pack(seen) {
  const found = new Uint8Array(Math.ceil(seen.length / 8));
  seen.forEach((one, j) => { if (one) found[j >> 3] |= 128 >> (j & 7); });
  return btoa(String.fromCharCode(...found)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

function unpack(text, dim) {
  const found = bytes(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from({ length: dim }, (_, j) => (found[j >> 3] >> (7 - (j & 7))) & 1);
}
