"use strict";

// Curves of the log as SVG, drawn anew when the width changes so that their text keeps its size.

const SVG = "http://www.w3.org/2000/svg";
const DASHES = ["", "6 4", "2 3", "9 3 2 3"];
const HEIGHT = 210, TOP = 8, BOTTOM = 34, RIGHT = 12; // pixels
const DOTS = 25; // lines of so few points show each of them

function svg(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== undefined) element.textContent = text;
  return element;
}

// Round numbers from low to high, about `count` of them; the last is not below high.
function ticks(low, high, count, least = 0) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max(least, [1, 2, 5, 10].find((s) => s * power >= raw * 0.999) * power);
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

// A number as the axis of these ticks needs it.
function label(value, step) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || step < 1e-3) return value.toExponential(1).replace(/\.0(?=e)|\+/g, "");
  return value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
}

const short = (value) => String(Number(value.toPrecision(4)));

// Charts of the runs that are shown; returns functions that move their markers to an epoch.
function buildCharts() {
  const all = runs().flatMap((run) => run.charts), drawn = [];
  for (const title of new Set(all.map((chart) => chart.title))) {
    const lines = chartLines(title), figure = make("figure", { className: "chart" });
    const { mark } = all.find((chart) => chart.title === title);
    if (lines.length) drawn.push({ figure, draw: () => drawChart(figure, title, lines, mark) });
  }
  get("charts").replaceChildren(...drawn.map(({ figure }) => figure));
  if (!drawn.length) get("charts").append("No figures are logged yet.");
  return drawn.map(({ draw }) => draw()); // only now, since the drawing asks for its width
}

// Lines of one title over the runs that are shown: colour tells lines apart, or two runs.
function chartLines(title) {
  const lines = [];
  runs().forEach((run, r) => {
    const chart = run.charts.find((c) => c.title === title);
    (chart ? chart.lines : []).forEach(({ label, values }, i) => {
      const points = values.map((v, k) => [run.epochs[k], v]).filter(([, v]) => v !== null);
      const colour = compared ? r : i % 6, dash = compared ? i : Math.floor(i / 6);
      lines.push({
        name: compared ? `${"AB"[r]}: ${label}` : label,
        points,
        style: `stroke:var(--c${colour})`,
        dash: DASHES[dash % DASHES.length],
      });
    });
  });
  return lines.filter(({ points }) => points.length);
}

// Draws a chart into a figure; returns a function that moves its marker to an epoch.
function drawChart(figure, title, lines, mark) {
  const points = lines.flatMap((line) => line.points);
  const epochs = points.map((p) => p[0]), values = points.map((p) => p[1]);
  if (mark !== null) values.push(mark);
  const least = (list) => list.reduce((a, b) => Math.min(a, b));
  const most = (list) => list.reduce((a, b) => Math.max(a, b));
  let low = Math.min(0, least(values)), high = most(values);
  if (low === high) high = low + 1;
  const yTicks = ticks(low, high, 4), yStep = yTicks[1] - yTicks[0];
  [low, high] = [yTicks[0], yTicks[yTicks.length - 1]];
  const first = least(epochs), last = Math.max(most(epochs), first + 1);

  const names = yTicks.map((value) => label(value, yStep));
  const left = 12 + 7 * Math.max(...names.map((name) => name.length));
  const width = Math.max(200, figure.clientWidth - 24);
  const right = width - RIGHT, bottom = HEIGHT - BOTTOM;
  const x = (epoch) => left + ((epoch - first) / (last - first)) * (right - left);
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - TOP);

  const told = lines.map(({ name, points }) => [points[0], points[points.length - 1]]
    .map(([epoch, value], i) => `${i ? "" : name} ${short(value)} at epoch ${epoch}`)).join("; ");
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img" });
  drawing.setAttribute("aria-label", `${title}: ${told}`);
  const line = (name, x1, y1, x2, y2) => svg("line", { class: name, x1, y1, x2, y2 });
  const text = (x, y, anchor, words) => svg("text", { x, y, "text-anchor": anchor }, words);
  yTicks.forEach((value, i) => {
    drawing.append(line("frame", left, y(value), right, y(value)));
    drawing.append(text(left - 6, y(value) + 4, "end", names[i]));
  });
  for (const epoch of ticks(first, last, Math.max(2, width / 65), 1)) {
    if (epoch < first || epoch > last) continue;
    drawing.append(line("frame", x(epoch), bottom, x(epoch), bottom + 4));
    drawing.append(text(x(epoch), bottom + 17, "middle", String(epoch)));
  }
  drawing.append(text(right, HEIGHT - 2, "end", "epoch"));
  if (mark !== null) drawing.append(line("level", left, y(mark), right, y(mark)));
  const now = line("now", left, TOP, left, bottom);
  drawing.append(now);
  for (const { points, style, dash } of lines) {
    const places = points.map(([epoch, value]) => [x(epoch).toFixed(1), y(value).toFixed(1)]);
    const d = `M${places.map((place) => place.join(" ")).join("L")}`;
    drawing.append(svg("path", { d, style, "stroke-dasharray": dash }));
    const fill = style.replace("stroke", "fill");
    if (points.length > DOTS) continue;
    for (const [cx, cy] of places) drawing.append(svg("circle", { cx, cy, r: 2.5, style: fill }));
  }
  drawing.addEventListener("click", (event) => {
    const box = drawing.getBoundingClientRect();
    const at = ((event.clientX - box.left) * width) / box.width;
    goTo(first + ((at - left) / (right - left)) * (last - first));
  });

  const numbers = lines.map(() => make("b"));
  const legend = make("ul", { className: "legend" }, ...lines.map(({ name, style, dash }, i) => {
    const swatch = svg("svg", { "aria-hidden": "true" });
    swatch.append(svg("path", { d: "M0 4H22", style, "stroke-dasharray": dash }));
    return make("li", {}, swatch, `${name} `, numbers[i]);
  }));
  figure.replaceChildren(make("h3", {}, title), drawing, legend);

  return (epoch) => {
    const inside = epoch >= first && epoch <= last;
    now.setAttribute("visibility", inside ? "visible" : "hidden");
    for (const end of ["x1", "x2"]) now.setAttribute(end, inside ? x(epoch).toFixed(1) : left);
    lines.forEach(({ points }, i) => {
      const known = points.filter((p) => p[0] <= epoch);
      numbers[i].textContent = known.length ? short(known[known.length - 1][1]) : "–";
    });
  };
}
