// Follow a training run: progress, scores, warnings, preview images; optionally compared with other runs.

import { RunActions } from "./actions.js";
import { ask } from "./client.js";
import { count, curve, duration, short } from "./charts.js";
import { $, h, say, sayError, slider } from "./dom.js";
import { ImagePicker } from "./images.js";
import { comparison, labelled } from "./compare.js";
import { capital } from "./jobs.js";
import { percent } from "./recipes.js";

const EVERY = 2000; // milliseconds between updates
const MOST = 6; // runs that are compared
const STATES = {
  starting: "starting", training: "training", stopping: "stopping", finished: "finished", stopped: "stopped",
  waiting: "not started", failed: "failed", model: "model",
};
const CHARTS = [
  ["Distance to real images (KID)", [["score", "score"]], { log: true, from: "vitals", lower: true }],
  ["Quality and diversity", [["precision", "precision"], ["recall", "recall"], ["diversity", "diversity"]], { from: "vitals" }],
  ["Discriminator", [["d_real", "D(real)"], ["d_fake", "D(fake)"]], {}],
  ["Loss", [["loss", "loss"]], {}],
  ["Gradients", [["g_norm", "generator"], ["d_norm", "discriminator"]], { log: true }],
  ["Penalty and augmentation", [["penalty", "penalty"], ["augment", "augmentation"]], {}],
  ["Checkerboard artefacts and sharpness (1 = like real images)", [["checkerboard", "artefacts"], ["sharpness", "sharpness"]], { from: "vitals" }],
  ["Overfitting and copying", [["d_gap", "discriminator gap"], ["near", "near neighbours"]], { from: "vitals" }],
  ["Speed", [["images_per_second", "images/s"]], {}],
];

export class Watch {
  constructor(hooks) {
    this.hooks = hooks; // { remember(values), explore(name) }
    this.allowed = false; // whether trainings and evaluations may be started here
    this.models = [];
    this.others = []; // names of the runs that are compared with the chosen one
    this.actions = new RunActions({ explore: (name) => hooks.explore(name), changed: () => this.look() });
    this.tags = new Map();
    this.told = new Map();
    this.runs = h("ul", { class: "runs", "aria-label": "Runs" });
    this.main = h("div", { class: "run" });
    $("watch").append(h("nav", { class: "side", "aria-label": "Runs" }, this.title = h("h2", {}, "Runs"), this.runs), this.main);
    document.addEventListener("visibilitychange", () => this.look());
  }

  /** others: names of the runs to compare with, in lines. */
  async start({ run, others } = {}) {
    this.open = true;
    if (run) this.name = run;
    if (others !== undefined) this.others = others.split("\n").filter((name) => name && name !== this.name).slice(0, MOST - 1);
    await this.look();
  }

  /** info: answer of GET api/new. models: names of the models without a run. */
  know(info, models) {
    Object.assign(this, { info, models, allowed: info.allowed });
  }

  stop() {
    this.open = false;
    clearTimeout(this.timer);
  }

  /** Update the view periodically while the page is visible. */
  async look() {
    clearTimeout(this.timer);
    if (!this.open || document.hidden) return;
    try {
      const [{ runs: known }, { trainings }] = await Promise.all([ask("api/runs"), ask("api/trainings")]);
      const runs = [...known, ...trainings.filter((one) => !known.some((run) => run.name === one.run)).map(begun),
        ...(this.allowed ? this.models : []).map(model)];
      await this.actions.update(this.allowed, trainings);
      this.drawRuns(runs);
      if (!runs.some((one) => one.name === this.name)) this.name = (runs.find((one) => one.state === "training") ?? runs[0])?.name;
      this.others = this.others.filter((other) => runs.some((one) => one.name === other && !one.begun));
      if (!this.name) {
        this.main.replaceChildren(h("h1", {}, "Training"), h("p", { class: "hint" }, "No training run in this folder. ", this.info.new ? h("a", { href: "#train" }, "Start a new training")
          : ["Start one with ", h("code", {}, "ganvas train")], "."));
      } else if (runs.find((one) => one.name === this.name).begun) {
        this.drawn = "";
        this.drawBegun(runs.find((one) => one.name === this.name));
      } else {
        const changed = (await Promise.all(this.compared().map((name) => this.ask(name)))).some(Boolean);
        if (changed || this.drawn !== this.key()) {
          this.draw(runs);
          await this.compare();
        }
      }
      this.failed = "";
    } catch (error) {
      if (this.failed !== error.message) sayError(error);
      this.failed = error.message;
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), EVERY);
  }

  async ask(name) {
    const known = this.tags.get(name);
    const response = await ask("api/run", {
      query: { run: name }, raw: true, headers: known ? { "if-none-match": known } : {},
    });
    if (response.status === 304) return false;
    const tag = response.headers.get("etag");
    const told = await response.json();
    if (known === tag && this.told.has(name)) return false;
    this.tags.set(name, tag);
    this.told.set(name, told);
    return true;
  }

  drawRuns(runs) {
    const told = JSON.stringify([runs, this.name]);
    if (told === this.runsDrawn) return;
    this.runsDrawn = told;
    this.title.textContent = runs.some((one) => one.isModel) ? "Runs and models" : "Runs";
    this.runs.replaceChildren(...runs.map((one) => h("li", {}, h("button", {
      "aria-current": one.name === this.name ? "true" : false,
      onclick: () => this.choose(one.name),
    }, h("span", { class: "name" }, one.title), h("span", { class: `pill ${one.state}` }, STATES[one.state]),
    one.begun ? "" : h("span", { class: "hint" }, `${percent(one.progress)} · ${count(one.images)} images`)))));
  }

  /** A training that has no run folder yet. */
  drawBegun(run) {
    const key = JSON.stringify(run);
    if (this.begunDrawn === key && this.main.firstChild?.dataset?.begun) return;
    this.begunDrawn = key;
    this.actions.take(run);
    this.main.replaceChildren(h("div", { class: "head", "data-begun": run.name },
      title(run),
      run.state === "starting" ? h("progress", { "aria-label": "Starting" }) : "",
      h("p", { class: "facts", role: "status" }, capital(run.sentence || "The training is starting.")),
      this.actions.element,
      run.isModel ? h("section", { "aria-label": "Evaluate" }, h("h2", {}, "Evaluate with its training images"),
        new ImagePicker(this.info, { chosen: (source) => this.actions.evaluate(source) }, { tab: "folder" }).element) : ""));
  }

  choose(name) {
    this.name = name;
    this.others = this.others.filter((other) => other !== name);
    this.remember();
    this.look();
  }

  remember() {
    this.hooks.remember({ run: this.name, with: this.others.join("\n") });
  }

  /** Names of the runs that are shown. */
  compared() {
    return [this.name, ...this.others];
  }

  key() {
    return JSON.stringify(this.compared());
  }

  // ---- one run ----

  draw(runs) {
    const run = this.told.get(this.name);
    const all = this.compared().map((name) => this.told.get(name));
    const fresh = this.drawn !== this.key();
    this.drawn = this.key();
    if (fresh) this.build(runs, run, all);
    if (this.renaming !== run.name || fresh) {
      const focused = document.activeElement?.id === "rename";
      this.head.replaceChildren(...this.header(run));
      if (focused) $("rename")?.focus();
    }
    this.actions.take(run);
    if (this.state && this.state !== run.state) say(`${run.title} is ${STATES[run.state]}`);
    this.state = run.state;
    this.health.replaceChildren(...healthWords(run));
    for (const film of this.films) film.take(this.told.get(film.name));
    const charts = CHARTS.map(([title, lines, how]) => {
      const found = all.flatMap((one, place) => {
        const columns = how.from === "vitals" ? one.vitals : one.reports;
        return lines.filter(([name]) => columns[name]).map(([name, text], colour) => ({
          name: all.length > 1 ? `${one.title} ${text}` : text, x: columns.images, y: columns[name],
          ...(all.length > 1 ? { colour: place, stroke: colour } : { colour }),
        }));
      });
      const best = how.lower && run.best !== null ? ` lower is better, best ${short(run.best)}` : null;
      return found.length ? curve(title, found, { log: how.log, best }) : null;
    });
    this.charts.replaceChildren(...charts.filter(Boolean));
    if (!this.charts.children.length) this.charts.append(h("p", { class: "hint" }, "The first values appear a few seconds after the start of training."));
  }

  build(runs, run, all) {
    this.state = null;
    this.head = h("div", { class: "head" });
    this.health = h("ul", { class: "health", "aria-label": "Training warnings" });
    this.charts = h("div", { class: "charts" });
    this.films = all.map((one) => new Film(one.name, all.length > 1 ? one.title : ""));
    this.measures = h("div", {});
    const set = (others) => { this.others = others; this.remember(); this.look(); };
    const left = runs.filter((one) => !one.begun && !this.compared().includes(one.name));
    const pick = h("select", { id: "compare", onchange: () => set([...this.others, pick.value]) },
      h("option", { value: "" }, this.others.length ? "add a run …" : "choose a run …"),
      left.map((one) => h("option", { value: one.name }, one.title)));
    const chosen = all.slice(1).map((one) => h("button", { class: "chip", "aria-label": `Do not compare with ${one.title}`,
      onclick: () => set(this.others.filter((name) => name !== one.name)) }, one.title, h("span", { "aria-hidden": "true" }, " ✕")));
    const compare = left.length || chosen.length ? h("div", { class: "compare" }, chosen.length ? [h("span", {}, "Compared with"), chosen] : "",
      left.length && all.length < MOST ? h("label", {}, chosen.length ? h("span", { class: "unseen" }, "Compare with") : "Compare with ", pick) : "") : "";
    this.main.replaceChildren(
      this.head, this.actions.element, compare, this.measures,
      h("section", { "aria-label": "Images" }, h("h2", {}, "Images"), h("div", { class: "films" }, this.films.map((one) => one.element))),
      h("div", { class: "two" }, h("section", { "aria-label": "Training warnings" }, h("h2", {}, "Training warnings"), this.health),
        h("section", { "aria-label": "About" }, h("h2", {}, "About"), about(run))),
      h("section", { "aria-label": "Charts" }, h("h2", {}, "Charts"), this.charts));
  }

  /** The measures of the compared runs side by side. */
  async compare() {
    const key = this.key();
    if (!this.others.length) return;
    try {
      const told = await ask("api/comparison", { query: this.compared().map((name) => ["run", name]) });
      if (key === this.key()) this.measures.replaceChildren(comparison(told));
    } catch (error) {
      if (key === this.key()) this.measures.replaceChildren(h("p", { class: "refused" }, capital(error.message)));
    }
  }

  redraw(run) {
    this.head.replaceChildren(...this.header(run));
    this.head.querySelector("#run-title, #rename")?.focus();
  }

  /** The title of a run as a field. */
  renamer(run) {
    const input = h("input", { type: "text", id: "run-title", value: run.title, maxlength: 120, "aria-label": "Title of the run" });
    const end = () => { this.renaming = ""; this.redraw(this.told.get(run.name)); };
    const save = async (event) => {
      event.preventDefault();
      try {
        const told = await ask("api/run/title", { json: { run: run.name, title: input.value } });
        this.told.get(run.name).title = told.title;
        say(`The title is “${told.title}”`);
      } catch (error) {
        sayError(error);
      }
      end();
      this.look();
    };
    input.addEventListener("keydown", (event) => { if (event.key === "Escape") end(); });
    return h("form", { class: "renamer", onsubmit: save }, h("h1", { class: "unseen" }, run.title), input, h("button", { class: "keep" }, "Save"), h("button", { type: "button", onclick: end }, "Cancel"));
  }

  header(run) {
    const left = run.eta && run.state === "training" ? `about ${duration(run.eta)} left` : "";
    const facts = [
      `${count(run.images)} images`, run.seconds === null ? "" : duration(run.seconds), left,
      run.rate && run.state === "training" ? `${short(run.rate)} images/s` : "",
    ].filter(Boolean);
    return [
      this.renaming === run.name ? this.renamer(run) : title(run, this.allowed ? () => { this.renaming = run.name; this.redraw(run); } : null),
      h("progress", { value: run.progress, max: 1, "aria-label": "Progress", "aria-valuetext": percent(run.progress) }),
      h("p", { class: "facts" }, h("strong", {}, percent(run.progress)), ...facts.map((one) => h("span", {}, one)),
      ),
      run.sentence ? h("p", { class: "note error" }, run.sentence) : "",
    ];
  }
}

/** A training of this studio without a run folder, in the form of a run. */
function begun(one) {
  return { name: one.run, title: one.run, state: one.state, sentence: one.sentence, progress: 0, images: 0, begun: true };
}

/** A model without its run, in the form of a run. */
function model(name) {
  const sentence = "A model without its training run: it can be explored, and evaluated with its training images.";
  return { name, title: name, state: "model", sentence, progress: 0, images: 0, begun: true, isModel: true, has_model: true };
}

function title(run, rename) {
  return h("h1", {}, h("span", {}, run.title), " ", h("span", { class: `pill ${run.state}` }, STATES[run.state]),
    rename ? h("button", { id: "rename", class: "plain", "aria-label": "Change the title", title: "Change the title", onclick: rename }, "✎") : "");
}

function healthWords(run) {
  if (!run.health.length) return [h("li", { class: "good" }, run.images ? "No problems detected." : "No data yet.")];
  return [...run.health].reverse().map((one) => h("li", { class: "bad" },
    h("strong", {}, one.words), h("span", {}, one.action), h("span", { class: "hint" }, `at ${count(one.images)} images`)));
}

function about(run) {
  return h("dl", { class: "about" }, Object.entries(run.about).map(([name, value]) => [h("dt", {}, name), h("dd", {}, name === "started" ? when(value) : value)]));
}

function when(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? text : date.toLocaleString();
}

/** The preview grids of a run, from first to last. */
class Film {
  constructor(name, titled) {
    Object.assign(this, { name, grids: [], at: -1, follows: true });
    this.image = h("img", { class: "grid", alt: "" });
    this.sheet = labelled(this.image, []);
    this.says = h("figcaption", {});
    this.way = slider({
      label: "Grid", min: 0, max: 0, step: 1, value: 0, format: (place) => (this.grids[place] === undefined ? "" : `${count(this.grids[place])} images`),
      oninput: (place) => { this.follows = place === this.grids.length - 1; this.show(place); },
    });
    this.button = h("button", { onclick: () => this.play() }, "Play");
    this.links = h("span", { class: "links" });
    this.element = h("figure", { class: "film" }, titled ? h("figcaption", {}, h("strong", {}, titled)) : "", this.sheet.element, this.says, this.way,
      h("div", { class: "actions" }, this.button, this.links));
  }

  take(run) {
    const more = run.grids.length !== this.grids.length || run.grids.at(-1) !== this.grids.at(-1);
    this.grids = run.grids;
    this.sheet.put(run.rows);
    this.links.replaceChildren(...run.films.map((form) => h("a", {
      href: `api/run/film?${new URLSearchParams({ run: run.name, form })}`, target: "_blank", rel: "noopener",
    }, `Video (${form})`)));
    this.way.input.max = Math.max(0, this.grids.length - 1);
    this.element.classList.toggle("empty", !this.grids.length);
    if (!this.grids.length) this.says.textContent = "No preview yet.";
    else if (more && this.follows && !this.playing) this.show(this.grids.length - 1);
  }

  async show(place) {
    this.at = place;
    const images = this.grids[place];
    this.way.put(place);
    const address = `api/run/grid?${new URLSearchParams({ run: this.name, images })}`;
    const loading = new Image();
    loading.src = address;
    await loading.decode().catch(() => {});
    if (this.at !== place) return;
    this.image.src = address;
    this.image.alt = `Samples after ${images} images, always from the same latents`;
    this.says.textContent = `after ${count(images)} images`;
  }

  async play() {
    this.playing = !this.playing;
    this.button.textContent = this.playing ? "Stop" : "Play";
    for (let place = this.at >= this.grids.length - 1 ? 0 : this.at; this.playing && place < this.grids.length; place++) {
      if (!this.element.isConnected) break;
      await this.show(place);
      await new Promise((done) => setTimeout(done, 120));
    }
    this.playing = false;
    this.follows = this.at === this.grids.length - 1;
    this.button.textContent = "Play";
  }
}
