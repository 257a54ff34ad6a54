// The favourites at the bottom of the page, saved immediately in lists in the folder of the model.

import { ask, show } from "./client.js";
import { $, copyCommand, download, h, say, sayError } from "./dom.js";
import { key, words } from "./recipes.js";

export class Tray {
  /** hooks: { chosen(recipe), changed(), save(recipes), film() } */
  constructor(hooks) {
    Object.assign(this, { hooks, pictures: [], keys: new Set(), list: "favourites", lists: ["favourites"] });
    this.strip = h("ul", { class: "strip", "aria-label": "Favourites" });
    this.title = h("h2", {});
    this.pickList = h("select", { "aria-label": "List of favourites", onchange: () => this.pick() });
    this.refused = h("p", { class: "refused", hidden: true });
    this.buttons = h("div", { class: "actions" },
      this.pickList,
      h("button", { id: "kept-film", onclick: () => hooks.film() }, "Film …"),
      h("button", { id: "kept-save", onclick: () => hooks.save(this.recipes()) }, "Save …"),
      h("button", { id: "kept-zip", title: "PNG files as generated, with a favourites file", onclick: () => this.zip() }, "ZIP"),
      h("button", { id: "kept-manifest", onclick: () => this.manifest() }, "Manifest"),
      h("button", { id: "kept-command", onclick: () => this.command() }, "Copy command"));
    this.fold = h("button", { class: "plain fold", "aria-label": "Hide favourites", "aria-expanded": "true", onclick: () => this.folded() }, "▾");
    const hint = h("span", { class: "hint" }, "No favourites yet. Click a heart or press k.");
    $("tray").append(h("div", { class: "bar" }, this.fold, this.title, hint, this.buttons), this.refused, this.strip);
    const height = () => document.documentElement.style.setProperty("--tray", `${$("tray").offsetHeight}px`);
    new ResizeObserver(height).observe($("tray"));
    this.draw();
  }

  folded() {
    const closed = $("tray").classList.toggle("closed");
    this.fold.textContent = closed ? "▴" : "▾";
    this.fold.setAttribute("aria-expanded", String(!closed));
    this.fold.setAttribute("aria-label", closed ? "Show favourites" : "Hide favourites");
  }

  async open(model, list = "favourites") {
    this.model = model;
    this.list = list;
    try {
      this.take(await ask("api/favourites", { query: { model: model.name, list } }));
    } catch (error) {
      this.pictures = [];
      this.refuse(error);
      this.draw();
    }
  }

  refuse(error) {
    this.refused.hidden = false;
    this.refused.replaceChildren(h("span", {}, error.message), " ");
    if (error.status === 409) {
      this.refused.append(h("button", { onclick: () => this.aside() }, "Rename that list and start a new one"));
    }
  }

  async aside() {
    try {
      const done = await ask("api/favourites/aside", {
        method: "POST", query: { model: this.model.name, list: this.list },
      });
      say(`The old list was renamed to ${done.file}`);
      await this.open(this.model, this.list);
    } catch (error) {
      sayError(error);
    }
  }

  take(told) {
    this.refused.hidden = true;
    this.pictures = told.pictures;
    this.lists = told.lists.includes(told.name) ? told.lists : [...told.lists, told.name];
    this.list = told.name;
    this.file = told.file;
    this.draw();
  }

  has(recipe) {
    return this.keys.has(key(recipe));
  }

  /** Add an image to the favourites or remove it; requests are sent one after the other to keep their order. */
  toggle(recipe) {
    this.changing = (this.changing ?? Promise.resolve()).then(() => this.change(recipe));
    return this.changing;
  }

  async change(recipe) {
    const kept = this.has(recipe);
    try {
      const told = await ask(kept ? "api/favourites/remove" : "api/favourites", {
        json: { model: this.model.name, list: this.list, recipe },
      });
      this.take(told);
      say(kept ? "Removed from favourites" : `Added to favourites (${told.pictures.length})`);
    } catch (error) {
      sayError(error);
    }
  }

  draw() {
    this.keys = new Set(this.pictures.map((one) => key(one.recipe)));
    this.title.textContent = `Favourites: ${this.pictures.length}`;
    this.pickList.replaceChildren(
      ...this.lists.map((name) => h("option", { value: name, selected: name === this.list }, name)),
      h("option", { value: " " }, "new list …"));
    for (const button of this.buttons.querySelectorAll("button")) button.disabled = !this.pictures.length;
    this.strip.replaceChildren(...this.pictures.map((one) => this.thumb(one)));
    $("tray").classList.toggle("bare", !this.pictures.length);
    this.hooks.changed();
  }

  thumb({ recipe, title }) {
    const told = title || words(recipe, this.model.classes);
    const image = h("img", { alt: "", loading: "lazy" });
    show(image, this.model, recipe);
    return h("li", {}, h("button", { title: told, "aria-label": `Favourite: ${told}`, onclick: () => this.hooks.chosen(recipe) },
      image));
  }

  pick() {
    let name = this.pickList.value;
    if (name === " ") {
      name = (prompt("Name of the new list: lower-case letters, digits and -") ?? "").trim();
      if (!name) {
        this.pickList.value = this.list;
        return;
      }
    }
    this.open(this.model, name);
  }

  recipes() {
    return this.pictures.map((one) => one.recipe);
  }

  async zip() {
    await zip(this.model, this.recipes(), `${this.list}.zip`);
  }

  manifest() {
    const told = { model: this.model.hash, name: this.model.name, list: this.list, pictures: this.pictures };
    download(new Blob([JSON.stringify(told, null, 2)], { type: "application/json" }), `${this.list}-manifest.json`);
  }

  async command() {
    try {
      const told = await ask("api/command", {
        json: { model: this.model.name, list: this.list },
      });
      await copyCommand(told);
    } catch (error) {
      sayError(error);
    }
  }
}

async function zip(model, recipes, name) {
  say(`Packing ${recipes.length} images …`);
  try {
    const response = await ask("api/archive", { json: { model: model.name, recipes }, raw: true });
    download(await response.blob(), name);
    say(`${name}: ${recipes.length} images`);
  } catch (error) {
    sayError(error);
  }
}
