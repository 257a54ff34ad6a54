// Line charts as SVG, with the latest and best values and the values at the pointer.

import { h, svg } from "./dom.js";

const WIDTH = 360, HEIGHT = 150;
const LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 22;

/**
 * @param title of the chart
 * @param lines [{ name, x: [number], y: [number|null] }]
 */
export function curve(title, lines, { unit = "images", log = false, best = null } = {}) {
  const figure = h("figure", { class: "chart" });
  const drawn = lines.map((line, place) => ({ ...line, place, points: points(line) })).filter((line) => line.points.length);
  const all = drawn.flatMap((line) => line.points);
  if (!all.length) return h("figure", { class: "chart" }, h("figcaption", {}, h("strong", {}, title)), h("p", { class: "hint" }, "No data yet."));
  let [low, high] = extent(all.map((point) => point[1]));
  const isLog = log && low > 0;
  const rise = isLog ? Math.log10 : (v) => v;
  if (low === high) [low, high] = isLog ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  const [from, to] = extent(all.map((point) => point[0]));
  const across = (x) => LEFT + ((x - from) / (to - from || 1)) * (WIDTH - LEFT - RIGHT);
  const up = (y) => HEIGHT - BOTTOM - ((rise(y) - rise(low)) / (rise(high) - rise(low))) * (HEIGHT - TOP - BOTTOM);
  const told = drawn.map((line) => `${line.name}: ${short(line.points.at(-1)[1])}`).join(", ");
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${told}` });
  for (const value of ticks(low, high, isLog)) {
    chart.append(svg("line", { class: "rule", x1: LEFT, x2: WIDTH - RIGHT, y1: up(value), y2: up(value) }),
      textAt(LEFT - 6, up(value) + 3, "end", short(value)));
  }
  chart.append(textAt(LEFT, HEIGHT - 6, "start", count(from)), textAt(WIDTH - RIGHT, HEIGHT - 6, "end", `${count(to)} ${unit}`));
  for (const line of drawn) {
    const path = line.points.map(([x, y], i) => `${i ? "L" : "M"}${across(x).toFixed(1)} ${up(y).toFixed(1)}`).join("");
    chart.append(svg("path", { class: `line n${(line.colour ?? line.place) % 6} ${["", "dashed", "dotted"][line.stroke ?? 0]}`, d: path }));
    if (line.points.length === 1) {
      const [[x, y]] = line.points;
      chart.append(svg("circle", { class: `dot n${(line.colour ?? line.place) % 6}`, cx: across(x), cy: up(y), r: 2.5 }));
    }
  }
  const reading = svg("line", { class: "reading", y1: TOP, y2: HEIGHT - BOTTOM, x1: -9, x2: -9 });
  chart.append(reading);
  const legend = h("span", { class: "legend" });
  const tell = (at) => legend.replaceChildren(...drawn.map((line) => {
    const point = at === null ? line.points.at(-1) : line.points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
    return h("span", { class: `key n${(line.colour ?? line.place) % 6} ${["", "dashed", "dotted"][line.stroke ?? 0]}` }, `${line.name} ${short(point[1])}`);
  }));
  tell(null);
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const at = from + ((Math.min(WIDTH - RIGHT, Math.max(LEFT, x)) - LEFT) / (WIDTH - LEFT - RIGHT)) * (to - from);
    reading.setAttribute("x1", across(at));
    reading.setAttribute("x2", across(at));
    tell(at);
  });
  chart.addEventListener("pointerleave", () => {
    reading.setAttribute("x1", -9);
    reading.setAttribute("x2", -9);
    tell(null);
  });
  figure.append(h("figcaption", {}, h("strong", {}, title), best ? h("span", { class: "hint" }, best) : "", legend), chart);
  return figure;
}

function points({ x, y }) {
  return x.map((value, i) => [value, y[i]]).filter(([a, b]) => Number.isFinite(a) && Number.isFinite(b));
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high];
}

function ticks(low, high, isLog) {
  if (isLog) {
    const found = [];
    for (let power = Math.ceil(Math.log10(low)); power <= Math.log10(high); power++) found.push(10 ** power);
    if (found.length >= 2) return found.length > 5 ? found.filter((_, i) => i % 2 === 0) : found;
    return [low, high];
  }
  const rough = (high - low) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(Math.abs(value) < step * 1e-6 ? 0 : value);
  return found;
}

function textAt(x, y, anchor, text) {
  const element = svg("text", { x, y, "text-anchor": anchor });
  element.textContent = text;
  return element;
}

export function short(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 100000)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

export function count(images) {
  if (images < 1000) return String(Math.round(images));
  return images < 1e6 ? `${Number((images / 1e3).toPrecision(3))}k` : `${Number((images / 1e6).toPrecision(3))}M`;
}

export function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const [large, small] = whole < 3600 ? [[60, "min"], [1, "s"]] : [[3600, "h"], [60, "min"]];
  const rest = Math.floor((whole % large[0]) / small[0]);
  return `${Math.floor(whole / large[0])} ${large[1]}${rest ? ` ${rest} ${small[1]}` : ""}`;
}
