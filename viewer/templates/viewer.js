// What the page shows now: runs, step, zoom, rows, face; and how keys and controls change it.

const page = JSON.parse(document.getElementById("data").textContent);
const compared = page.runs.length > 1;
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const state = {
  picks: [0], // runs that are shown
  at: 0, // index in steps
  zoom: innerWidth < 700 ? 1 : 2,
  zoomOfAll: innerWidth < 700 ? 1 : 2, // to go back to, while one face is shown alone
  shown: page.rows.map(() => true),
  face: null, // or [direction, number]
  speed: 2, // steps a second
};
let steps = []; // what the slider goes through, ascending
let panes = []; // see buildSections
let markers = []; // see buildCharts
let timer = null; // while playing
let turn = 0; // of show(), to drop pictures that come too late
let soon = null; // when the address will be written

function get(id) {
  return document.getElementById(id);
}

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

const runs = () => state.picks.map((i) => page.runs[i]);
const start = () => (page.step === "epoch" ? Math.max(0, steps.length - 1) : 0);
const between = (low, value, high) => Math.max(low, Math.min(high, value));

// ---------------------------------------------------------------------------- showing

// Everything that hangs on the runs picked.
function build() {
  const frames = runs().flatMap((run) => run.sections.flatMap((section) => section.frames));
  const all = frames.length ? frames.map((f) => f.at) : runs().flatMap((run) => run.epochs);
  const step = steps[state.at];
  steps = [...new Set(all)].sort((a, b) => a - b);
  state.at = start();
  if (step !== undefined && steps.length) state.at = nearest(step);
  get("slider").max = Math.max(0, steps.length - 1);
  get("notes").replaceChildren(...runs().flatMap((run) => run.notes.map((note) =>
    make("p", { className: "note" }, compared ? `${run.name}: ${note}` : note))));
  panes = buildSections();
  if (page.step === "epoch") {
    markers = buildCharts();
    buildOptions();
  }
}

async function show() {
  const mine = ++turn, step = steps[state.at], { face } = state;
  const [now, last] = page.step === "epoch"
    ? [step, Math.max(...steps.slice(-1), ...runs().map((run) => run.planned))]
    : [state.at + 1, steps.length];
  const words = steps.length ? `${page.step} ${now} of ${last}` : `no ${page.step} yet`;
  get("at").textContent = words;
  get("slider").value = state.at;
  get("slider").setAttribute("aria-valuetext", words);
  document.body.style.setProperty("--zoom", state.zoom);
  press("speeds", (value) => value === state.speed);
  press("zooms", (value) => value === state.zoom);
  press("rows", (value) => state.shown[value]);
  get("one").hidden = !face;
  if (face) get("which").textContent = `face ${face[1] + 1} of ${faces(face[0])}`;
  [...get("sections").children].forEach((section, number) => {
    const names = rowNames(page.runs[0].sections[number])
      .filter((_, row) => state.shown[row] && hasRow(number, row));
    section.hidden = face !== null && face[0] !== number;
    section.querySelector(".rows").textContent = `Top to bottom: ${names.join(", ")}`;
    section.querySelector(".rows").hidden = face !== null;
  });
  for (const move of markers) move(step);
  clearTimeout(soon);
  soon = setTimeout(remember, 300); // browsers allow few changes of the address a second
  const visible = panes.filter((pane) => !face || pane.number === face[0]);
  await Promise.all(visible.map((pane) => showPane(pane, step, () => mine !== turn)));
}

function press(group, isOn) {
  for (const button of get(group).children) {
    button.setAttribute("aria-pressed", isOn(Number(button.value)));
  }
}

// ---------------------------------------------------------------------------- changing

function nearest(step) {
  const distances = steps.map((other) => Math.abs(other - step));
  return distances.indexOf(Math.min(...distances));
}

function goToIndex(index) {
  state.at = between(0, index, Math.max(0, steps.length - 1));
  return show();
}

const goTo = (step) => goToIndex(nearest(step));

function play(on = timer === null) {
  clearTimeout(timer);
  timer = null;
  get("play").textContent = on ? "pause" : "play";
  if (!on) return;
  if (state.at >= steps.length - 1) goToIndex(0);
  const later = () => { timer = setTimeout(next, 1000 / (calm.matches ? 1 : state.speed)); };
  const next = async () => {
    const mine = timer;
    await goToIndex(state.at + 1);
    if (timer !== mine) return; // paused while the picture was loading
    if (state.at < steps.length - 1) later();
    else play(false);
  };
  later();
}

function setZoom(zoom) {
  state.zoom = between(1, zoom, 4);
  show();
}

function toggleRow(row) {
  state.shown[row] = !state.shown[row];
  if (!state.shown.some(Boolean)) state.shown[row] = true;
  show();
}

// How many faces a direction has now.
function faces(number) {
  const frames = panes.filter((pane) => pane.number === number)
    .map((pane) => frameAt(pane.section, steps[state.at]));
  return Math.max(0, ...frames.map((frame) => (frame ? frame.count : 0)));
}

// Show one face alone, large; or with null all of them again.
async function choose(face) {
  const before = state.face;
  if (face && !before) [state.zoomOfAll, state.zoom] = [state.zoom, 4];
  if (!face && before) state.zoom = state.zoomOfAll;
  state.face = face;
  await show();
  if (face && !before) get("back").focus();
  if (face || !before) return;
  const pane = panes.find(({ number }) => number === before[0]);
  if (pane.faces.children[before[1]]) pane.faces.children[before[1]].focus();
}

function otherFace(by) {
  const directions = page.runs[0].sections.length;
  let [number, face] = state.face || [0, by > 0 ? -1 : faces(0)];
  face += by;
  if (face >= faces(number)) [number, face] = [(number + 1) % directions, 0];
  if (face < 0) {
    number = (number + directions - 1) % directions;
    face = faces(number) - 1;
  }
  if (face >= 0 && face < faces(number)) choose([number, face]);
}

// The state lives behind # in the address, so that it survives a reload; the newest epoch is
// left out, so that a page that has grown shows what is new.
function remember() {
  const words = new URLSearchParams();
  if (compared) runs().forEach((run, r) => words.set("ab"[r], run.name));
  if (state.at !== start()) words.set(page.step, steps[state.at]);
  if (state.face) words.set("face", state.face.join("."));
  words.set("zoom", state.zoom);
  history.replaceState(null, "", `#${words}`);
}

function recall() {
  const words = new URLSearchParams(location.hash.slice(1));
  if (compared) {
    const [a, b] = ["a", "b"].map((key) => page.runs.findIndex((r) => r.name === words.get(key)));
    state.picks = [Math.max(0, a), b >= 0 ? b : a > 0 ? 0 : 1];
    state.picks.forEach((pick, r) => { get(`pick-${r}`).value = pick; });
  }
  build();
  if (words.has(page.step) && steps.length) state.at = nearest(Number(words.get(page.step)) || 0);
  const face = (words.get("face") || "").split(".").map(Number);
  if (face.length === 2 && face[1] >= 0 && face[1] < faces(face[0])) state.face = face;
  const zoom = Math.round(words.get("zoom")) || (state.face ? 4 : state.zoom);
  state.zoom = between(1, zoom, 4);
  show();
}

// ---------------------------------------------------------------------------- keys, controls

const keys = {
  ArrowLeft: () => goToIndex(state.at - 1),
  ArrowRight: () => goToIndex(state.at + 1),
  Home: () => goToIndex(0),
  End: () => goToIndex(steps.length - 1),
  " ": () => play(),
  "+": () => setZoom(state.zoom + 1),
  "=": () => setZoom(state.zoom + 1),
  "-": () => setZoom(state.zoom - 1),
  n: () => otherFace(1),
  p: () => otherFace(-1),
  Escape: () => choose(null),
};
for (const zoom of [1, 2, 3, 4]) keys[zoom] = () => setZoom(zoom);
page.rows.forEach((name, row) => { keys[["r", "f", "c"][row]] = () => toggleRow(row); });

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || !Object.hasOwn(keys, event.key)) return;
  const inside = event.target.closest("input, select, button, a, summary");
  const slides = inside === get("slider");
  if (inside && inside.matches("select")) return;
  if (inside && !slides && event.key === " ") return; // presses the button that has the focus
  if (slides && /^(Arrow|Home|End)/.test(event.key)) return; // the slider moves by itself
  event.preventDefault();
  keys[event.key]();
});

function button(value, text, onclick) {
  return make("button", { value, onclick }, text);
}
const setSpeed = (speed) => { state.speed = speed; show(); };
get("speeds").append(...[1, 2, 5, 10].map((n) => button(n, `${n}/s`, () => setSpeed(n))));
get("zooms").append(...[1, 2, 3, 4].map((n) => button(n, `${n}×`, () => setZoom(n))));
get("rows").append(...page.rows.map((name, row) => button(row, name, () => toggleRow(row))));
get("play").onclick = keys[" "];
get("earlier").onclick = keys.ArrowLeft;
get("later").onclick = keys.ArrowRight;
get("slider").oninput = (event) => goToIndex(Number(event.target.value));
get("back").onclick = keys.Escape;
get("before").onclick = keys.p;
get("after").onclick = keys.n;
for (const r of compared ? [0, 1] : []) {
  get(`pick-${r}`).append(...page.runs.map((run, i) => make("option", { value: i }, run.name)));
  get(`pick-${r}`).onchange = (event) => {
    state.picks[r] = Number(event.target.value);
    build();
    show();
  };
}
// A click leaves the focus where it was, so that the space bar still plays.
for (const bar of document.querySelectorAll(".bar, .view")) {
  bar.addEventListener("mousedown", (event) => {
    if (event.target.closest("button")) event.preventDefault();
  });
}
recall();
addEventListener("hashchange", recall);
if (page.step === "epoch") {
  let width = get("charts").clientWidth;
  new ResizeObserver(() => {
    if (get("charts").clientWidth === width) return;
    width = get("charts").clientWidth;
    markers = buildCharts();
    for (const move of markers) move(steps[state.at]);
  }).observe(get("charts"));
}
