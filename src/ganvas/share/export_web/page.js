"use strict";

const model = JSON.parse(document.getElementById("values").textContent);
const $ = (id) => document.getElementById(id);
const [WIDTH, HEIGHT, CHANNELS] = [model.width, model.height, model.channels];
const NUM_CLASSES = model.classes.length;
const PAGE = 12; // images added to the gallery at a time
const LARGEST_SEED = 2 ** 53 - 1;

// -- seeds: the same latents as numpy.random.default_rng(seed).standard_normal(dtype=float32) in Python --

// O'Neill's seed sequence (2015) expands a seed to 256 bits, which initialise a PCG XSL-RR 128/64 (O'Neill 2014).
function randomBits(seed) {
  const words = [];
  for (let rest = BigInt(seed); words.length === 0 || rest > 0n; rest >>= 32n) words.push(Number(rest & 0xffffffffn));
  const hasher = (start, factor) => (value) => {
    value ^= start;
    start = Math.imul(start, factor);
    value = Math.imul(value, start);
    return (value ^ (value >>> 16)) >>> 0;
  };
  const blend = (a, b) => {
    const value = Math.imul(0xca01f9dd, a) - Math.imul(0x4973f715, b);
    return (value ^ (value >>> 16)) >>> 0;
  };
  const gather = hasher(0x43b0d7e5, 0x931e8875);
  const pool = [0, 1, 2, 3].map((i) => gather(words[i] ?? 0));
  for (let from = 0; from < 4; from++)
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = blend(pool[to], gather(pool[from]));
  const spread = hasher(0x8b51f9dd, 0x58f38ded);
  const bits = Array.from({ length: 8 }, (_, i) => BigInt(spread(pool[i % 4])));
  const start = [0, 2, 4, 6].map((i) => bits[i] | (bits[i + 1] << 32n));

  const whole = (1n << 128n) - 1n;
  const factor = (2549297995355413924n << 64n) | 4865540595714422341n;
  const step = ((((start[2] << 64n) | start[3]) << 1n) | 1n) & whole;
  const next = (state) => (state * factor + step) & whole;
  let state = next((step + ((start[0] << 64n) | start[1])) & whole);
  let kept = null; // the upper half of the last 64 bits
  return () => {
    if (kept !== null) {
      const upper = kept;
      kept = null;
      return upper;
    }
    state = next(state);
    const turned = BigInt.asUintN(64, (state >> 64n) ^ state);
    const by = state >> 122n;
    const out = BigInt.asUintN(64, (turned >> by) | (turned << (64n - by)));
    kept = Number(out >> 32n);
    return Number(out & 0xffffffffn);
  };
}

// Ziggurat with 256 layers of equal area under the normal density (Marsaglia and Tsang 2000), in float32.
const layers = (() => {
  const edge = 3.6541528853610088, area = 0.00492867323399;
  const density = (x) => Math.exp(-0.5 * x * x);
  const [within, width, height] = [new Uint32Array(256), new Float32Array(256), new Float32Array(256)];
  let outer = edge;
  within[0] = (edge * density(edge) / area) * 2 ** 23;
  [width[0], height[0]] = [area / density(edge) / 2 ** 23, 1];
  [width[255], height[255]] = [edge / 2 ** 23, density(edge)];
  for (let i = 254; i > 0; i--) {
    const x = Math.sqrt(-2 * Math.log(area / outer + density(outer)));
    within[i + 1] = (x / outer) * 2 ** 23;
    [width[i], height[i]] = [x / 2 ** 23, density(x)];
    outer = x;
  }
  return { edge, within, width, height };
})();

function normalNumber(bits) {
  const uniform = () => (bits() >>> 8) / 2 ** 24;
  for (;;) {
    const drawn = bits();
    const layer = drawn & 255, place = drawn >>> 9;
    const x = Math.fround(place * layers.width[layer]) * (drawn & 256 ? -1 : 1);
    if (place < layers.within[layer]) return x;
    if (layer > 0) {
      const [low, high] = [layers.height[layer], layers.height[layer - 1]];
      if ((high - low) * uniform() + low < Math.exp(-0.5 * x * x)) return x;
      continue;
    }
    for (;;) { // tail of the distribution
      const far = -Math.log1p(-uniform()) / layers.edge, chance = -Math.log1p(-uniform());
      if (2 * chance > far * far) return Math.fround((layers.edge + far) * ((place >>> 8) & 1 ? -1 : 1));
    }
  }
}

function latentOf(seed) {
  const bits = randomBits(seed);
  return Float32Array.from({ length: model.zDim }, () => normalNumber(bits));
}

// Spherical interpolation (Shoemake 1985) with linear interpolation of the lengths.
function between(a, b, share) {
  const dot = (u, v) => u.reduce((sum, x, i) => sum + x * v[i], 0);
  const [longA, longB] = [Math.sqrt(dot(a, a)), Math.sqrt(dot(b, b))].map((x) => Math.max(x, 1e-5));
  const angle = Math.acos(Math.min(1, Math.max(-1, dot(a, b) / longA / longB)));
  const sine = Math.sin(angle);
  if (sine < 1e-3) return a.map((x, i) => x + share * (b[i] - x));
  const long = longA + share * (longB - longA);
  const [p, q] = [Math.sin((1 - share) * angle) / sine / longA, Math.sin(share * angle) / sine / longB];
  return a.map((x, i) => long * (p * x + q * b[i]));
}

// -- the model --

let session = null;
let queue = Promise.resolve(); // the runtime handles one call at a time

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is missing (${answer.status}): copy the whole folder to the host`);
  return new Uint8Array(await answer.arrayBuffer());
}

function script(address) {
  return new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.src = address;
    element.onload = resolve;
    element.onerror = () => reject(new Error(`${address} is missing: copy the whole folder`));
    document.head.append(element);
  });
}

async function loaded() {
  const fromDisk = location.protocol === "file:";
  if (fromDisk && !model.offline)
    throw new Error(
      "This model is too large for a page opened from disk. Start a server in this folder, for example " +
        "“python -m http.server”, and open the address that it prints."
    );
  await script("runtime/ort.wasm.min.js");
  if (fromDisk) await script("offline.js");
  const part = (place, name) => (fromDisk ? unpacked(window.offline[name]) : fetched(place + name));
  const [glue, wasm, weights] = await Promise.all([
    part("runtime/", "ort-wasm-simd-threaded.mjs"),
    part("runtime/", "ort-wasm-simd-threaded.wasm"),
    part("", fromDisk ? "model" : "model.onnx"),
  ]);
  window.offline = null;
  // A blob, because some hosts serve .mjs files with a wrong content type.
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([glue], { type: "text/javascript" })) };
  ort.env.wasm.wasmBinary = wasm.buffer;
  ort.env.wasm.numThreads = 1;
  session = await ort.InferenceSession.create(weights, { executionProviders: ["wasm"] });
}

// Weights of the combinations of conditions -> the mean of their vectors.
function vectorOf(weights) {
  const mean = new Float32Array(model.vectors[0].length);
  weights.forEach((weight, k) => { if (weight) model.vectors[k].forEach((x, i) => { mean[i] += weight * x; }); });
  return mean;
}

// latents: Float32Arrays; labels: arrays of class weights -> {pictures, code}, flat Float32Arrays
function run(latents, labels, truncation) {
  const flat = (rows, width) => {
    const all = new Float32Array(rows.length * width);
    rows.forEach((row, i) => all.set(row, i * width));
    return new ort.Tensor("float32", all, [rows.length, width]);
  };
  const given = { z: flat(latents, model.zDim), truncation: new ort.Tensor("float32", [truncation], []) };
  if (model.vectors) given.conditions = flat(labels.map(vectorOf), model.vectors[0].length);
  else if (NUM_CLASSES) given.label = flat(labels, NUM_CLASSES);
  const result = queue.then(() => session.run(given));
  queue = result.catch(() => {});
  return result.then((found) => ({ pictures: found.pictures.data, code: found.code.data }));
}

// -- images --

const NUMBERS = WIDTH * HEIGHT * CHANNELS; // values per image

// One image (C, H, W) in [-1, 1] -> integers from 0 to top (H, W, C).
function toPixels(picture, top) {
  const pixels = top > 255 ? new Uint16Array(NUMBERS) : new Uint8Array(NUMBERS);
  const area = WIDTH * HEIGHT;
  for (let i = 0; i < area; i++)
    for (let c = 0; c < CHANNELS; c++)
      pixels[i * CHANNELS + c] = Math.round((Math.min(1, Math.max(-1, picture[c * area + i])) + 1) * (top / 2));
  return pixels;
}

function draw(canvas, picture) {
  const pixels = toPixels(picture, 255);
  const image = new ImageData(WIDTH, HEIGHT);
  for (let i = 0; i < WIDTH * HEIGHT; i++) {
    const at = i * CHANNELS;
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[CHANNELS < 3 ? at : at + c];
    image.data[4 * i + 3] = CHANNELS === 2 || CHANNELS === 4 ? pixels[at + CHANNELS - 1] : 255;
  }
  [canvas.width, canvas.height] = [WIDTH, HEIGHT];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const checks = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function chunk(kind, content) {
  const bytes = new Uint8Array(content.length + 12);
  bytes.set(new TextEncoder().encode(kind), 4);
  bytes.set(content, 8);
  let check = 0xffffffff;
  for (const byte of bytes.subarray(4, -4)) check = checks[(check ^ byte) & 255] ^ (check >>> 8);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  view.setUint32(content.length + 8, ~check >>> 0);
  return bytes;
}

// A PNG file with exactly these pixel values and with metadata (PNG specification, W3C 2003).
async function png(picture, recipe) {
  const deep = model.depth === 16 && CHANNELS === 1; // as in Python, where colour PNGs have 8 bits
  const pixels = toPixels(picture, deep ? 65535 : 255);
  const line = WIDTH * CHANNELS * (deep ? 2 : 1);
  const rows = new Uint8Array(HEIGHT * (line + 1)); // each row begins with 0: no filter
  const view = new DataView(rows.buffer);
  for (let y = 0; y < HEIGHT; y++)
    for (let x = 0; x < WIDTH * CHANNELS; x++) {
      const [at, value] = [y * (line + 1) + 1, pixels[y * WIDTH * CHANNELS + x]];
      deep ? view.setUint16(at + 2 * x, value) : view.setUint8(at + x, value);
    }
  const stream = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, WIDTH);
  header.setUint32(4, HEIGHT);
  header.setUint8(8, deep ? 16 : 8);
  header.setUint8(9, [0, 0, 4, 2, 6][CHANNELS]);
  const own = JSON.stringify({ synthetic: true, model: model.hash, recipe });
  const ascii = own.replace(/[\u007f-\uffff]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  const texts = Object.entries({ ...model.texts, ganvas: ascii }).map(([key, text]) =>
    /^[\x00-\x7e]*$/.test(text) && !key.startsWith("XML:")
      ? chunk("tEXt", new TextEncoder().encode(`${key}\0${text}`))
      : chunk("iTXt", new TextEncoder().encode(`${key}\0\0\0\0\0${text}`))
  );
  return new Blob(
    [
      new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]),
      chunk("IHDR", new Uint8Array(header.buffer)),
      ...texts,
      chunk("IDAT", new Uint8Array(await new Response(stream).arrayBuffer())),
      chunk("IEND", new Uint8Array(0)),
    ],
    { type: "image/png" }
  );
}

// -- state of the page --

const state = {
  seed: 0, label: 0, to: 1, toLabel: 0, share: 0, truncation: 1,
  sliders: model.sliders.map(() => 0),
  latent: null, // from the address; replaces the seed
};
let shown = null; // {picture, code, label, recipe, name}

const randomSeed = () => Math.floor(Math.random() * 1e6);
const weightsOf = (label) => Array.from({ length: NUM_CLASSES }, (_, i) => (i === label ? 1 : 0));
const isPlain = () => state.share === 0 && state.sliders.every((amount) => amount === 0);

function latentNow() {
  let z = Array.from(state.latent ?? latentOf(state.seed));
  state.sliders.forEach((amount, k) => {
    if (amount) z = z.map((x, i) => x + amount * model.sliders[k][i]);
  });
  return state.share ? between(z, Array.from(latentOf(state.to)), state.share) : z;
}

function labelNow() {
  const [from, to] = [weightsOf(state.label), weightsOf(state.toLabel)];
  return from.map((x, i) => x + state.share * (to[i] - x));
}

function recipeNow(code, label) {
  if (isPlain() && state.latent === null)
    return {
      seed: state.seed,
      ...(NUM_CLASSES ? { label: model.classes[state.label] } : {}),
      ...(state.truncation === 1 ? {} : { truncation: state.truncation }),
    };
  const named = Object.fromEntries(label.map((weight, i) => [model.classes[i], weight]).filter(([, w]) => w));
  return { code: [Array.from(code)], ...(NUM_CLASSES ? { label: named } : {}) };
}

function caption() {
  const one = (seed, label) => `seed ${seed}` + (NUM_CLASSES ? `, ${model.vectors ? "" : "class "}${model.classes[label]}` : "");
  const parts = [state.latent === null ? one(state.seed, state.label) : "latent from the address"];
  if (state.share) parts.push(`morphed ${Math.round(100 * state.share)}% to ${one(state.to, state.toLabel)}`);
  if (state.sliders.some((amount) => amount)) parts.push("edited");
  if (state.truncation !== 1) parts.push(`truncation ${state.truncation}`);
  return parts.join("; ");
}

let wanted = false, drawing = null;

// Draw the latest state; changes made while drawing are combined into one more image.
function refresh() {
  wanted = true;
  drawing ??= (async () => {
    while (wanted) {
      wanted = false;
      const [label, name] = [labelNow(), caption()];
      const { pictures, code } = await run([latentNow()], [label], state.truncation);
      shown = { picture: pictures, recipe: recipeNow(code, label), name };
      draw($("picture"), pictures);
      $("picture").setAttribute("aria-label", `Synthetic image: ${name}`);
      $("caption").textContent = name;
      remember();
      await new Promise((resolve) => setTimeout(resolve)); // keep the page responsive
    }
  })()
    .catch(fail)
    .finally(() => (drawing = null));
  return drawing;
}

let remembering = null;

// Store the settings in the address, so that it can be shared. Delayed, because browsers limit how often it may change.
function remember() {
  clearTimeout(remembering);
  remembering = setTimeout(() => history.replaceState(null, "", `#${address()}`), 250);
}

function address() {
  const values = new URLSearchParams();
  if (state.latent) values.set("latent", Array.from(state.latent).join(","));
  else values.set("seed", state.seed);
  if (NUM_CLASSES) values.set("class", model.classes[state.label]);
  if (state.truncation !== 1) values.set("truncation", state.truncation);
  if (state.share) {
    values.set("to", state.to);
    if (NUM_CLASSES) values.set("to_class", model.classes[state.toLabel]);
    values.set("share", state.share);
  }
  if (state.sliders.some((amount) => amount)) values.set("sliders", state.sliders.join(","));
  return values;
}

function recall() {
  const values = new URLSearchParams(location.hash.slice(1));
  const number = (name, low, high, otherwise) => {
    const value = values.has(name) ? Number(values.get(name)) : NaN;
    return value >= low && value <= high ? value : otherwise;
  };
  const label = (name, otherwise) => {
    const found = model.classes.indexOf(values.get(name));
    return found < 0 ? otherwise : found;
  };
  state.seed = Math.floor(number("seed", 0, LARGEST_SEED, 0));
  state.to = Math.floor(number("to", 0, LARGEST_SEED, state.seed + 1));
  state.label = label("class", NUM_CLASSES ? state.seed % NUM_CLASSES : 0);
  state.toLabel = label("to_class", NUM_CLASSES ? state.to % NUM_CLASSES : 0);
  state.truncation = number("truncation", 0, 1, 1);
  state.share = number("share", 0, 1, 0);
  const numbers = (name) => (values.get(name) ?? "").split(",").map(Number);
  const amounts = numbers("sliders");
  state.sliders = model.sliders.map((_, k) => (Math.abs(amounts[k]) <= 5 ? amounts[k] : 0));
  const latent = numbers("latent");
  const usable = values.get("latent") && latent.length === model.zDim && latent.every(Number.isFinite);
  state.latent = usable ? Float32Array.from(latent) : null;
}

// -- controls --

function show() {
  $("seed").value = state.seed;
  $("to").value = state.to;
  if (NUM_CLASSES) [$("class").value, $("to_class").value] = [state.label, state.toLabel];
  for (const [id, value] of [["truncation", state.truncation], ["share", state.share]]) {
    $(id).value = value;
    $(`${id}_value`).textContent = value.toFixed(2);
  }
  state.sliders.forEach((amount, k) => {
    $(`slider_${k}`).value = amount;
    $(`slider_${k}_value`).textContent = amount.toFixed(1);
  });
  for (const button of document.querySelectorAll("#gallery button"))
    button.setAttribute("aria-pressed", String(!state.latent && Number(button.dataset.seed) === state.seed));
}

function change(values) {
  Object.assign(state, values);
  show();
  return refresh();
}

// Change only the seed; keep all other settings.
function toSeed(value) {
  if (Number.isInteger(value) && value >= 0 && value <= LARGEST_SEED) change({ seed: value, latent: null });
  else show();
}

let playing = false;

async function play() {
  playing = !playing;
  $("play").textContent = playing ? "Stop" : "Play";
  $("play").setAttribute("aria-pressed", String(playing));
  $("caption").setAttribute("aria-live", playing ? "off" : "polite");
  let phase = Math.acos(1 - 2 * state.share), before = performance.now();
  while (playing) {
    await change({ share: (1 - Math.cos(phase)) / 2 });
    const now = await new Promise(requestAnimationFrame);
    phase += (Math.min(now - before, 100) * Math.PI) / 3000; // three seconds each way
    before = now;
  }
}

async function save() {
  const address = URL.createObjectURL(await png(shown.picture, shown.recipe));
  const link = document.createElement("a");
  link.href = address;
  link.download = `${model.name}-${shown.name}.png`.replace(/[^\w.-]+/g, "-");
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

let gallerySize = 0;

async function more() {
  $("more").disabled = true;
  const first = gallerySize;
  gallerySize += PAGE;
  const buttons = Array.from({ length: PAGE }, (_, i) => {
    const seed = first + i, label = NUM_CLASSES ? seed % NUM_CLASSES : 0;
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.seed = seed;
    button.title = `Seed ${seed}` + (NUM_CLASSES ? `, ${model.classes[label]}` : "");
    button.setAttribute("aria-label", button.title);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [WIDTH, HEIGHT];
    button.append(canvas);
    button.onclick = () => {
      change({ seed, label, latent: null, share: 0, sliders: model.sliders.map(() => 0) });
      $("picture").scrollIntoView({ block: "nearest" });
    };
    return button;
  });
  $("gallery").append(...buttons);
  show();
  const step = WIDTH * HEIGHT > 128 * 128 ? 1 : 4;
  for (let i = 0; i < PAGE; i += step) {
    const seeds = Array.from({ length: step }, (_, j) => first + i + j);
    const labels = seeds.map((seed) => weightsOf(seed % NUM_CLASSES));
    const { pictures } = await run(seeds.map(latentOf), labels, 1);
    seeds.forEach((_, j) => draw(buttons[i + j].firstChild, pictures.subarray(j * NUMBERS, (j + 1) * NUMBERS)));
    await new Promise((resolve) => setTimeout(resolve));
  }
  $("more").disabled = false;
}

function fail(error) {
  $("status").textContent = error.message;
  $("status").hidden = false;
  $("status").classList.add("wrong");
  document.body.classList.remove("loading");
  console.warn(error);
}

function connect() {
  for (const id of ["class", "to_class"]) {
    if (!NUM_CLASSES) break;
    model.classes.forEach((name, i) => $(id).append(new Option(name, i)));
  }
  $("seed").onchange = () => toSeed($("seed").valueAsNumber);
  $("random").onclick = () => toSeed(randomSeed());
  $("to").onchange = () => {
    const value = $("to").valueAsNumber;
    Number.isInteger(value) && value >= 0 && value <= LARGEST_SEED ? change({ to: value }) : show();
  };
  $("random_to").onclick = () => change({ to: randomSeed(), share: state.share || 0.5 });
  if (NUM_CLASSES) {
    $("class").onchange = () => change({ label: Number($("class").value) });
    $("to_class").onchange = () => change({ toLabel: Number($("to_class").value) });
  }
  for (const id of ["truncation", "share"]) $(id).oninput = () => change({ [id]: $(id).valueAsNumber });
  state.sliders.forEach((_, k) => {
    $(`slider_${k}`).oninput = () => {
      state.sliders[k] = $(`slider_${k}`).valueAsNumber;
      change({});
    };
  });
  $("reset").onclick = () => change({ sliders: model.sliders.map(() => 0) });
  $("play").onclick = play;
  $("save").onclick = save;
  $("more").onclick = () => more().catch(fail);
  window.onhashchange = () => {
    recall();
    change({});
  };
}

recall();
connect();
show();
const ready = loaded()
  .then(async () => {
    $("status").hidden = true;
    document.body.classList.remove("loading");
    for (const element of document.querySelectorAll("fieldset")) element.disabled = false;
    await refresh();
    more().catch(fail);
  })
  .catch(fail);
window.ganvas = { ready, run, latentOf, png, state, shown: () => shown, settled: () => drawing }; // for tests
