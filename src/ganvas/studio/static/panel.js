// One image with its nearest training image, sliders, style mixing and morphing.

import { Live, addressOf, ask, isLong, show, source } from "./client.js";
import { choice, download, h, later, say, sayError, slider } from "./dom.js";
import { followed, working } from "./jobs.js";
import { between, classOf, depthsOf, edited, key, mixed, percent, round, signed, words } from "./recipes.js";

const WIDE = matchMedia("(min-width: 900px)");
const THUMB = 3; // deviations of the small images of a direction
const SHORT = 540; // pixels of height below which mixing leaves out the nearest training image
const TABS = [["adjust", "Adjust"], ["mix", "Mix"], ["morph", "Morph"]];

export class Panel {
  /** hooks: { keep(recipe), isKept(recipe), nameOf(recipe), rename(recipe, title), vary(recipe), near(recipes), kept() -> recipes, reload(), close(), pick(kind or null), save(recipes), film(recipes) } */
  constructor(element, hooks) {
    Object.assign(this, { element, hooks, model: null, base: null, tab: "adjust", edits: {}, partner: null });
    this.depths = new Set();
    this.share = 0.5;
    this.picture = h("img", { class: "large", alt: "" });
    this.live = new Live(this.picture, sayError);
    this.real = h("img", { alt: "", hidden: true });
    this.realSays = h("figcaption", {});
    this.realFigure = h("figure", { class: "nearest", hidden: true }, this.real, this.realSays);
    this.says = h("p", { class: "words" });
    this.name = h("input", { type: "text", id: "panel-name", maxlength: 200, placeholder: "Name of this favourite", "aria-label": "Name of this favourite",
      onchange: () => hooks.rename(this.current, this.name.value.trim()) });
    this.keepButton = h("button", { class: "keep", id: "panel-keep", onclick: () => hooks.keep(this.current) });
    this.actions = h("div", { class: "actions main" },
      this.keepButton,
      h("button", { id: "panel-vary", onclick: () => hooks.vary(this.current) }, "Variations"),
      h("button", { id: "panel-save", onclick: () => hooks.save([this.current]) }, "Save …"));
    this.tabs = h("div", { class: "tabs" });
    this.body = h("div", { class: "tab" });
    element.append(
      h("div", { class: "over" }, this.says,
        h("button", { class: "plain close", title: "Close (Esc)", "aria-label": "Close", onclick: () => hooks.close() }, "✕")),
      h("div", { class: "figures" }, h("figure", {}, this.picture)), this.name, this.realFigure,
      this.tabs, this.body, this.actions);
    const room = () => this.fit();
    addEventListener("scroll", room, { passive: true });
    addEventListener("resize", room);
    new ResizeObserver(room).observe(document.getElementById("tray"));
    new ResizeObserver(room).observe(element.parentElement.parentElement);
    this.redrawEnds = later(300, () => { for (const one of this.body.querySelectorAll(".direction")) one.draw(); });
    this.settled = later(250, () => this.findNearest());
  }

  open(model, recipe) {
    this.model = model;
    if (this.base && key(recipe) === key(this.base) && this.ofModel === model) return;
    Object.assign(this, { ofModel: model, base: recipe, edits: {}, flat: null });
    if (this.tab !== "adjust" && !this.partner) this.tab = "adjust";
    this.draw();
  }

  /** Use the space between the top and the tray; the buttons at the bottom of the panel then always are on the screen. */
  fit() {
    if (this.element.hidden || !WIDE.matches) {
      this.element.style.removeProperty("max-height");
      return;
    }
    const room = Math.max(260, document.getElementById("tray").getBoundingClientRect().top - this.element.getBoundingClientRect().top - 14);
    this.element.style.setProperty("max-height", `${room}px`);
    this.element.style.setProperty("--room", `${room}px`); // the size of the image depends on it
    this.element.classList.toggle("short", room < SHORT);
  }

  /** Select the second image for mixing or morphing. */
  with(tab, partner) {
    this.tab = tab;
    this.partner = partner;
    this.draw();
  }

  /** No second image was chosen. */
  unpicked() {
    if (!this.partner) this.tab = "adjust";
    this.draw();
  }

  get adjusted() {
    return edited(this.base, this.edits);
  }

  /** The recipe of the image shown. */
  get current() {
    if (this.tab === "mix" && this.partner && this.depths.size) {
      return mixed(this.adjusted, this.partner, [...this.depths].sort((a, b) => a - b));
    }
    if (this.tab === "morph" && this.partner) {
      return between(this.adjusted, this.partner, this.share) ?? between(this.flat ?? this.base, this.partner, this.share);
    }
    return this.adjusted;
  }

  draw() {
    if (!this.base) return;
    this.tabs.replaceChildren(choice("Tools", "tab", TABS, this.tab, (tab) => {
      this.tab = tab;
      this.draw();
      this.hooks.pick(tab !== "adjust" && !this.partner ? tab : null);
    }));
    this.element.classList.toggle("two-images", this.tab !== "adjust");
    this.body.replaceChildren(...{ adjust: () => this.adjust(), mix: () => this.mix(), morph: () => this.morph() }[this.tab]());
    this.update();
  }

  async update() {
    if (!this.base) return;
    const recipe = this.current;
    this.says.textContent = words(recipe, this.model.classes);
    this.picture.alt = `Generated image: ${this.says.textContent}`;
    this.remark();
    this.settled();
    await this.live.want(this.model, recipe);
  }

  remark() {
    if (!this.base) return;
    const kept = this.hooks.isKept(this.current);
    this.keepButton.textContent = kept ? "♥ Favourite" : "♡ Favourite";
    this.keepButton.setAttribute("aria-pressed", kept);
    this.name.hidden = !kept;
    if (document.activeElement !== this.name) this.name.value = kept ? this.hooks.nameOf(this.current) : "";
    const strip = this.body.querySelector(".partners");
    if (strip) strip.replaceWith(this.partners());
  }

  // ---- sliders of this image ----

  adjust() {
    const parts = [];
    for (const { name, title, low, high, step, neutral } of this.base.seed === undefined ? [] : this.model.sliders) {
      parts.push(slider({
        label: title, min: low, max: high, step, value: this.base[name] ?? neutral,
        oninput: (value) => this.rebase({ [name]: value === neutral ? undefined : value }),
      }));
    }
    if (this.model.classes.length) {
      const own = classOf(this.base, this.model.classes);
      const pick = h("select", { id: "panel-class", onchange: () => this.rebase({ label: pick.value }) },
        this.model.classes.map((name) => h("option", { value: name, selected: name === own }, name)));
      parts.push(h("label", { class: "slider" }, h("span", { class: "name" }, "Class"), pick));
    }
    if (this.model.directions.length) {
      parts.push(h("h3", {}, "Directions"));
      for (const one of this.model.directions) {
        const row = slider({
          label: one.name, min: -4, max: 4, step: 0.1, value: this.edits[one.name] ?? 0, format: signed,
          oninput: (value) => {
            this.edits = { ...this.edits, [one.name]: value };
            this.update();
          },
        });
        parts.push(this.direction(one, row));
      }
      parts.push(h("button", { onclick: () => { this.edits = {}; this.draw(); } }, "Reset directions"));
    } else {
      parts.push(h("p", { class: "hint" }, this.model.sentence || "No directions have been computed for this model."),
        h("button", { id: "find-directions", onclick: (event) => this.findDirections(event.target) }, "Find directions"));
    }
    return parts;
  }

  /** A slider of a direction between small images of both ends. */
  direction(one, row) {
    const end = (amount) => {
      const image = h("img", { alt: "", loading: "lazy" });
      const button = h("button", { class: "end", "aria-label": `${one.name} ${signed(amount)}`, title: `${one.name} ${signed(amount)}`, onclick: () => {
        this.edits = { ...this.edits, [one.name]: amount };
        row.put(amount);
        this.update();
      } }, image);
      button.draw = () => show(image, this.model, edited(this.base, { [one.name]: amount }));
      return button;
    };
    const ends = [end(-THUMB), end(THUMB)];
    row.title = one.source;
    const found = h("div", { class: "direction" }, ends[0], row, ends[1]);
    found.draw = () => ends.forEach((button) => button.draw());
    found.draw();
    return found;
  }

  rebase(change) {
    const base = { ...this.base, ...change };
    for (const name of Object.keys(change)) if (change[name] === undefined) delete base[name];
    this.base = base;
    this.update();
    this.redrawEnds();
  }

  async findDirections(button) {
    let task = null;
    const shown = working("Computing directions", () => ask("api/task/stop", { method: "POST", query: { id: task.id } }).catch(sayError));
    button.replaceWith(shown.element);
    try {
      task = await ask("api/directions", { json: { model: this.model.name } });
      task = await followed(task, shown.tell);
      say(`Found ${task.result.names.length} directions`);
      await this.hooks.reload();
    } catch (error) {
      sayError(error);
      shown.element.replaceWith(button);
    }
  }

  // ---- second image ----

  partners() {
    const kept = this.hooks.kept().filter((one) => key(one) !== key(this.base));
    const all = this.partner && !kept.some((one) => key(one) === key(this.partner)) ? [this.partner, ...kept] : kept;
    return h("div", { class: "partners", role: "group", "aria-label": "Second image" }, all.slice(0, 60).map((recipe) => {
      const image = h("img", { alt: "", loading: "lazy" });
      show(image, this.model, recipe);
      const chosen = this.partner && key(recipe) === key(this.partner);
      return h("button", {
        "aria-pressed": String(Boolean(chosen)), "aria-label": words(recipe, this.model.classes), title: words(recipe, this.model.classes),
        onclick: () => { this.partner = recipe; this.hooks.pick(null); this.draw(); },
      }, image);
    }));
  }

  choosing(kind) {
    const hint = this.partner ? "" : h("p", { class: "hint" }, "Select the second image, in the gallery or here.");
    const other = this.partner ? h("button", { id: "other-partner", onclick: () => this.hooks.pick(kind) }, "Other …") : "";
    return [hint, h("div", { class: "second" }, this.partners(), other)].filter(Boolean);
  }

  mix() {
    const parts = this.choosing("mix");
    if (!this.partner) return parts;
    const num = this.model.num_depths;
    if (!this.depths.size) this.depths = new Set(depthsOf("fine", num));
    for (const depth of [...this.depths]) if (depth >= num) this.depths.delete(depth);
    const boxes = [...Array(num).keys()].map((depth) => h("label", { class: "depth" },
      h("input", {
        type: "checkbox", checked: this.depths.has(depth), name: `depth-${depth}`,
        onchange: (event) => {
          this.depths[event.target.checked ? "add" : "delete"](depth);
          this.update();
        },
      }), h("span", {}, String(depth))));
    const named = ["coarse", "middle", "fine"].map((name) => h("button", {
      onclick: () => { this.depths = new Set(depthsOf(name, num)); this.draw(); },
    }, name));
    parts.push(
      h("h3", {}, "Layers to take from the second image"),
      h("div", { class: "actions" }, named),
      h("div", { class: "depths", role: "group", "aria-label": "Layers, coarse to fine" },
        h("span", { class: "hint" }, "coarse"), boxes, h("span", { class: "hint" }, "fine")));
    return parts;
  }

  morph() {
    const parts = this.choosing("morph");
    if (!this.partner) return parts;
    this.prepareMorph();
    const way = slider({
      label: "Morph", min: 0, max: 1, step: 0.01, value: this.share, format: percent, id: "morph",
      oninput: (value) => { this.share = value; this.update(); },
    });
    const play = h("button", { onclick: () => this.play(way, play) }, "Play");
    parts.push(way, h("div", { class: "actions" }, play, h("button", { id: "morph-film", onclick: () => this.hooks.film([this.adjusted, this.partner]) }, "Video …")));
    return parts;
  }

  /** A nested recipe must be converted to a latent code before morphing. */
  async prepareMorph() {
    if (between(this.adjusted, this.partner, 0.5)) return;
    try {
      this.flat = (await ask("api/code", { json: { model: this.model.name, recipe: this.adjusted } })).recipe;
      this.update();
    } catch (error) {
      sayError(error);
    }
  }

  async play(way, button) {
    this.playing = !this.playing;
    button.textContent = this.playing ? "Stop" : "Play";
    let step = 0.02;
    while (this.playing && way.isConnected && this.tab === "morph") {
      if (this.share >= 1) step = -0.02;
      if (this.share <= 0) step = 0.02;
      this.share = Math.min(1, Math.max(0, round(this.share + step)));
      way.put(this.share);
      await this.update();
      await new Promise((done) => setTimeout(done, 50));
    }
    this.playing = false;
    button.textContent = "Play";
  }

  // ---- nearest training image ----

  async findNearest(aloud = false) {
    if (!this.base) return; // the panel was closed
    const recipe = this.current;
    try {
      const found = await this.hooks.near([recipe], (sentence, state) => {
        this.realFigure.hidden = false;
        this.realSays.replaceChildren(`${sentence[0].toUpperCase()}${sentence.slice(1)}. `, state === "unread"
          ? h("button", { onclick: () => this.findNearest(true) }, "Find nearest training image") : "");
      }, aloud);
      if (!this.base) return;
      if (!found || key(recipe) !== key(this.current)) {
        if (found === null) this.realFigure.hidden = true;
        return;
      }
      const [near] = found;
      this.realFigure.hidden = this.real.hidden = false;
      this.real.src = near.address;
      this.real.alt = `Nearest training image ${near.name}`;
      this.realSays.textContent = near.copy_of_it
        ? `Possible copy of this training image (correlation ${near.correlation}).`
        : `Nearest training image${near.moved ? `, ${near.moved}` : ""}: correlation ${near.correlation}.`;
      this.realFigure.classList.toggle("copy", near.copy_of_it);
    } catch (error) {
      sayError(error);
    }
  }

  // ---- download ----

  async download() {
    const recipe = this.current;
    try {
      const address = addressOf(this.model, recipe, { download: "true" });
      const name = `${words(recipe, this.model.classes).replace(/[^\p{L}\p{N}.+-]+/gu, "-").slice(0, 60)}.png`;
      if (!isLong(address)) {
        const link = h("a", { href: address, download: name });
        document.body.append(link);
        link.click();
        link.remove();
      } else {
        const response = await fetch(await source(this.model, recipe));
        download(await response.blob(), name);
      }
      say(`Downloading ${name}`);
    } catch (error) {
      sayError(error);
    }
  }
}
