// A new training in three steps: images and their check-up, options, the plan with what the time buys; then start.

import { duration } from "./charts.js";
import { ask } from "./client.js";
import { $, copyCommand, h, later, say, sayError, slider } from "./dom.js";
import { ImagePicker } from "./images.js";
import { capital, followed, refusal, working } from "./jobs.js";

const MINUTES = [1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1440];
const SIZES = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024];
const KINDS = {
  photo: "photographs", face: "faces", digits: "digits", text: "text", xray: "X-ray images", scan: "medical scans",
  comic: "comics", drawing: "drawings",
};
const NAMED = { "--size": "Size", "--kind": "Kind", "--labels": "Labels", "--minutes": "Time", "--seed": "Seed", "--drop-duplicates": "Leave out near duplicates", "--mask-marks": "Fill burned-in marks", "--out": "name" };
// Images seen -> what to expect at about 64 pixels, as described in the guide "What to expect".
const EXPECT = [
  [10000, "rough shapes that are rarely recognisable"], [20000, "recognisable images, many with errors"],
  [34000, "recognisable images with details, some with errors"], [Infinity, "sharp, varied images; about one in four has an error"],
];

export class NewTraining {
  /** hooks: { remember(values), started(name) } */
  constructor(hooks) {
    Object.assign(this, { hooks, values: {}, check: null, plan: null });
    this.replan = later(400, () => this.makePlan());
  }

  /** values: of the URL: data, name, minutes, size, kind, labels, seed, near, marks */
  async start(values) {
    this.open = true;
    this.ready ??= this.prepare();
    await this.ready;
    if (!this.info.new) return;
    if (!values.data && this.values.data) { // back from another view
      this.hooks.remember(this.values);
      return;
    }
    const changed = values.data !== this.values.data;
    this.values = { minutes: String(this.info.minutes), ...values };
    if (changed || !this.shown) this.show();
  }

  async prepare() {
    try {
      this.info = await ask("api/new");
    } catch (error) {
      this.ready = null;
      throw error;
    }
    if (this.info.new) this.build();
    else $("train").replaceChildren(h("h1", {}, "New training"), h("p", { class: "note" }, this.info.sentence));
  }

  stop() {
    this.open = false;
  }

  build() {
    this.picker = new ImagePicker(this.info, { chosen: (source, note) => this.choose(source, note) });
    this.images = h("div", {});
    this.options = h("div", { class: "options" });
    this.planned = h("div", { class: "planned" });
    $("train").replaceChildren(
      h("h1", {}, "New training"),
      h("div", { class: "steps" },
        h("section", { class: "card", "aria-labelledby": "step-images" }, h("h2", { id: "step-images" }, "1. Images"), this.images),
        h("section", { class: "card", "aria-labelledby": "step-options" }, h("h2", { id: "step-options" }, "2. Options"), this.options),
        h("section", { class: "card", "aria-labelledby": "step-plan" }, h("h2", { id: "step-plan" }, "3. Plan and start"), this.planned)));
  }

  choose(source, note) {
    this.note = note;
    this.put({ data: source, name: "" });
    this.show();
    (source ? $("other-images") : this.picker.element.querySelector("input"))?.focus();
  }

  put(values) {
    this.values = { ...this.values, ...values };
    this.hooks.remember(this.values);
  }

  show() {
    this.shown = true;
    this.check = this.plan = null;
    this.cancel();
    if (!this.values.data) {
      this.images.replaceChildren(this.picker.element);
      this.picker.draw();
      this.options.replaceChildren(h("p", { class: "hint" }, "First choose the images."));
      this.planned.replaceChildren(h("p", { class: "hint" }, "The plan appears when the images are chosen."));
      return;
    }
    this.report = h("div", { class: "report" });
    this.images.replaceChildren(
      h("div", { class: "chosen" }, h("strong", {}, shortName(this.values.data)), h("span", { class: "hint" }, shortName(this.values.data) === this.values.data ? "" : this.values.data),
        h("button", { id: "other-images", onclick: () => this.choose("", "") }, "Choose other images")),
      this.note ? h("p", { class: "hint" }, this.note) : "", this.report);
    if (!this.values.name) this.put({ name: shortName(this.values.data) });
    this.drawOptions();
    this.makeCheck();
    this.makePlan();
  }

  cancel() {
    for (const task of [this.checkTask, this.planTask]) if (task) ask("api/task/stop", { method: "POST", query: { id: task.id } }).catch(() => {});
    this.checkTask = this.planTask = null;
  }

  // ---- images ----

  async makeCheck() {
    const source = this.values.data;
    const current = () => this.values.data === source;
    try {
      let task = this.checkTask = await ask("api/checkups", { json: { source, labels: true } });
      const waiting = working("Checking the images", () => this.stopTask(task));
      this.report.replaceChildren(waiting.element);
      task = await followed(task, waiting.tell, current);
      if (!task) return;
      this.check = task.result;
      this.report.replaceChildren(...findings(task.result));
      this.drawOptions();
    } catch (error) {
      if (current()) this.report.replaceChildren(refusal(plainWords(error.message)));
    }
  }

  stopTask(task) {
    ask("api/task/stop", { method: "POST", query: { id: task.id } }).catch(sayError);
  }

  // ---- options ----

  drawOptions() {
    const now = this.values;
    const changed = (values) => { this.put(values); this.replan(); };
    const name = h("input", { type: "text", id: "run-name", value: now.name ?? "", maxlength: 100, autocomplete: "off", oninput: () => this.put({ name: name.value }) });
    const time = slider({
      label: "Time", id: "minutes", min: 0, max: MINUTES.length - 1, step: 1, value: stop(now.minutes), format: (place) => duration(60 * MINUTES[place]),
      oninput: (place) => { this.put({ minutes: String(MINUTES[place]) }); this.drawBudget(); }, onchange: () => this.replan(),
    });
    const size = select("size", [["", "automatic"], ...SIZES.map((one) => [String(one), `${one} pixels`])], now.size ?? "", (value) => changed({ size: value }));
    const kind = select("kind", [["", "automatic"], ...this.info.kinds.map((one) => [one, KINDS[one] ?? one])], now.kind ?? "", (value) => changed({ kind: value }));
    const labels = box("labels", "Learn the classes, to generate images of a chosen class", now.labels !== "no", (on) => changed({ labels: on ? "" : "no" }));
    const seed = h("input", { type: "number", id: "seed", min: 0, step: 1, value: now.seed ?? 0, onchange: () => changed({ seed: String(Math.max(0, Math.floor(Number(seed.value) || 0))) }) });
    const near = box("near", `Leave out near duplicates${this.check?.near ? ` (${this.check.near.toLocaleString()} found)` : ""}`, now.near === "yes", (on) => changed({ near: on ? "yes" : "" }));
    const marks = box("marks", "Fill burned-in marks, such as letters on X-ray images", now.marks === "yes", (on) => changed({ marks: on ? "yes" : "" }));
    const opened = this.options.querySelector("details")?.open || now.near || now.marks || Number(now.seed);
    const focus = document.activeElement?.id;
    this.bought = h("p", { class: "hint bought", role: "status" });
    this.options.replaceChildren(
      field("Name of the run", name),
      h("div", { class: "time" }, time, this.bought),
      h("div", { class: "pair" }, field("Size", size), field("Kind of images", kind)),
      this.check?.labelled ? labels : "",
      h("details", { open: Boolean(opened) }, h("summary", {}, "More options"), h("div", { class: "options" }, field("Seed", seed), near, marks)));
    if (focus && this.options.querySelector(`#${CSS.escape(focus)}`)) $(focus).focus();
    this.drawBudget();
  }

  /** What the chosen time buys, from the measured speed. */
  drawBudget() {
    if (!this.bought) return;
    const plan = this.plan;
    if (!plan?.speed) {
      this.bought.textContent = this.values.data ? "What this time buys is shown when the speed of this machine is measured." : "";
      return;
    }
    const minutes = Number(this.values.minutes);
    const images = plan.speed * 60 * minutes;
    const passes = images / plan.num_training;
    const told = `About ${round(images).toLocaleString()} images seen: ${passes < 10 ? passes.toFixed(1) : Math.round(passes).toLocaleString()} passes over the ${plan.num_training.toLocaleString()} training images.`;
    const few = plan.least && images < plan.least;
    const needed = MINUTES.find((one) => plan.speed * 60 * one >= plan.least);
    const expect = plan.least ? EXPECT.find(([most]) => images < most)[1] : "";
    this.bought.replaceChildren(told, expect ? h("span", { class: few ? "warned" : "" },
      few ? ` Expect ${expect}; choose ${needed ? `${duration(60 * needed)} or more` : "a graphics card"}, or a smaller size.` : ` Expect ${expect} (experience with 4,500 images of 64 pixels).`) : "");
  }

  request() {
    const now = this.values;
    return {
      source: now.data, name: now.name ?? "", labels: now.labels !== "no", size: now.size || null, kind: now.kind || null,
      minutes: Number(now.minutes), seed: Number(now.seed ?? 0), drop_duplicates: now.near === "yes", mask_marks: now.marks === "yes",
    };
  }

  // ---- plan ----

  async makePlan() {
    if (!this.open || !this.values.data) return;
    const asked = JSON.stringify({ ...this.request(), name: "" });
    const current = () => this.asked === asked;
    this.asked = asked;
    if (this.planTask) this.stopTask(this.planTask);
    this.startButton?.setAttribute("disabled", "");
    const waiting = working("Preparing the images and the plan", () => this.stopTask(this.planTask));
    this.planned.replaceChildren(waiting.element);
    try {
      let task = this.planTask = await ask("api/plans", { json: JSON.parse(asked) });
      task = await followed(task, waiting.tell, current);
      if (!task) return;
      this.plan = { ...task.result, picture: `api/task/target?${new URLSearchParams({ id: task.id })}` };
      this.drawPlan();
      this.drawBudget();
    } catch (error) {
      if (!current()) return;
      this.planned.replaceChildren(refusal(plainWords(error.message)),
        h("div", { class: "actions" }, h("button", { onclick: () => this.makePlan() }, "Try again")));
    }
  }

  drawPlan() {
    const plan = this.plan;
    this.startButton = h("button", { id: "start", class: "keep", onclick: () => this.begin() }, "Start training");
    const model = plan.choices.find((one) => one.name === "model");
    const facts = [
      ["Images", `${plan.num_images.toLocaleString()}${plan.num_heldout ? `, of which ${plan.num_heldout.toLocaleString()} are held out for evaluation` : ""}`],
      ["Size", `${plan.size} pixels, ${{ 1: "gray", 3: "colour", 4: "colour with transparency" }[plan.channels]}`],
      ["Kind", `${KINDS[plan.kind] ?? plan.kind}${plan.mirror ? ", mirrored at random" : ", never mirrored"}`],
      ["Classes", plan.classes.length ? some(plan.classes) : "none"],
      ["Model", `${model?.value ?? ""}, ${(plan.parameters / 1e6).toFixed(1)} million parameters`],
      ["Machine", `${plan.device}, about ${Math.max(1, Math.round(plan.memory / 2 ** 20)).toLocaleString()} MB of memory${plan.speed ? `, ${round(plan.speed).toLocaleString()} images per second` : ""}`],
    ];
    this.refusal = h("p", { class: "refused", role: "alert", hidden: true });
    this.planned.replaceChildren(
      h("figure", { class: "seen" }, h("img", { src: plan.picture, alt: "Some of the training images, at the size of the training" }),
        h("figcaption", {}, "Some of your images, as the networks see them")),
      dl(facts),
      plan.warnings.length ? h("ul", { class: "health", "aria-label": "Warnings" }, plan.warnings.map((one) => h("li", { class: "bad" }, h("strong", {}, plainWords(one))))) : "",
      h("div", { class: "actions go" }, this.startButton, h("button", { onclick: () => copyCommand(withName(plan, this.info.folder, this.values.name)) }, "Copy command")),
      this.refusal,
      h("p", { class: "hint" }, "The training goes on if you close this page. If the studio ends, the training is saved and can be resumed."),
      h("details", {}, h("summary", {}, "Every choice with its reason"), h("div", { class: "table" }, h("table", {},
        h("thead", {}, h("tr", {}, ["option", "value", "reason"].map((one) => h("th", { scope: "col" }, one)))),
        h("tbody", {}, plan.choices.map((one) => h("tr", {}, h("th", { scope: "row" }, one.name), h("td", {}, one.value), h("td", {}, one.reason))))))));
  }

  async begin() {
    this.startButton.disabled = true;
    this.refusal.hidden = true;
    try {
      const started = await ask("api/trainings", { json: this.request() });
      say(`Training ${started.run} started`);
      this.shown = false;
      this.values = {};
      this.hooks.started(started.run);
    } catch (error) {
      this.refusal.hidden = false;
      this.refusal.textContent = capital(plainWords(error.message));
      this.startButton.disabled = false;
    }
  }
}

function findings(check) {
  const problems = Object.entries(check.problems);
  const names = check.searched.filter((one) => !check.problems[one]);
  return [
    h("p", { class: "count", role: "status" }, h("strong", {}, `${check.num_images.toLocaleString()} images`), ` (${check.form})`),
    dl(Object.entries(check.facts).filter(([, value]) => value !== "none").map(([name, value]) => [capital(name), onlyOne(value, check.num_images)])),
    problems.length ? h("ul", { class: "health", "aria-label": "Problems" }, problems.map(([name, value]) => h("li", { class: "bad" }, h("strong", {}, capital(name)), h("span", {}, plainWords(value))))) : "",
    check.notes.map((one) => h("p", { class: "hint" }, plainWords(one))),
    h("p", { class: "hint" }, problems.length ? `Also checked, nothing found: ${names.join(", ")}.` : "No problems detected."),
  ].flat();
}

const dl = (facts) => h("dl", { class: "about" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
/** "64x64 120" with 120 images is "64x64". */
const onlyOne = (text, num) => (text.endsWith(` ${num.toLocaleString("en")}`) ? text.slice(0, text.lastIndexOf(" ")) : text);
const field = (label, input) => h("label", { class: "field" }, h("span", {}, label), input);

function select(id, values, chosen, pick) {
  const input = h("select", { id, onchange: () => pick(input.value) }, values.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
  return input;
}

function box(id, text, on, pick) {
  const input = h("input", { type: "checkbox", id, checked: on, onchange: () => pick(input.checked) });
  return h("label", { class: "check" }, input, h("span", {}, text));
}

function stop(minutes) {
  const wanted = Number(minutes);
  const near = MINUTES.map((one) => Math.abs(Math.log(one / wanted)));
  return near.indexOf(Math.min(...near));
}

function round(value) {
  return value < 100 ? Number(value.toPrecision(2)) : Number(value.toPrecision(3));
}

function some(names) {
  const rest = names.length - 6;
  return `${names.slice(0, 6).join(", ")}${rest > 0 ? ` and ${rest.toLocaleString()} more` : ""}`;
}

/** Options of the command line by their names on this page. */
export function plainWords(text) {
  return text.replace(/--[a-z]+(-[a-z]+)*/g, (option) => (NAMED[option] ? `“${NAMED[option]}”` : option));
}

function shortName(source) {
  const last = source.split(/[\\/]/).filter(Boolean).pop() ?? source;
  return last.replace(/\.(zip|tar|tar\.gz|tgz|tar\.bz2|tbz2|tar\.xz|txz|npz)$/i, "").replace(/^[^\p{L}\p{N}]+/u, "").slice(0, 60) || "run";
}

/** The command of a plan, in both shells, with the folder of the run. */
function withName({ command, powershell }, folder, name) {
  const place = `${folder}/${name}`;
  const quoted = (apostrophe) => (/^[\w=+:./-]+$/.test(place) ? place : `'${place.replaceAll("'", apostrophe)}'`);
  return { command: `${command} --out ${quoted("'\"'\"'")}`, powershell: `${powershell} --out ${quoted("''")}` };
}
