// Faces: each tile is a window on a grid, whose file its pane (a direction of a run) names.

const FILM = 12; // at most so many epochs in the history of one face

const loads = new Map();
function load(url) {
  if (!loads.has(url)) {
    loads.set(url, new Promise((resolve) => {
      const image = new Image();
      image.onload = () => resolve(true);
      image.onerror = () => resolve(false);
      image.src = url;
    }));
  }
  return loads.get(url);
}

// The newest frame at or before a step, else the first.
function frameAt(section, step) {
  const before = section.frames.filter((frame) => frame.at <= step);
  return before.length ? before[before.length - 1] : section.frames[0];
}

const urls = (pane, frame) => frame.rows.map((row) => row && pane.run.folder + row[0]);

function rowNames({ real, shown }) {
  return [`real ${real}`, `fake ${shown}`, `reconstructed ${real}`].slice(0, page.rows.length);
}

// Whether any run that is shown has a row ("fake" is 1) in a section; a DTN lacks some.
function hasRow(number, row) {
  const frames = runs().flatMap((run) => run.sections[number].frames);
  return !frames.length || frames.some((frame) => frame.rows[row]);
}

function tile(frame, row, face) {
  const index = frame.rows[row][1] + face, unit = frame.size + frame.padding;
  const x = index % frame.columns, y = Math.floor(index / frame.columns);
  const span = make("span", { className: `tile row${row}` });
  span.style.setProperty("--x", -(frame.padding + x * unit) / frame.size);
  span.style.setProperty("--y", -(frame.padding + y * unit) / frame.size);
  return span;
}

function setGrid(element, pane, frame) {
  const width = frame.columns * (frame.size + frame.padding) + frame.padding;
  element.style.setProperty("--size", frame.size);
  element.style.setProperty("--wide", width / frame.size);
  urls(pane, frame).forEach((url, row) => {
    if (url) element.style.setProperty(`--file${row}`, `url("${url}")`);
  });
}

// A section for each direction, with a pane for each run that is shown; returns the panes.
function buildSections() {
  const panes = [], compared = page.runs.length > 1;
  const sections = page.runs[0].sections.map(({ real }, number) => {
    const box = make("div", { className: "panes" });
    runs().forEach((run, r) => {
      const pane = { run, number, section: run.sections[number], built: "" };
      pane.name = `${"AB"[r]}: ${run.name}`;
      pane.heading = make("h3", { hidden: !compared });
      pane.caption = make("p", { className: "quiet" });
      pane.faces = make("div");
      pane.film = make("div", { className: "film", hidden: true });
      const parts = [pane.heading, pane.caption, pane.faces, pane.film];
      pane.element = make("div", { className: "pane" }, ...parts);
      box.append(pane.element);
      panes.push(pane);
    });
    const from = real === "person" ? "Persons" : "Anime";
    const to = real === "person" ? "to anime" : "to persons";
    const title = hasRow(number, 1) ? `${from} ${to}` : `${from}, made again`;
    return make("section", {}, make("h2", {}, title), make("p", { className: "rows" }), box);
  });
  get("sections").className = compared ? "" : "one";
  get("sections").replaceChildren(...sections);
  return panes;
}

async function showPane(pane, step, late) {
  const frame = frameAt(pane.section, step), name = frame ? `${page.step} ${frame.at}` : "";
  pane.heading.textContent = frame ? `${pane.name}, ${name}` : pane.name;
  if (!frame) {
    pane.caption.textContent = "There are no grids yet.";
    return;
  }
  const files = urls(pane, frame).filter(Boolean);
  const there = await Promise.all(files.map(load));
  if (late()) return;
  const missing = files.filter((_, i) => !there[i]);
  const other = frame.at !== step && pane.heading.hidden;
  pane.caption.textContent = missing.length ? `${missing[0]} is missing or broken.`
    : other ? `No grid of ${page.step} ${step}; this is ${name}.` : "";
  pane.faces.style.visibility = missing.length ? "hidden" : "";
  setGrid(pane.element, pane, frame);
  buildFaces(pane, frame);
  for (const button of pane.film.querySelectorAll("button")) {
    button.setAttribute("aria-current", button.dataset.at === String(frame.at));
  }
}

// Tiles are made anew only when another layout asks for it; else their file alone changes.
function buildFaces(pane, frame) {
  const names = rowNames(pane.section);
  const rows = [...names.keys()].filter((row) => state.shown[row] && frame.rows[row]);
  const layout = JSON.stringify([frame.count, frame.columns, frame.size, rows, state.face]);
  if (pane.built === layout) return;
  pane.built = layout;
  pane.faces.className = state.face ? "faces alone" : "faces";
  pane.faces.style.setProperty("--shown", rows.length);
  pane.film.hidden = true;
  if (state.face) {
    const face = Math.min(state.face[1], frame.count - 1);
    pane.faces.replaceChildren(...rows.map((row) => {
      const picture = tile(frame, row, face);
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", `${names[row]}, face ${face + 1}`);
      return make("figure", {}, picture, make("figcaption", {}, names[row]));
    }));
    buildFilm(pane, face);
    return;
  }
  const told = rows.map((row) => names[row]).join(", ");
  pane.faces.replaceChildren(...Array.from({ length: frame.count }, (_, face) => {
    const onclick = () => choose([pane.number, face]);
    const tiles = rows.map((row) => tile(frame, row, face));
    const button = make("button", { className: "face", onclick }, ...tiles);
    button.setAttribute("aria-label", `face ${face + 1}: ${told}; show it alone`);
    return button;
  }));
}

// The fake, or else the reconstruction, of one face through the epochs, evenly spread.
function buildFilm(pane, face) {
  const frames = pane.section.frames, count = Math.min(FILM, frames.length);
  pane.film.hidden = page.step !== "epoch" || count < 2;
  if (pane.film.hidden) return;
  const share = (frames.length - 1) / (count - 1);
  const chosen = Array.from({ length: count }, (_, i) => frames[Math.round(i * share)]);
  pane.film.replaceChildren(...chosen.map((frame) => {
    const picture = tile(frame, frame.rows[1] ? 1 : 2, Math.min(face, frame.count - 1));
    const button = make("button", { onclick: () => goTo(frame.at) }, picture);
    button.setAttribute("aria-label", `epoch ${frame.at}`);
    button.dataset.at = frame.at;
    const figure = make("figure", {}, button, make("figcaption", {}, String(frame.at)));
    setGrid(figure, pane, frame);
    return figure;
  }));
}
