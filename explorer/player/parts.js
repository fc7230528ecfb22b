// Small parts that every component is made of: elements, a sheet of cells to draw on, words.
//
// No imports, no exports: explorer.player.source joins this file with those that use it.

const SVG = "http://www.w3.org/2000/svg";
const el = (tag, attributes = {}, ...children) => fillIn(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fillIn(document.createElementNS(SVG, tag), attributes, children);
const div = (word, ...children) => el("div", { class: word }, ...children);
const span = (word, ...children) => el("span", { class: word }, ...children);
const ramp = (p, word = "ramp") =>
  el("i", { class: word, style: `background:linear-gradient(90deg,${p.colours.value.join(",")})` });

function fillIn(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// -- drawing -------------------------------------------------------------------------------------

function sharp(canvas) {
  const dpr = devicePixelRatio || 1, [w, h] = [canvas.clientWidth, canvas.clientHeight].map((n) => Math.round(n * dpr));
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  return [canvas.getContext("2d"), w, h, dpr];
}

// A white sheet with hairlines between its cells, and the pens for one cell.
function sheet(canvas, { width, height }, colours) {
  const [c, w, h, dpr] = sharp(canvas), edge = (n, of, size) => Math.round((n * size) / of);
  const cell = (index, inset = 0) => {
    const x = index % width, y = Math.floor(index / width);
    const left = edge(x, width, w), right = edge(x + 1, width, w);
    const up = edge(y, height, h), down = edge(y + 1, height, h);
    return [left + inset, up + inset, right - left - 2 * inset + 1, down - up - 2 * inset + 1];
  };
  const fill = (index, colour) => {
    const [x, y, a, b] = cell(index);
    c.fillStyle = colour;
    c.fillRect(x + 1, y + 1, a - 2, b - 2);
  };
  const frame = (index, colour, thick, dash = []) => {
    c.strokeStyle = colour; c.lineWidth = thick * dpr; c.setLineDash(dash.map((d) => d * dpr));
    c.strokeRect(...cell(index, 0.5)); c.setLineDash([]);
  };
  c.fillStyle = colours.zero;
  c.fillRect(0, 0, w, h);
  c.fillStyle = colours.grid;
  for (let x = 1; x < width; x += 1) c.fillRect(edge(x, width, w), 0, 1, h);
  for (let y = 1; y < height; y += 1) c.fillRect(0, edge(y, height, h), w, 1);
  return { c, w, h, dpr, cell, fill, frame };
}

function cellAt(canvas, { width, height }, event) {
  const box = canvas.getBoundingClientRect();
  const x = clamp(Math.floor(((event.clientX - box.left) / box.width) * width), 0, width - 1);
  const y = clamp(Math.floor(((event.clientY - box.top) / box.height) * height), 0, height - 1);
  return y * width + x;
}

function label(c, text, [x, y], size, weight, dpr, colour) {
  Object.assign(c, { font: `${weight} ${size * dpr}px system-ui, sans-serif`, textAlign: "center",
    textBaseline: "middle", lineJoin: "round", strokeStyle: "#fff", lineWidth: 4 * dpr, fillStyle: colour });
  c.strokeText(text, x, y);
  c.fillText(text, x, y);
}

function line(c, points, colour, width) {
  c.beginPath();
  points.forEach(([x, y], n) => (n ? c.lineTo(x, y) : c.moveTo(x, y)));
  c.strokeStyle = colour; c.lineWidth = width; c.stroke();
}

function disc(c, [x, y], r, colour) {
  c.beginPath(); c.arc(x, y, r, 0, 7); c.fillStyle = colour; c.fill();
}

function ring(c, [x, y], r, colour, width) {
  c.beginPath(); c.arc(x, y, r, 0, 7); c.strokeStyle = colour; c.lineWidth = width; c.stroke();
}

// -- words and numbers ---------------------------------------------------------------------------

const upper = (text) => text[0].toUpperCase() + text.slice(1);
const clamp = (x, a, b) => Math.min(b, Math.max(a, x));
const short = (x) => String(Math.abs(x) >= 100 ? Math.round(x) : Number(x.toPrecision(3)));
const percent = (x) => x > 0 && x < 0.0005 ? "<0.1 %" : x < 1 && x > 0.9995 ? ">99.9 %" : `${(100 * x).toFixed(1)} %`;
const css = ([r, g, b]) => `rgb(${r},${g},${b})`;
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// The 256 colours of the table; row 0 is the exact zero.
function rows(text) {
  const flat = bytes(text);
  return Array.from({ length: 256 }, (_, n) => flat.subarray(3 * n, 3 * n + 3));
}

function say(view, text) {
  if (view.answer.textContent !== text) view.answer.textContent = text;
}

function visible(element) {
  const box = element.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight;
}
