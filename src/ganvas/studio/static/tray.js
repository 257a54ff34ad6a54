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
    this.undoButton = h("button", { id: "kept-undo", title: "Undo the last change (Ctrl+Z)", onclick: () => this.undo() }, "Undo");
    this.buttons = h("div", { class: "actions" },
      this.undoButton,
      this.pickList,
      h("button", { id: "kept-film", onclick: () => hooks.film() }, "Video …"),
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
    this.undoable = told.undo;
    this.draw();
  }

  has(recipe) {
    return this.keys.has(key(recipe));
  }

  titleOf(recipe) {
    return this.pictures.find((one) => key(one.recipe) === key(recipe))?.title ?? "";
  }

  /** Add an image to the favourites or remove it. */
  toggle(recipe) {
    return this.change(() => {
      const kept = this.has(recipe);
      return [kept ? "api/favourites/remove" : "api/favourites", { recipe }, (told) => (kept ? "Removed from favourites" : `Added to favourites (${told.pictures.length})`)];
    });
  }

  rename(recipe, title) {
    return this.change(() => ["api/favourites", { recipe, title }, () => (title ? `Named “${title}”` : "Name removed")]);
  }

  /** Move an image to another place; with the keys the focus follows it. */
  async move(recipe, place, focus = false) {
    const most = this.pictures.length - 1;
    const to = Math.min(most, Math.max(0, place));
    await this.change(() => ["api/favourites/move", { recipe, place: to }, () => `Moved to place ${to + 1} of ${most + 1}`]);
    if (focus) this.strip.children[to]?.querySelector("button")?.focus();
  }

  undo() {
    return this.change(() => ["api/favourites/undo", null, () => "Undone"]);
  }

  /** Requests are sent one after the other to keep their order. make() -> [path, values, (told) -> words] */
  change(make) {
    this.changing = (this.changing ?? Promise.resolve()).then(async () => {
      const [path, values, words] = make();
      try {
        const told = await ask(path, values ? { json: { model: this.model.name, list: this.list, ...values } }
          : { method: "POST", query: { model: this.model.name, list: this.list } });
        this.take(told);
        say(words(told));
      } catch (error) {
        sayError(error);
      }
    });
    return this.changing;
  }

  draw() {
    this.keys = new Set(this.pictures.map((one) => key(one.recipe)));
    this.title.textContent = `Favourites: ${this.pictures.length}`;
    this.pickList.replaceChildren(
      ...this.lists.map((name) => h("option", { value: name, selected: name === this.list }, name)),
      h("option", { value: " " }, "new list …"));
    for (const button of this.buttons.querySelectorAll("button")) button.disabled = !this.pictures.length;
    this.undoButton.disabled = !this.undoable;
    this.strip.replaceChildren(...this.pictures.map((one, place) => this.thumb(one, place)));
    $("tray").classList.toggle("bare", !this.pictures.length);
    $("tray").classList.toggle("undoable", Boolean(this.undoable));
    this.hooks.changed();
  }

  thumb({ recipe, title }, place) {
    const told = title || words(recipe, this.model.classes);
    const image = h("img", { alt: "", loading: "lazy", draggable: "false" });
    show(image, this.model, recipe);
    const name = `Favourite ${place + 1} of ${this.pictures.length}: ${told}`;
    const pick = h("button", {
      title: `${told}\nDrag to reorder, or Alt with ← and →`, "aria-label": name, "aria-keyshortcuts": "Alt+ArrowLeft Alt+ArrowRight",
      onclick: () => this.hooks.chosen(recipe),
      onkeydown: (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!event.altKey || !step) return;
        event.preventDefault();
        event.stopPropagation();
        this.move(recipe, place + step, true);
      },
    }, image);
    const item = h("li", { draggable: "true" }, pick, title ? h("span", { class: "name", "aria-hidden": "true" }, title) : "");
    item.addEventListener("dragstart", (event) => {
      this.dragged = { recipe, place };
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setData("text/plain", told);
      item.classList.add("dragged");
    });
    item.addEventListener("dragend", () => { this.dragged = null; item.classList.remove("dragged"); this.markDrop(null); });
    item.addEventListener("dragover", (event) => {
      if (!this.dragged) return;
      event.preventDefault();
      this.markDrop(item, after(event, item));
    });
    item.addEventListener("drop", (event) => {
      if (!this.dragged) return;
      event.preventDefault();
      const { recipe: moved, place: from } = this.dragged;
      const to = place + (after(event, item) ? 1 : 0);
      this.move(moved, to > from ? to - 1 : to);
    });
    return item;
  }

  /** Show where a dragged image would go. */
  markDrop(item, behind = false) {
    for (const one of this.strip.children) {
      one.classList.toggle("before", one === item && !behind);
      one.classList.toggle("after", one === item && behind);
    }
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

/** Whether the pointer is in the right half of an element. */
function after(event, element) {
  const { left, width } = element.getBoundingClientRect();
  return event.clientX > left + width / 2;
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
