// Explore a model: gallery with controls, one image in the panel, favourites in the tray.

import { ask, show } from "./client.js";
import { $, choice, copyCommand, h, later, say, sayError, slider } from "./dom.js";
import { followed } from "./jobs.js";
import { Gallery } from "./gallery.js";
import { openFilm, openPrint } from "./media.js";
import { Panel } from "./panel.js";
import { classOf, key, named, percent, variation, words } from "./recipes.js";
import { Tray } from "./tray.js";
import { curve } from "./charts.js";

const OTHERS = 10_000_000; // first seed of variations, different from the seeds of the gallery
const LARGEST_FILE = 2 ** 24; // bytes; limit of the studio
const FEW = 12; // most classes shown as buttons; otherwise a list
const WIDE = matchMedia("(min-width: 900px)");

export class Explore {
  constructor(remember) {
    this.remember = remember; // (values) -> stores them in the URL
    this.view = { label: "", amounts: {}, seed: 0, real: false }; // amounts: of sliders that are not neutral
    this.around = null; // { recipe, strength }: the gallery shows variations
    this.pending = null; // { kind, recipe }: a key was pressed on the first image, the second one is waited for
    this.picking = null; // "mix" or "morph": the next image that is chosen is the second one of the panel
    const root = $("explore");
    this.heading = h("h1", {});
    this.facts = h("p", { class: "hint" });
    this.asks = h("p", { class: "asks", role: "status", hidden: true });
    this.controls = h("div", { class: "controls", role: "region", "aria-label": "Controls" });
    this.place = h("div", {});
    this.aside = h("aside", { id: "panel", class: "panel", "aria-label": "Selected image", hidden: true });
    root.append(h("div", { class: "heading" }, this.heading, this.facts), this.controls,
      h("div", { class: "stage" }, this.place, this.aside), this.asks);
    this.tray = new Tray({
      chosen: (recipe) => this.chosen(recipe), changed: () => this.remark(), save: (recipes) => openPrint(this.model, recipes), film: () => this.film(),
    });
    this.panel = new Panel(this.aside, {
      keep: (recipe) => this.tray.toggle(recipe),
      isKept: (recipe) => this.tray.has(recipe),
      nameOf: (recipe) => this.tray.titleOf(recipe),
      rename: (recipe, title) => this.tray.rename(recipe, title),
      vary: (recipe) => this.vary(recipe),
      near: (recipes, wait, aloud) => this.near(recipes, wait, aloud),
      kept: () => this.tray.recipes(),
      reload: () => this.load(this.model.name),
      close: () => this.closePanel(),
      pick: (kind) => this.pick(kind),
      save: (recipes) => openPrint(this.model, recipes),
      film: (recipes) => this.film([{ name: "two", text: "These two images", recipes }]),
    });
    this.gallery = new Gallery(this.place, {
      at: (index) => this.at(index),
      words: (recipe) => words(recipe, this.model.classes),
      short: (recipe) => this.short(recipe),
      isKept: (recipe) => this.tray.has(recipe),
      keep: (recipe) => this.tray.toggle(recipe),
      near: (recipes) => this.near(recipes),
      chosen: (recipe, index, moving) => this.chosen(recipe, moving),
    });
    document.addEventListener("keydown", (event) => this.onKey(event));
    this.acceptFiles(root);
    this.restart = later(120, () => this.gallery.reset(this.model));
  }

  // ---- models ----

  async load(name, view = {}, anew = false) {
    const query = anew ? { model: name, anew: "true" } : { model: name };
    this.model = await ask("api/model", { query });
    const same = this.shownName === name;
    this.shownName = name;
    if (!same) {
      this.view = { ...this.view, label: "", ...view };
      const { amounts } = this.view; // perhaps texts of the address, or of another model
      const valid = this.model.sliders.filter(({ name, low, high, neutral }) => amounts[name] >= low && amounts[name] <= high && Number(amounts[name]) !== neutral);
      this.view.amounts = Object.fromEntries(valid.map(({ name }) => [name, Number(amounts[name])]));
      this.around = null;
    }
    if (this.view.label && !this.model.classes.includes(this.view.label)) this.view.label = "";
    const page = document.documentElement;
    page.classList.toggle("pixels", Math.max(this.model.height, this.model.width) <= 64);
    page.classList.toggle("transparent", this.model.channels === 4);
    page.style.setProperty("--shape", this.model.width / this.model.height);
    const { title, classes, width, height, images_seen: seen } = this.model;
    this.heading.textContent = title;
    this.facts.textContent = [`${width}x${height} pixels`, classes.length ? `${classes.length} ${this.model.has_conditions ? "combinations of conditions" : "classes"}` : "",
      `${seen.toLocaleString()} images seen in training`].filter(Boolean).join(" · ");
    this.pick(null);
    this.drawControls();
    await this.tray.open(this.model);
    this.gallery.reset(this.model);
    if (same && this.panel.base) {
      this.panel.model = this.model;
      this.panel.draw();
    } else if (WIDE.matches) {
      this.panel.base = null;
      this.open(this.at(0));
    }
  }

  /** Check for a newer version of the model. */
  async refresh() {
    const told = await ask("api/model", { query: { model: this.model.name } });
    if (told.version !== this.model.version) await this.load(told.name);
    else if (told.newer !== this.model.newer) {
      this.model = told;
      this.drawControls();
    }
  }

  at(index) {
    const seed = this.view.seed + index;
    if (this.around) {
      const { recipe, strength } = this.around;
      return index === 0 ? recipe : variation(recipe, OTHERS + seed, strength, this.model.classes);
    }
    return this.start(seed);
  }

  /** The recipe of a seed with the class and the sliders of the view. */
  start(seed) {
    return { seed, ...(this.view.label ? { label: this.view.label } : {}), ...this.view.amounts };
  }

  short(recipe) {
    if (this.around && key(recipe) === key(this.around.recipe)) return "this image";
    if (this.around) return `variation ${recipe.seed - OTHERS - this.view.seed}`;
    const label = this.view.label ? null : classOf(recipe, this.model.classes);
    return label === null ? `seed ${recipe.seed}` : `seed ${recipe.seed} · ${named(label)}`;
  }

  // ---- controls ----

  drawControls() {
    const { classes } = this.model;
    const parts = [];
    const more = []; // collapsed on phones
    if (this.around) {
      parts.push(h("div", { class: "crumb" },
        h("button", { id: "back", onclick: () => this.back() }, "← All images"),
        h("span", {}, `Variations of ${words(this.around.recipe, classes)}`)));
      parts.push(slider({
        label: "Strength", min: 0.05, max: 1, step: 0.05, value: this.around.strength, format: percent,
        oninput: (strength) => { this.around.strength = strength; this.restart(); },
      }));
    } else {
      if (classes.length && classes.length <= FEW) {
        const values = [["", "All"], ...classes.map((name) => [name, name])];
        parts.push(choice("Class", "class", values, this.view.label, (label) => this.change({ label })));
      } else if (classes.length) {
        const pick = h("select", { id: "class", onchange: () => this.change({ label: pick.value }) },
          h("option", { value: "" }, "All classes"),
          classes.map((name) => h("option", { value: name, selected: name === this.view.label }, name)));
        parts.push(h("label", {}, h("span", { class: "unseen" }, "Class"), pick));
      }
      for (const { name, title, low, high, step, neutral, ends } of this.model.sliders) {
        parts.push(slider({
          label: title, min: low, max: high, step, value: this.view.amounts[name] ?? neutral, id: name,
          format: (value) => [value, ends[[low, high].indexOf(value)]].filter((one) => one !== undefined && one !== "").join(", "),
          oninput: (value) => {
            const { [name]: _, ...others } = this.view.amounts;
            this.change({ amounts: value === neutral ? others : { ...others, [name]: value } });
          },
        }));
      }
      const seed = h("input", { type: "number", min: 0, max: 2 ** 50, step: 1, value: this.view.seed, id: "seed",
        onchange: () => this.change({ seed: Math.min(2 ** 50, Math.max(0, Math.floor(Number(seed.value) || 0))) }) });
      more.push(h("label", { class: "seed" }, "First seed ", seed));
    }
    more.push(slider({
      label: "Size", min: 60, max: 320, step: 10, value: this.gallery.size, format: (size) => `${size} px`,
      oninput: (size) => { this.gallery.size = size; this.gallery.relayout(); },
    }));
    const real = h("input", { type: "checkbox", id: "real", checked: this.view.real, onchange: () => this.showReal(real) });
    more.push(h("label", { class: "check" }, real, " Nearest training image"));
    const file = h("input", { type: "file", accept: "image/*", class: "unseen", "aria-label": "Image to project", id: "upload", tabindex: -1,
      onchange: () => { if (file.files[0]) this.project(file.files[0]); file.value = ""; } });
    const screen = () => this.gallery.onScreen();
    more.push(h("div", { class: "actions end" },
      h("button", { onclick: () => file.click() }, "Project an image …"), file,
      h("button", { id: "screen-command", onclick: () => this.command(screen()) }, "Copy command"),
      h("button", { id: "screen-film", onclick: () => this.film() }, "Video …"),
      h("button", { id: "screen-save", title: "Save the images on the screen", onclick: () => openPrint(this.model, screen()) }, "Save all …")));
    if (this.model.newer) {
      parts.unshift(h("p", { class: "note" }, "A newer version of this model is available. ",
        h("button", { onclick: () => this.load(this.model.name, {}, true).catch(sayError) }, "Load it")));
    }
    const fold = h("button", { class: "unfold", "aria-expanded": String(Boolean(this.unfolded)), onclick: () => {
      this.unfolded = this.controls.classList.toggle("unfolded");
      fold.setAttribute("aria-expanded", String(this.unfolded));
      fold.textContent = this.unfolded ? "Fewer controls" : "More controls";
    } }, this.unfolded ? "Fewer controls" : "More controls");
    this.controls.replaceChildren(...parts, fold, h("div", { class: "more" }, more));
  }

  change(values) {
    Object.assign(this.view, values);
    this.remember(this.view);
    this.restart();
  }

  async showReal(box) {
    this.view.real = box.checked;
    try {
      if (box.checked && !(await this.near([this.at(0)], say, true))) box.checked = this.view.real = false;
    } catch (error) {
      sayError(error);
      box.checked = this.view.real = false;
    }
    if (this.gallery.withReal === box.checked) return;
    this.gallery.withReal = box.checked;
    this.gallery.reset(this.model);
  }

  async command(recipes) {
    try {
      const told = await ask("api/command", { json: { model: this.model.name, recipes } });
      await copyCommand(told);
    } catch (error) {
      sayError(error);
    }
  }

  /** The dialog of films. sources: images that may be used, besides the favourites and a walk from a seed. */
  film(sources = []) {
    const kept = this.tray.recipes();
    const shown = this.gallery.onScreen();
    const more = [["favourites", `Favourites (${kept.length})`, kept], ["screen", `Images on the screen (${shown.length})`, shown]];
    const walk = (first, num) => [...Array(num).keys()].map((i) => this.start(first + i));
    openFilm(this.model, [...sources, ...more.filter(([, , recipes]) => recipes.length > 1).map(([name, text, recipes]) => ({ name, text, recipes }))], walk);
  }

  // ---- one image ----

  /** Select an image of the gallery; moving with the keys does not open the panel. */
  chosen(recipe, moving = false) {
    if (moving && (this.picking || !WIDE.matches || this.aside.hidden)) return;
    if (!this.picking) {
      this.open(recipe);
      return;
    }
    const kind = this.picking;
    this.pick(null);
    this.panel.with(kind, recipe);
  }

  /** Wait for a click on the second image of the panel; null: no longer. On a phone the panel makes room meanwhile. */
  pick(kind) {
    const were = this.picking;
    this.picking = kind;
    document.body.classList.toggle("picking", Boolean(kind));
    this.asks.hidden = !kind;
    if (kind) {
      this.asks.replaceChildren(kind === "mix" ? "Mix: select the second image" : "Morph: select the second image",
        h("button", { onclick: () => { this.pick(null); this.panel.unpicked(); } }, "Cancel"));
    } else if (were) this.asks.replaceChildren();
  }

  open(recipe) {
    this.pick(null);
    this.aside.hidden = false;
    document.body.classList.add("with-panel");
    this.panel.open(this.model, recipe);
  }

  closePanel() {
    this.pick(null);
    this.aside.hidden = true;
    document.body.classList.remove("with-panel");
    this.panel.base = null;
    this.gallery.activate(this.gallery.active);
  }

  remark() {
    this.gallery?.remark();
    this.panel?.remark();
  }

  vary(recipe) {
    this.around = { recipe, strength: this.around?.strength ?? 0.45 };
    this.drawControls();
    this.gallery.reset(this.model);
    say(`Variations of ${words(recipe, this.model.classes)}`);
  }

  back() {
    this.around = null;
    this.drawControls();
    this.gallery.reset(this.model);
  }

  /** The first key press selects an image, the second one its partner. */
  pair(kind, recipe) {
    const verb = { mix: "Mix", morph: "Morph" }[kind];
    if (this.pending?.kind !== kind) {
      this.pending = { kind, recipe };
      say(`${verb}: select the second image and press ${kind === "mix" ? "m" : "o"} again`);
      return;
    }
    const first = this.pending.recipe;
    this.pending = null;
    this.panel.base = null;
    this.open(first);
    this.panel.with(kind, recipe);
    say(`${verb} of two images`);
  }

  onKey(event) {
    const typing = event.target.closest("input:not([type=range], [type=checkbox], [type=radio]), textarea, select, dialog");
    if (!$("explore").hidden && !typing && (event.ctrlKey || event.metaKey) && event.key === "z" && this.tray.undoable) {
      event.preventDefault();
      this.tray.undo();
      return;
    }
    if ($("explore").hidden || typing || event.ctrlKey || event.metaKey || event.altKey || !this.model) return;
    const inPanel = event.target.closest("#panel");
    const recipe = inPanel && this.panel.base ? this.panel.current : this.gallery.current;
    if (!recipe) return;
    const does = {
      k: () => this.tray.toggle(recipe),
      v: () => this.vary(recipe),
      m: () => this.pair("mix", recipe),
      o: () => this.pair("morph", recipe),
      c: () => this.command([recipe]),
      d: () => { if (!inPanel) this.open(recipe); this.panel.download(); },
      Escape: () => this.escape(inPanel),
    }[event.key];
    if (does) {
      event.preventDefault();
      does();
    } else if (event.key === "Enter" && event.target.closest(".pick")) {
      event.preventDefault();
      this.open(recipe);
      this.panel.keepButton.focus();
    } else if (!inPanel && event.key.startsWith("Arrow") && event.target === document.body) {
      event.preventDefault();
      this.gallery.activate(this.gallery.active);
    }
  }

  escape(inPanel) {
    if (this.pending) {
      this.pending = null;
      say("Cancelled");
    } else if (this.picking) {
      this.pick(null);
      this.panel.unpicked();
    } else if (inPanel && WIDE.matches) this.gallery.activate(this.gallery.active);
    else if (inPanel) this.closePanel();
    else if (this.around) this.back();
  }

  // ---- nearest training images ----

  /** Nearest training image of each recipe; null: training images not available; undefined: not loaded yet. */
  async near(recipes, wait = () => {}, aloud = false) {
    if (this.absent === this.model.name && !aloud) return null;
    const model = this.model;
    for (;;) {
      const told = await ask("api/nearest", { json: { model: model.name, recipes, begin: aloud } });
      if (model !== this.model) return null;
      if (told.state === "absent") {
        this.absent = model.name;
        if (aloud) say(told.sentence, true);
        return null;
      }
      if (told.state === "ready") {
        return told.images.map((one) => ({
          ...one,
          address: `api/training-picture?${new URLSearchParams({ model: model.name, index: one.index })}`,
        }));
      }
      wait(told.sentence, told.state);
      if (told.state === "unread") return undefined;
      await new Promise((done) => setTimeout(done, 700));
    }
  }

  // ---- uploaded image ----

  acceptFiles(root) {
    root.addEventListener("dragover", (event) => {
      if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
    });
    root.addEventListener("drop", (event) => {
      const file = event.dataTransfer?.files[0];
      if (!file) return;
      event.preventDefault();
      this.project(file);
    });
  }

  async project(file) {
    if (file.size > LARGEST_FILE) {
      say(`${file.name} is larger than ${LARGEST_FILE / 2 ** 20} MB: choose a smaller image`, true);
      return;
    }
    const model = this.model;
    const query = { model: model.name };
    if (this.view.label) query.label = this.view.label;
    const says = h("p", { role: "status" }, `Uploading ${file.name} …`);
    const meter = h("progress", { max: 1, value: 0, "aria-label": "Progress of the projection" });
    const figures = h("div", { class: "figures" });
    const lost = h("div", {});
    let task = null;
    const dialog = h("dialog", { id: "projection", "aria-label": "Projection" }, h("h2", {}, "Projection"), figures, says, meter, lost,
      h("div", { class: "actions" }, h("button", { onclick: () => dialog.close() }, "Close")));
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (task && task.state !== "done") ask("api/task/stop", { method: "POST", query: { id: task.id } }).catch(() => {});
    });
    document.body.append(dialog);
    dialog.showModal();
    try {
      task = await ask("api/projections", { body: file, query });
      const note = task.sentence;
      figures.append(h("figure", {}, h("img", { class: "large", alt: "Image to project", src: `api/task/target?id=${task.id}` }),
        h("figcaption", {}, note || "uploaded")));
      task = await followed(task, (now) => {
        meter.max = now.total || 1;
        meter.value = now.done;
        says.textContent = now.state === "waiting" ? "Waiting for other projections …" : `Step ${now.done} of ${now.total || "…"}`;
      });
      const { recipe, losses } = task.result;
      const image = h("img", { class: "large", alt: "Projection" });
      await show(image, model, recipe);
      figures.append(h("figure", {}, image, h("figcaption", {}, "projected")));
      says.textContent = "Done.";
      meter.hidden = true;
      lost.append(curve("Loss", [{ name: "loss", x: losses.map((_, i) => i + 1), y: losses }], { unit: "steps" }));
      dialog.querySelector(".actions").prepend(
        h("button", { class: "keep", onclick: async (event) => {
          const button = event.currentTarget;
          await this.tray.toggle(recipe);
          button.textContent = this.tray.has(recipe) ? "♥ Favourite" : "♡ Favourite";
          button.setAttribute("aria-pressed", this.tray.has(recipe));
        } }, "♡ Favourite"),
        h("button", { onclick: () => { dialog.close(); this.open(recipe); } }, "Open"));
    } catch (error) {
      task = null;
      says.textContent = error.message;
      says.classList.add("error");
      meter.hidden = true;
    }
  }
}
