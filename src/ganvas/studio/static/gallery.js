// Endless gallery: only the rows near the screen exist; the height of the page grows while scrolling.

import { h, sayError } from "./dom.js";
import { show } from "./client.js";

const GAP = 10;
const CAPTION = 24;
const AHEAD = 1.2; // screen heights rendered above and below

export class Gallery {
  /**
   * @param element empty container
   * @param deck { at(i) -> recipe, words(recipe), isKept(recipe), chosen(recipe, i), keep(recipe), near(recipes) }
   */
  constructor(element, deck) {
    Object.assign(this, { element, deck, tiles: new Map(), active: 0, size: 150, model: null, withReal: false });
    element.classList.add("gallery");
    this.list = h("ul", { class: "tiles", "aria-label": "Generated images; use the arrow keys to move" });
    element.append(this.list);
    this.list.addEventListener("keydown", (event) => this.onKey(event));
    addEventListener("scroll", () => this.soon(), { passive: true });
    new ResizeObserver(() => this.relayout()).observe(element);
  }

  /** Show new images from the top. */
  reset(model) {
    this.model = model;
    for (const index of [...this.tiles.keys()]) this.drop(index);
    this.active = 0;
    this.furthest = 0;
    if (this.element.getBoundingClientRect().top < 0) this.element.scrollIntoView({ block: "start" });
    this.relayout();
  }

  relayout() {
    const width = this.list.clientWidth;
    if (!this.model || !width) return;
    const ratio = this.model.height / this.model.width;
    const wanted = this.withReal ? 2 * this.size + 2 : this.size;
    this.columns = Math.max(1, Math.floor((width + GAP) / (wanted + GAP)));
    this.width = (width - GAP * (this.columns - 1)) / this.columns;
    const picture = this.withReal ? (this.width - 2) / 2 : this.width;
    this.pictureHeight = picture * ratio;
    this.row = this.pictureHeight + CAPTION + GAP;
    for (const [index, tile] of this.tiles) this.place(index, tile);
    this.render();
  }

  soon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.render();
    });
  }

  render() {
    if (!this.model || !this.columns || this.element.closest("[hidden]")) return;
    const top = -this.list.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor((top - AHEAD * innerHeight) / this.row)) * this.columns;
    const last = Math.ceil((top + (1 + AHEAD) * innerHeight) / this.row) * this.columns;
    for (const index of [...this.tiles.keys()]) {
      if ((index < first || index >= last) && index !== this.active) this.drop(index);
    }
    const fresh = [];
    for (let index = first; index < last; index++) if (!this.tiles.has(index)) fresh.push(this.make(index));
    this.furthest = Math.max(this.furthest, last);
    const rows = Math.ceil(this.furthest / this.columns) + 8;
    this.list.style.setProperty("height", `${rows * this.row}px`);
    if (fresh.length && this.withReal) this.showReal(fresh);
  }

  make(index) {
    const recipe = this.deck.at(index);
    const image = h("img", { alt: "", decoding: "async", draggable: "false" });
    const real = h("img", { alt: "", class: "real" });
    const caption = h("span", { class: "caption" }, this.deck.short(recipe));
    const pick = h("button", {
      class: "pick", tabindex: index === this.active ? 0 : -1,
      onclick: () => { this.activate(index, false); this.deck.chosen(recipe, index); },
      onfocus: () => this.activate(index, false),
      ondblclick: () => this.deck.keep(recipe),
    }, h("span", { class: "frames" }, image, real), caption);
    const heart = h("button", { class: "heart", tabindex: -1, onclick: () => this.deck.keep(recipe) }, "♥");
    const element = h("li", { class: "tile", "aria-posinset": index + 1, "aria-setsize": -1 }, pick, heart);
    const tile = { element, image, real, caption, pick, heart, recipe };
    this.tiles.set(index, tile);
    this.mark(tile);
    this.place(index, tile);
    show(image, this.model, recipe);
    const next = [...this.list.children].find((one) => Number(one.dataset.index) > index);
    element.dataset.index = index;
    this.list.insertBefore(element, next ?? null); // in order, for screen readers
    return tile;
  }

  place(index, tile) {
    const column = index % this.columns;
    const row = Math.floor(index / this.columns);
    const style = tile.element.style;
    style.setProperty("left", `${column * (this.width + GAP)}px`);
    style.setProperty("top", `${row * this.row}px`);
    style.setProperty("width", `${this.width}px`);
    style.setProperty("height", `${this.row - GAP}px`);
    style.setProperty("--picture", `${this.pictureHeight}px`);
    tile.element.classList.toggle("pair", this.withReal);
  }

  drop(index) {
    const tile = this.tiles.get(index);
    tile.image.onerror = null;
    tile.image.removeAttribute("src"); // cancels the request
    tile.element.remove();
    this.tiles.delete(index);
  }

  mark(tile) {
    const kept = this.deck.isKept(tile.recipe);
    tile.heart.setAttribute("aria-pressed", kept);
    tile.heart.setAttribute("aria-label", `Favourite: ${this.deck.short(tile.recipe)}`); // pressed or not
    tile.heart.title = kept ? "Remove from favourites (k)" : "Add to favourites (k)";
    tile.pick.setAttribute("aria-label", `${this.name(tile)}${kept ? ", favourite" : ""}`);
    tile.element.classList.toggle("kept", kept);
  }

  /** Name of a tile for screen readers: what its caption says, and the whole recipe. */
  name(tile) {
    const caption = tile.caption.textContent;
    const words = this.deck.words(tile.recipe);
    return words.startsWith(caption) ? words : `${caption}: ${words}`;
  }

  /** Update the marks after the favourites have changed. */
  remark() {
    for (const tile of this.tiles.values()) this.mark(tile);
  }

  activate(index, focus = true) {
    const before = this.tiles.get(this.active);
    if (before) {
      before.pick.tabIndex = -1;
      before.element.classList.remove("active");
    }
    this.active = index;
    let tile = this.tiles.get(index);
    if (focus) {
      const top = this.list.getBoundingClientRect().top + Math.floor(index / this.columns) * this.row;
      const space = { over: 130, under: 150 }; // fixed bars at the top and bottom
      if (top < space.over) scrollBy({ top: top - space.over });
      if (top + this.row > innerHeight - space.under) scrollBy({ top: top + this.row - innerHeight + space.under });
      this.render();
      tile = this.tiles.get(index);
    }
    if (!tile) return;
    tile.pick.tabIndex = 0;
    tile.element.classList.add("active");
    if (focus) {
      tile.pick.focus({ preventScroll: true });
      this.deck.chosen(tile.recipe, index, true);
    }
  }

  get current() {
    return this.tiles.get(this.active)?.recipe ?? null;
  }

  /** The recipes of the images on the screen. */
  onScreen() {
    const seen = [...this.tiles.values()].filter(({ element }) => {
      const box = element.getBoundingClientRect();
      return box.bottom > 60 && box.top < innerHeight;
    });
    return seen.sort((a, b) => a.element.dataset.index - b.element.dataset.index).map((tile) => tile.recipe);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor((innerHeight - 200) / this.row)) * this.columns;
    const step = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns,
      PageDown: page, PageUp: -page, Home: -this.active,
    }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const wanted = this.active + step;
    if (wanted >= 0) this.activate(wanted);
    else if (event.key === "PageUp") this.activate(this.active % this.columns);
  }

  // ---- nearest training images ----

  async showReal(tiles = [...this.tiles.values()]) {
    for (let start = 0; start < tiles.length; start += 32) {
      const part = tiles.slice(start, start + 32).filter((tile) => tile.element.isConnected);
      if (!part.length) continue;
      let found;
      try {
        found = await this.deck.near(part.map((tile) => tile.recipe));
      } catch (error) {
        sayError(error);
      }
      if (!found) return;
      part.forEach((tile, i) => {
        const near = found[i];
        tile.real.src = near.address;
        tile.real.alt = `nearest training image, correlation ${near.correlation}`;
        tile.element.classList.toggle("copy", near.copy_of_it);
        tile.caption.textContent = near.copy_of_it ? `copy? ${near.correlation}` : `real: ${near.correlation}`;
        this.mark(tile);
      });
    }
  }
}
