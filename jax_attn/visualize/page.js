"use strict";
// The program of the page. `record` says what there is; its numbers lie in blocks that are decoded when they are drawn.

const record = JSON.parse(document.getElementById("record").textContent);
const $ = id => document.getElementById(id);
const VIEWS = [["head", "Heads"], ["model", "Model"], ["neuron", "Neurons"], ["heatmap", "Heatmap"]];
const ROW = 22;  // pixels, as in the style sheet
const MOST_LINES = 2000;  // of a head, when no token is chosen
const MOST_ROWS = 128;  // of the table of neurons
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };  // rows, columns
const FEW = 64;  // tokens: up to here all heads are shown at first, and tokens stand beside heatmaps

const state = {
  view: record.view, stack: 0, layer: 0, head: 0, heads: new Set(), side: "weights", quadrant: "",
  special: true, relative: false, kept: null, pointed: null, cell: [0, 0],
};

const stack = () => record.stacks[state.stack];
const layer = () => stack().layers[state.layer];
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// Numbers -------------------------------------------------------------------------------------------------------

const decoded = new Map();

function bytes(block) {
  if (!decoded.has(block)) {
    decoded.set(block, (async () => {
      const text = atob($("block" + block).textContent);
      const data = new Uint8Array(text.length);
      for (let i = 0; i < text.length; i++) data[i] = text.charCodeAt(i);
      const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate"));
      return new Response(stream).arrayBuffer();
    })());
  }
  return decoded.get(block);
}

// Rows of numbers: `at(head, row, column)`, and the largest of a row.
async function numbers(found, rows, columns) {
  const buffer = await bytes(found.block);
  const count = stack().heads.length * rows;
  const largest = new Float32Array(buffer, 0, count);
  const codes = new (found.signed ? Int8Array : Uint8Array)(buffer, 4 * count);
  return {
    rows, columns, levels: found.levels, signed: found.signed,
    at: (head, row, column) => {
      const line = head * rows + row;
      return codes[line * columns + column] * largest[line] / found.levels;
    },
    largest: (head, row) => largest[head * rows + row],
    most: head => { let most = 0; for (let row = 0; row < rows; row++) most = Math.max(most, largest[head * rows + row]); return most; },
  };
}

const weightsOf = (which, side = state.side) =>
  numbers(which[side] || which.weights, stack().queries.labels.length, stack().keys.labels.length);

// Tokens --------------------------------------------------------------------------------------------------------

const isSpecial = (axis, place) => Boolean(axis.special.length && axis.special[place]);
const segment = (axis, place) => axis.segments.length ? axis.segments[place] : 0;

function shown(axis, wanted) {
  const places = axis.labels.map((_, place) => place);
  return places.filter(place => (state.special || !isSpecial(axis, place))
    && (wanted === undefined || segment(axis, place) === wanted));
}

const quadrant = () => state.quadrant === "" ? [undefined, undefined] : [...state.quadrant].map(Number);
const queries = () => shown(stack().queries, quadrant()[0]);
const keys = () => shown(stack().keys, quadrant()[1]);

const format = weight => weight === 0 ? "≈ 0" : Math.abs(weight) < 0.001 ? weight.toExponential(1) : weight.toFixed(3);
const quoted = (axis, place) => `“${axis.labels[place]}”`;

function say(text) { if ($("readout").textContent !== text) $("readout").textContent = text; }

// Controls ------------------------------------------------------------------------------------------------------

const colour = head => `oklch(${lightness} 0.15 ${Math.round(360 * placeOfHead(head) / stack().heads.length)})`;

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => new Option(text, value, false, value === String(chosen))));
  select.closest("label").hidden = entries.length < 2;
}

function controls() {
  for (const tab of $("tabs").children) {
    const open = tab.id === "tab-" + state.view;
    tab.setAttribute("aria-selected", open);
    tab.tabIndex = open ? 0 : -1;
  }
  $("panel").setAttribute("aria-labelledby", "tab-" + state.view);
  const { queries: q, keys: k } = stack();
  options($("stack"), record.stacks.map((each, place) => [String(place), each.name]), state.stack);
  options($("layer"), stack().layers.map((each, place) => [String(place), String(each.number)]), state.layer);
  $("layer").closest("label").hidden = state.view === "model";
  const sides = record.other ? [["weights", "Flax"], ["other", record.other], ["difference", "difference"]] : [];
  options($("side"), sides, state.side);
  if (["heatmap", "neuron"].includes(state.view)) $("side").closest("label").hidden = true;
  const pair = new Set(q.segments).size > 1 && new Set(k.segments).size > 1;
  const names = ["A", "B"];
  const four = [0, 1].flatMap(a => [0, 1].map(b => [`${a}${b}`, `${names[a]} → ${names[b]}`]));
  options($("quadrant"), pair ? [["", "all"], ...four] : [], state.quadrant);
  options($("query"), state.view === "neuron" ? queries().map(place => [String(place), q.labels[place]]) : [], state.kept?.place);
  $("special").closest("label").hidden = !q.special.some(Boolean) && !k.special.some(Boolean);
  $("special").checked = state.special;
  $("relative").checked = state.relative;
  $("relative").closest("label").hidden = state.view === "neuron";
  heads();
}

function heads() {
  const many = state.view === "head";
  const bar = $("heads");
  bar.hidden = state.view === "model";
  const had = document.activeElement?.dataset?.head;
  const buttons = stack().heads.map(head => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head;
    button.dataset.head = head;
    button.setAttribute("aria-label", `head ${head}`);
    button.setAttribute("aria-pressed", many ? state.heads.has(head) : state.head === head);
    button.style.setProperty("--c", colour(head));
    button.tabIndex = head === state.head ? 0 : -1;
    button.onclick = () => choose(head);
    button.ondblclick = () => { state.heads = new Set([head]); draw(); };
    return button;
  });
  if (many && stack().heads.length > 1) {
    const all = document.createElement("button");
    all.type = "button";
    const whole = state.heads.size === stack().heads.length;
    all.textContent = whole ? "only one" : "all";
    all.onclick = () => { state.heads = new Set(whole ? [state.head] : stack().heads); draw(); };
    buttons.push(all);
  }
  bar.replaceChildren(...buttons);
  if (had !== undefined) bar.querySelector(`[data-head="${had}"]`)?.focus();
}

function choose(head) {
  state.head = head;
  if (state.view === "head") {
    if (!state.heads.delete(head)) state.heads.add(head);
  } else {
    state.heads = new Set([head]);
  }
  draw();
}

const placeOfHead = head => stack().heads.indexOf(head);

function moveLayer(step) {
  const next = clamp(state.layer + step, 0, stack().layers.length - 1);
  if (next !== state.layer) { state.layer = next; draw(); }
}

// Heads: a line for every weight --------------------------------------------------------------------------------

async function drawHeads(panel, mine) {
  const here = layer();
  const weights = await weightsOf(here);
  if (mine !== turn) return;
  const q = queries(), k = keys();
  const box = document.createElement("div");
  box.className = "sides";
  const [left, right] = [["query", stack().queries, q], ["key", stack().keys, k]].map(([side, axis, places]) => {
    const list = document.createElement("ul");
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", side === "query" ? "Queries" : "Keys");
    list.dataset.side = side;
    list.append(...places.map(place => token(side, axis, place)));
    return list;
  });
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "a line from each query to each key, as strong as the weight");
  const titles = ["query", "", "key"].map(text => { const h = document.createElement("h2"); h.textContent = text; return h; });
  box.append(...titles, left, canvas, right);
  const refocus = focusedToken();
  panel.replaceChildren(box);
  const lines = () => paintHeads(canvas, left, right, weights, q, k);
  roving(left, lines); roving(right, lines);
  if (refocus) box.querySelector(refocus)?.focus();
  lines();
  repaint = lines;
}

function focusedToken() {
  const item = document.activeElement?.closest?.("li[data-place]");
  return item && `ul[data-side=${item.parentNode.dataset.side}] li[data-place="${item.dataset.place}"]`;
}

function token(side, axis, place) {
  const item = document.createElement("li");
  item.setAttribute("role", "option");
  item.dir = "auto";
  item.textContent = axis.labels[place];
  item.title = axis.notes[place] || "";
  item.dataset.place = place;
  item.tabIndex = -1;
  if (isSpecial(axis, place)) item.classList.add("special");
  if (segment(axis, place) === 1) item.classList.add("second");
  return item;
}

function roving(list, lines) {
  const side = list.dataset.side;
  const of = event => { const item = event.target.closest("li"); return item && { side, place: Number(item.dataset.place) }; };
  const first = list.querySelector("li[aria-selected=true]") || list.firstElementChild;
  if (first) first.tabIndex = 0;
  list.onmouseover = event => { state.pointed = of(event); lines(); };
  list.onmouseleave = () => { state.pointed = null; lines(); };
  list.addEventListener("focusin", event => {
    for (const item of list.children) item.tabIndex = -1;
    event.target.tabIndex = 0;
    if (event.target.matches(":focus-visible")) { state.pointed = of(event); lines(); }
  });
  list.addEventListener("focusout", () => { state.pointed = null; lines(); });
  list.onclick = event => { const found = of(event); if (found) { keep(found); lines(); } };
  list.onkeydown = event => {
    const item = event.target.closest("li");
    const next = { ArrowDown: item?.nextElementSibling, ArrowUp: item?.previousElementSibling,
      Home: list.firstElementChild, End: list.lastElementChild }[event.key];
    if (next) next.focus();
    else if (event.key === "ArrowRight") moveLayer(1);
    else if (event.key === "ArrowLeft") moveLayer(-1);
    else if (event.key === "Enter" || event.key === " ") { keep(of(event)); lines(); }
    else if (event.key === "Escape") { state.kept = null; lines(); }
    else return;
    event.preventDefault();
  };
}

function keep(found) {
  const same = state.kept && state.kept.side === found.side && state.kept.place === found.place;
  state.kept = same ? null : found;
}

function paintHeads(canvas, left, right, weights, q, k) {
  const chosen = stack().heads.filter(head => state.heads.has(head)).map(head => [head, placeOfHead(head)]);
  const active = state.pointed || state.kept;
  const height = Math.max(q.length, k.length) * ROW, width = canvas.clientWidth || 200;
  const scale = Math.min(window.devicePixelRatio || 1, 16000 / height);
  canvas.width = width * scale; canvas.height = height * scale; canvas.style.height = height + "px";
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const strength = (place, i, j) => {
    const whole = state.relative ? weights.largest(place, i) : state.side === "difference" ? weights.most(place) : 1;
    return whole ? Math.min(1, Math.abs(weights.at(place, i, j)) / whole) : 0;
  };
  const rows = active?.side === "query" ? q.filter(i => i === active.place) : q;
  const columns = active?.side === "key" ? k.filter(j => j === active.place) : k;
  for (const [head, place] of chosen) paintLines(pen, width, colour(head), q, k, rows, columns, (i, j) => strength(place, i, j));
  const mean = (i, j) => chosen.length ? chosen.reduce((sum, [, place]) => sum + strength(place, i, j), 0) / chosen.length : 0;
  shade(left, place => active?.side === "key" && columns.length ? mean(place, active.place) : 0, active);
  shade(right, place => active?.side === "query" && rows.length ? mean(active.place, place) : 0, active);
  tell(active, chosen, weights, q, k);
  paintImage(active, chosen, weights);
}

function paintLines(pen, width, ink, q, k, rows, columns, strength) {
  const STEPS = 16;
  const steps = Array.from({ length: STEPS }, () => []);
  const at = new Map(q.map((place, row) => [place, (row + 0.5) * ROW]));
  const to = new Map(k.map((place, row) => [place, (row + 0.5) * ROW]));
  for (const i of rows) for (const j of columns) {
    const s = strength(i, j);
    if (s > 0.02) steps[Math.min(STEPS - 1, Math.floor(s * STEPS))].push(at.get(i), to.get(j));
  }
  pen.strokeStyle = ink;
  let drawn = 0;
  for (let step = STEPS - 1; step >= 0; step--) {
    const lines = steps[step];
    if (drawn && drawn + lines.length / 2 > MOST_LINES) break;
    drawn += lines.length / 2;
    pen.globalAlpha = (step + 0.5) / STEPS;
    pen.lineWidth = 1 + 2 * step / STEPS;
    for (let n = 0; n < Math.min(lines.length, 2 * MOST_LINES); n += 2) {  // one by one: a path of many lines is slow
      pen.beginPath();
      pen.moveTo(0, lines[n]);
      pen.lineTo(width, lines[n + 1]);
      pen.stroke();
    }
  }
}

function shade(list, strength, active) {
  for (const item of list.children) {
    const place = Number(item.dataset.place);
    item.style.setProperty("--w", Math.sqrt(strength(place)).toFixed(3));
    item.classList.toggle("now", active?.side === list.dataset.side && active.place === place);
    item.setAttribute("aria-selected", state.kept?.side === list.dataset.side && state.kept.place === place);
  }
}

// The largest weights of what is pointed at, in words.
function tell(active, chosen, weights, q, k) {
  if (!active || !chosen.length) {
    say(chosen.length ? "Point at a token, or choose one, to see where it looks." : "Choose a head.");
    return;
  }
  const { queries: qa, keys: ka } = stack();
  const [places, axis] = active.side === "query" ? [k, ka] : [q, qa];
  const of = place => chosen.reduce((sum, [, head]) => sum +
    (active.side === "query" ? weights.at(head, active.place, place) : weights.at(head, place, active.place)), 0) / chosen.length;
  const best = places.map(place => [place, of(place)]).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 4);
  const list = best.map(([place, weight]) => `${quoted(axis, place)} ${format(weight)}`).join(", ");
  const what = state.side === "difference" ? "difference" : chosen.length === 1 ? `head ${chosen[0][0]}` : `mean of ${chosen.length} heads`;
  const own = quoted(active.side === "query" ? qa : ka, active.place);
  say(active.side === "query" ? `${own} looks at ${list} (layer ${layer().number}, ${what})` : `${own} is looked at by ${list} (layer ${layer().number}, ${what})`);
}

// The image whose patches the tokens are --------------------------------------------------------------------------

let picture = null;

async function loadImage() {
  if (!record.image) return;
  const { block, width, height } = record.image;
  const data = new Uint8Array(await bytes(block));
  const pixels = new ImageData(width, height);
  for (let i = 0, j = 0; i < data.length; i += 3, j += 4) {
    pixels.data.set(data.subarray(i, i + 3), j);
    pixels.data[j + 3] = 255;
  }
  picture = document.createElement("canvas");
  picture.width = width; picture.height = height;
  picture.getContext("2d").putImageData(pixels, 0, 0);
}

const firstPatch = axis => axis.special.filter(Boolean).length;  // special tokens stand before the patches

function paintImage(active, chosen, weights) {
  const axis = stack().keys;
  $("image").hidden = !picture || !axis.grid || state.view !== "head";
  if ($("image").hidden) return;
  const canvas = $("image").querySelector("canvas"), pen = canvas.getContext("2d");
  canvas.width = picture.width; canvas.height = picture.height;
  pen.drawImage(picture, 0, 0);
  const [rows, columns] = axis.grid, wide = canvas.width / columns, high = canvas.height / rows, first = firstPatch(axis);
  const where = place => [((place - first) % columns) * wide, Math.floor((place - first) / columns) * high];
  const caption = $("image").querySelector("figcaption");
  caption.textContent = "The image; choose a patch in it to see where it looks.";
  if (active?.side === "query" && chosen.length) {
    const patches = Array.from({ length: rows * columns }, (_, n) => n + first);
    const of = place => chosen.reduce((sum, [, head]) => sum + Math.abs(weights.at(head, active.place, place)), 0);
    const most = Math.max(...patches.map(of)) || 1;
    for (const place of patches) {
      pen.fillStyle = `rgb(0 0 0 / ${(0.78 * (1 - of(place) / most)).toFixed(3)})`;
      pen.fillRect(...where(place), wide, high);
    }
    caption.textContent = `Bright is where ${quoted(axis, active.place)} looks.`;
  }
  if (active && active.place >= first) {
    pen.strokeStyle = "#ff3b30"; pen.lineWidth = Math.max(1, wide / 8);
    pen.strokeRect(...where(active.place), wide, high);
  }
  const patchAt = event => {
    const [x, y] = [event.offsetX / canvas.clientWidth, event.offsetY / canvas.clientHeight];
    return first + Math.floor(y * rows) * columns + Math.floor(x * columns);
  };
  canvas.onclick = event => { keep({ side: "query", place: patchAt(event) }); repaint(); };
}

// Model: every layer and head --------------------------------------------------------------------------------------

async function drawModel(panel, mine) {
  const { heads: all, layers } = stack();
  const grid = document.createElement("div");
  grid.className = "thumbs";
  grid.setAttribute("role", "group");
  grid.setAttribute("aria-label", "Layers downwards, heads to the right");
  grid.style.gridTemplateColumns = `2rem repeat(${all.length}, minmax(0, 5rem))`;
  const text = said => { const span = document.createElement("span"); span.textContent = said; return span; };
  grid.append(text(""), ...all.map(head => text(head)));
  const cells = layers.map((each, row) => {
    grid.append(text(each.number));
    return all.map((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-label", `layer ${each.number}, head ${head}`);
      button.tabIndex = row === 0 && column === 0 ? 0 : -1;
      button.onclick = () => { Object.assign(state, { view: "head", layer: row, head, heads: new Set([head]) }); draw(); $("tab-head").focus(); };
      button.append(document.createElement("canvas"));
      grid.append(button);
      return button;
    });
  });
  grid.onkeydown = event => {
    const step = { ArrowUp: -all.length, ArrowDown: all.length, ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const flat = cells.flat(), next = flat[flat.indexOf(event.target) + (step || 0)];
    if (!step) return;
    event.preventDefault();
    if (next) { event.target.tabIndex = -1; next.tabIndex = 0; next.focus(); }
  };
  for (const when of ["mouseover", "focusin"]) {
    grid.addEventListener(when, event => {
      const label = event.target.closest("button")?.getAttribute("aria-label");
      say(label ? `${label}: open it` : "Choose a head to open it.");
    });
  }
  panel.replaceChildren(grid);
  say("Choose a head to open it.");
  const q = queries(), k = keys();
  for (const [row, each] of layers.entries()) {
    const weights = await weightsOf(each);
    if (mine !== turn) return;
    all.forEach((_, place) => thumbnail(cells[row][place].firstChild, weights, place, q, k));
    await new Promise(requestAnimationFrame);
  }
  panel.dataset.done = state.view;
}

const THUMB = 56;

// A pixel is the largest of the weights that fall on it.
function thumbnail(canvas, weights, place, q, k) {
  const size = Math.min(THUMB, Math.max(q.length, k.length, 1));
  const pixels = new Float32Array(size * size);
  const whole = state.side === "difference" ? weights.most(place) : 1;
  for (let a = 0; a < q.length; a++) {
    const row = Math.floor(a * size / q.length) * size;
    const of = state.relative ? weights.largest(place, q[a]) : whole;
    for (let b = 0; b < k.length; b++) {
      const spot = row + Math.floor(b * size / k.length), value = weights.at(place, q[a], k[b]) / (of || 1);
      if (Math.abs(value) > Math.abs(pixels[spot])) pixels[spot] = value;
    }
  }
  for (let a = 0; a < size && q.length < size; a++) pixels.copyWithin(a * size, Math.floor(a * q.length / size) * Math.ceil(size / q.length) * size, 0);
  canvas.width = canvas.height = size;
  canvas.getContext("2d").putImageData(coloured(pixels, size, size), 0, 0);
}

// Colours: from the paper to ink, and to red below 0.
function ramp(value) {
  const [paper, warm, cold] = palette;
  const s = Math.sqrt(Math.min(1, Math.abs(value))), ink = value < 0 ? cold : warm;
  return paper.map((from, n) => Math.round(from + (ink[n] - from) * s));
}

let palette, lightness;

function readPalette() {
  lightness = getComputedStyle(document.documentElement).getPropertyValue("--lightness").trim();
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  palette = ["--back", "--one", "--two", "--line"].map(name => {
    probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    probe.fillRect(0, 0, 1, 1);
    return [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3);
  });
}

function coloured(values, width, height) {
  const pixels = new ImageData(width, height);
  for (let n = 0; n < values.length; n++) {
    pixels.data.set(ramp(values[n]), 4 * n);
    pixels.data[4 * n + 3] = 255;
  }
  return pixels;
}

// Heatmap: the matrix of a head, in both frameworks where there are two ----------------------------------------------

async function drawHeatmaps(panel, mine) {
  const sides = record.other ? [["weights", "Flax"], ["other", record.other], ["difference", "difference"]] : [["weights", ""]];
  const loaded = await Promise.all(sides.map(([side]) => weightsOf(layer(), side)));
  if (mine !== turn) return;
  const q = queries(), k = keys(), place = placeOfHead(state.head);
  const box = document.createElement("div");
  box.className = "maps";
  const focused = document.activeElement?.dataset?.map;
  const maps = sides.map(([side, name], n) => {
    const figure = document.createElement("figure"), canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
    canvas.tabIndex = 0;
    canvas.dataset.map = side;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "heatmap");
    canvas.setAttribute("aria-label", `${name} weights of layer ${layer().number}, head ${state.head}: arrows move from cell to cell`.trim());
    const most = loaded[n].most(place);
    caption.textContent = `${name || "weights"}, up to ${format(most)}${side === "difference" ? `; of all heads ${format(layer().apart)}` : ""}`;
    figure.append(canvas, caption);
    return { canvas, figure, weights: loaded[n], whole: side === "difference" ? most : 1, side };
  });
  box.append(...maps.map(map => map.figure));
  panel.replaceChildren(box);
  const paint = () => maps.forEach(map => paintMap(map, panel, place, q, k, sides.length));
  for (const map of maps) listen(map, maps, place, q, k, paint);
  paint();
  repaint = paint;
  if (focused) maps.find(map => map.side === focused)?.canvas.focus();
  say("Point at a cell, or move with the arrows.");
}

function paintMap(map, panel, place, q, k, count) {
  const wide = panel.clientWidth, side = q.length <= FEW && k.length <= FEW;
  const pen = map.canvas.getContext("2d");
  const font = "12px system-ui, sans-serif";
  pen.font = font;
  const { queries: qa, keys: ka } = stack();
  const longest = (axis, places) => Math.max(0, ...places.map(n => pen.measureText(axis.labels[n]).width));
  map.left = side ? Math.min(longest(qa, q) + 8, 0.3 * wide, 140) : 0;
  map.top = side ? Math.min(longest(ka, k) + 8, 110) : 0;
  const room = (wide >= 900 && count > 1 ? wide / count - 16 : wide) - map.left;
  map.cell = clamp(Math.min(room / k.length, 640 / q.length), 1, 30);
  if (map.cell >= 4) map.cell = Math.floor(map.cell);
  const over = side ? Math.max(0, (14 - map.cell) / 2) : 0;  // of the last labels, which may be higher than their cells
  const width = map.left + map.cell * k.length + over, height = map.top + map.cell * q.length + over;
  const scale = window.devicePixelRatio || 1;
  map.canvas.width = width * scale; map.canvas.height = height * scale;
  map.canvas.style.width = width + "px";
  map.width = width;
  const values = new Float32Array(q.length * k.length);
  q.forEach((i, a) => {
    const whole = state.relative ? map.weights.largest(place, i) : map.whole;
    k.forEach((j, b) => { values[a * k.length + b] = whole ? map.weights.at(place, i, j) / whole : 0; });
  });
  const small = document.createElement("canvas");
  small.width = k.length; small.height = q.length;
  if (k.length && q.length) small.getContext("2d").putImageData(coloured(values, k.length, q.length), 0, 0);
  pen.scale(scale, scale);
  pen.imageSmoothingEnabled = map.cell < 1;
  if (k.length && q.length) pen.drawImage(small, map.left, map.top, map.cell * k.length, map.cell * q.length);
  pen.strokeStyle = `rgb(${palette[3]})`;  // what is 0 has the colour of the page
  pen.strokeRect(map.left + 0.5, map.top + 0.5, map.cell * k.length - 1, map.cell * q.length - 1);
  const now = state.pointed?.cell;
  const ink = getComputedStyle(document.body).color;
  pen.font = font;
  pen.textBaseline = "middle";
  if (side) {
    const every = Math.ceil(11 / map.cell);  // where cells are lower than text, some labels stand for all
    const labelled = (n, axis) => now ? now[axis] === n || (n % every === 0 && Math.abs(now[axis] - n) >= every) : n % every === 0;
    q.forEach((i, a) => {
      if (!labelled(a, 0)) return;
      pen.fillStyle = now?.[0] === a ? `rgb(${palette[1]})` : ink;
      pen.textAlign = "right";
      pen.fillText(qa.labels[i], map.left - 5, map.top + (a + 0.5) * map.cell, map.left - 5);
    });
    k.forEach((j, b) => {
      if (!labelled(b, 1)) return;
      pen.save();
      pen.fillStyle = now?.[1] === b ? `rgb(${palette[1]})` : ink;
      pen.translate(map.left + (b + 0.5) * map.cell, map.top - 5);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "left";
      pen.fillText(ka.labels[j], 0, 0, map.top - 5);
      pen.restore();
    });
  }
  if (now) {
    pen.strokeStyle = ink; pen.lineWidth = 2;
    pen.strokeRect(map.left + now[1] * map.cell, map.top + now[0] * map.cell, map.cell, map.cell);
    pen.globalAlpha = 0.35; pen.lineWidth = 1;
    pen.strokeRect(map.left, map.top + now[0] * map.cell, map.cell * k.length, map.cell);
    pen.strokeRect(map.left + now[1] * map.cell, map.top, map.cell, map.cell * q.length);
    pen.globalAlpha = 1;
  }
}

function listen(map, maps, place, q, k, paint) {
  const point = cell => {
    state.pointed = { cell };
    paint();
    const [i, j] = [q[cell[0]], k[cell[1]]];
    const said = maps.map(each => `${each.side === "weights" ? (record.other ? "Flax " : "") : each.side === "other" ? record.other + " " : "difference "}${format(each.weights.at(place, i, j))}`);
    say(`${quoted(stack().queries, i)} to ${quoted(stack().keys, j)}: ${said.join(", ")}`);
  };
  const inside = cell => [clamp(cell[0], 0, q.length - 1), clamp(cell[1], 0, k.length - 1)];
  map.canvas.onmousemove = event => {
    const scale = map.width / map.canvas.clientWidth;
    const cell = [Math.floor((event.offsetY * scale - map.top) / map.cell), Math.floor((event.offsetX * scale - map.left) / map.cell)];
    if (cell[0] >= 0 && cell[1] >= 0) { state.cell = inside(cell); point(state.cell); }
  };
  map.canvas.onmouseleave = map.canvas.onblur = () => { state.pointed = null; paint(); };
  map.canvas.onfocus = () => { if (map.canvas.matches(":focus-visible")) point(inside(state.cell)); };
  map.canvas.onkeydown = event => {
    const step = ARROWS[event.key];
    if (!step) return;
    event.preventDefault();
    state.cell = inside([state.cell[0] + step[0], state.cell[1] + step[1]]);
    point(state.cell);
  };
}

// Neurons: where the scores of a query come from -----------------------------------------------------------------------

async function drawNeurons(panel, mine) {
  const here = layer();
  if (!here.query) {
    const note = document.createElement("p");
    note.textContent = record.vectors
      ? "The scores of this attention are no product of a query and a key."
      : "The queries and keys of all layers do not fit into one page: choose a layer, or a shorter text.";
    panel.replaceChildren(note);
    say("");
    return;
  }
  const { queries: qa, keys: ka } = stack();
  const [weights, query, key] = await Promise.all([
    weightsOf(here, "weights"), numbers(here.query, qa.labels.length, here.width), numbers(here.key, ka.labels.length, here.width),
  ]);
  if (mine !== turn) return;
  const q = queries(), place = placeOfHead(state.head);
  if (!q.length) { panel.replaceChildren(); return; }
  const i = state.kept?.side === "query" && q.includes(state.kept.place) ? state.kept.place : q[0];
  const vector = (of, row) => Float32Array.from({ length: here.width }, (_, d) => of.at(place, row, d));
  const vectorOfQuery = vector(query, i);
  let k = keys();
  const cut = k.length > MOST_ROWS;
  if (cut) k = [...k].sort((a, b) => weights.at(place, i, b) - weights.at(place, i, a)).slice(0, MOST_ROWS).sort((a, b) => a - b);
  const rows = k.map(j => { const v = vector(key, j), p = v.map((x, d) => x * vectorOfQuery[d]); return { j, v, p, score: p.reduce((a, b) => a + b, 0) }; });
  const most = values => Math.max(1e-9, ...values.map(v => v.reduce((m, x) => Math.max(m, Math.abs(x)), 0)));
  const wholeK = most(rows.map(row => row.v)), wholeP = most(rows.map(row => row.p)), wholeQ = most([vectorOfQuery]);
  const table = document.createElement("table");
  table.className = "neurons";
  const cell = (tag, content, name = "") => { const made = document.createElement(tag); made.className = name; made.append(content); return made; };
  const line = (...cells) => { const row = document.createElement("tr"); row.append(...cells); return row; };
  const number = text => cell("td", text, "number");
  const head = document.createElement("thead");
  const titles = ["key", ["its vector", "of-key"], "query × key", ["score", "number"], ["weight", "number"]];
  head.append(line(...titles.map(title => cell("th", ...[title].flat()))));
  const first = line(cell("th", `query ${quoted(qa, i)}`),
    cell("td", strip(vectorOfQuery, wholeQ, d => `query, dimension ${d}: ${format(vectorOfQuery[d])}`), "of-key"), cell("td", ""), number(""), number(""));
  const products = [];
  const body = rows.map(({ j, v, p, score }) => {
    const name = cell("th", ka.labels[j]);
    name.scope = "row"; name.dir = "auto"; name.title = ka.notes[j] || "";
    const told = d => `dimension ${d}: query ${format(vectorOfQuery[d])} × key ${quoted(ka, j)} ${format(v[d])} = ${format(p[d])}`;
    const product = strip(p, wholeP, told);
    products.push([product, told]);
    return line(name, cell("td", strip(v, wholeK, told), "of-key"), cell("td", product),
      number(score.toFixed(2)), number(format(weights.at(place, i, j))));
  });
  const rest = document.createElement("tbody");
  first.className = "of-key";
  rest.append(first, ...body);
  table.append(head, rest);
  panel.replaceChildren(table);
  roam(products);
  say(cut ? `The ${MOST_ROWS} keys with the largest weights. ` : "Point at a strip, or move with the arrows, to see a dimension; the score is their sum, before masks and what positions add.");
}

// One of the strips can be tabbed to; arrows move among dimensions and keys.
function roam(strips) {
  let dimension = 0;
  const enter = row => {
    strips.forEach(([strip], each) => { strip.tabIndex = each === row ? 0 : -1; });
    strips[row][0].focus();
    say(strips[row][1](dimension));
  };
  strips.forEach(([strip], row) => {
    strip.tabIndex = row ? -1 : 0;
    strip.setAttribute("role", "application");
    strip.setAttribute("aria-roledescription", "strip");
    strip.onfocus = () => { if (strip.matches(":focus-visible")) say(strips[row][1](dimension)); };
    strip.onkeydown = event => {
      const step = ARROWS[event.key];
      if (!step) return;
      event.preventDefault();
      dimension = clamp(dimension + step[1], 0, strip.width - 1);
      enter(clamp(row + step[0], 0, strips.length - 1));
    };
  });
}

// A vector as a strip of colours.
function strip(vector, whole, told) {
  const canvas = document.createElement("canvas");
  canvas.width = vector.length; canvas.height = 1;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${vector.length} dimensions`);
  canvas.getContext("2d").putImageData(coloured(vector.map(x => x / whole), vector.length, 1), 0, 0);
  canvas.onmousemove = event => say(told(clamp(Math.floor(event.offsetX / canvas.clientWidth * vector.length), 0, vector.length - 1)));
  return canvas;
}

// All together -------------------------------------------------------------------------------------------------------

let turn = 0, repaint = () => {};
const DRAWING = { head: drawHeads, model: drawModel, neuron: drawNeurons, heatmap: drawHeatmaps };

async function draw() {
  const mine = ++turn, panel = $("panel");
  repaint = () => {};
  state.pointed = null;
  controls();
  $("image").hidden = true;
  delete panel.dataset.done;
  panel.dataset.view = state.view;
  await DRAWING[state.view](panel, mine);
  if (mine === turn) panel.dataset.done = state.view;
}

function lead() {
  const { layers, heads: all, queries: q, keys: k } = stack();
  const size = q === k || q.labels.length === k.labels.length ? `${q.labels.length} tokens` : `${q.labels.length} × ${k.labels.length} tokens`;
  $("lead").textContent = `${layers.length} layer${layers.length > 1 ? "s" : ""} of ${all.length} head${all.length > 1 ? "s" : ""}, ${size}`;
  const levels = Math.min(...layers.map(each => each.weights.levels));
  $("precision").textContent = `Weights are rounded to 1/${levels} of the largest of their row${levels < 255 ? ", so that the page stays small" : ""}.`;
}

function enter(place) {
  state.stack = place;
  const { queries: q, keys: k, heads: all, layers } = stack();
  const few = Math.max(q.labels.length, k.labels.length) <= FEW;
  state.kept = null;
  state.quadrant = "";
  state.layer = Math.max(0, layers.findIndex(each => each.number === record.layer));
  state.head = all.includes(record.head) ? record.head : all[0];
  state.heads = new Set(record.head !== null || !few ? [state.head] : all);
  state.relative = !few;
  lead();
}

function start() {
  readPalette();
  $("tabs").append(...VIEWS.map(([view, name]) => {
    const tab = document.createElement("button");
    Object.assign(tab, { type: "button", id: "tab-" + view, textContent: name });
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "panel");
    tab.onclick = () => { state.view = view; draw(); };
    return tab;
  }));
  $("tabs").onkeydown = event => {
    const all = [...$("tabs").children], step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = all[(all.indexOf(event.target) + step + all.length) % all.length];
    next.click(); next.focus();
  };
  $("heads").onkeydown = event => {
    const all = [...$("heads").children], step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    all[clamp(all.indexOf(event.target) + step, 0, all.length - 1)].focus();
  };
  $("stack").onchange = event => { enter(Number(event.target.value)); draw(); };
  $("layer").onchange = event => { state.layer = Number(event.target.value); draw(); };
  $("side").onchange = event => { state.side = event.target.value; draw(); };
  $("quadrant").onchange = event => { state.quadrant = event.target.value; draw(); };
  $("query").onchange = event => { state.kept = { side: "query", place: Number(event.target.value) }; draw(); };
  $("special").onchange = event => { state.special = event.target.checked; draw(); };
  $("relative").onchange = event => { state.relative = event.target.checked; draw(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readPalette(); draw(); });
  let width = $("panel").clientWidth;
  new ResizeObserver(() => {
    if (width !== $("panel").clientWidth) { width = $("panel").clientWidth; repaint(); }
  }).observe($("panel"));
  enter(0);
  loadImage().then(draw);
}

start();
