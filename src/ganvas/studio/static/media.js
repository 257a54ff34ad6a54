// Dialogs that make a file: a video of images or of a training, and images enlarged for printing.

import { ask } from "./client.js";
import { choice, copyCommand, h } from "./dom.js";
import { followed, refusal, working } from "./jobs.js";

const SIZES = [["1080x1080", "Square 1080x1080"], ["1920x1080", "Wide 1920x1080"], ["1080x1920", "Tall 1080x1920"], ["", "Other …"]];
const FORMS = [["mp4", "MP4"], ["webm", "WebM"], ["gif", "GIF"], ["mov", "MOV"]];
const ABOUT = {
  mp4: "Plays everywhere.", webm: "For web pages.", gif: "For messages and slides: 256 colours, at most 50 frames per second, large files.",
  mov: "ProRes for video editors; browsers cannot show it.",
};
const SEE_THROUGH = ["webm", "gif", "mov"]; // formats with transparency
const EASINGS = [["cosine", "slow at each image"], ["cubic", "slower still at each image"], ["linear", "constant"]];
const FILTERS = [["lanczos", "Smooth"], ["nearest", "Pixelated"]];
const RATES = [12, 24, 25, 30, 50, 60];
const MOST_FRAMES = 20000, MOST_SIDE = 7680, MOST_PIXELS = 2 ** 28; // limits of the studio
const last = {}; // the choices of the last dialogs

const field = (label, ...parts) => h("label", { class: "field" }, h("span", {}, label), parts);
const group = (label, ...parts) => h("div", { class: "field" }, h("span", { "aria-hidden": "true" }, label), parts);
const pick = (id, values, chosen, onchange) => h("select", { id, onchange },
  values.map(([value, text]) => h("option", { value, selected: String(value) === String(chosen) }, text)));
const number = (id, value, min, max, step, onchange) => h("input", { type: "number", id, value, min, max, step, required: true, onchange, oninput: onchange });

/** A dialog with a form, and below it the job: progress, cancel, then the file. `start` returns the promise of a job. */
class MakingDialog {
  constructor(id, title, verb, { body, start, command }) {
    this.form = h("div", { class: "options" });
    this.area = h("div", { class: "made" });
    this.body = body;
    this.go = h("button", { id: `${id}-start`, class: "keep", type: "submit" }, verb);
    const heading = h("h2", { id: `${id}-title` }, title);
    const close = h("button", { class: "plain close", type: "button", "aria-label": "Close", onclick: () => this.element.close() }, "✕");
    const commands = h("button", { type: "button", id: `${id}-command`, onclick: () => this.copy(command, commands) }, "Copy command");
    const form = h("form", { onsubmit: (event) => { event.preventDefault(); this.run(start); } },
      this.form, h("div", { class: "actions go" }, this.go, command ? commands : ""));
    this.element = h("dialog", { id, class: "making", "aria-labelledby": `${id}-title` }, h("div", { class: "over" }, heading, close), form, this.area);
    this.element.addEventListener("close", () => { this.cancel(); this.element.remove(); });
    document.body.append(this.element);
    this.draw();
    this.element.showModal();
    this.element.querySelector("input, select")?.focus();
  }

  draw() {
    const focused = document.activeElement?.id;
    this.form.replaceChildren(...this.body(() => this.draw()).filter(Boolean));
    if (focused) document.getElementById(focused)?.focus();
  }

  async copy(command, button) {
    try {
      await copyCommand(await command());
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy command"; }, 2000);
    } catch (error) {
      this.area.replaceChildren(refusal(error.message));
    }
  }

  cancel() {
    if (this.task) ask("api/task/stop", { method: "POST", query: { id: this.task.id } }).catch(() => {});
    this.task = null;
  }

  async run(start) {
    this.cancel();
    const shown = working(this.go.textContent, () => this.cancel());
    this.area.replaceChildren(shown.element);
    shown.element.scrollIntoView({ block: "nearest" });
    this.go.disabled = true;
    try {
      this.task = await start();
      const mine = this.task;
      const done = await followed(mine, shown.tell, () => this.task === mine);
      if (done) this.show(done);
      else this.area.replaceChildren(h("p", { class: "hint", role: "status" }, "Cancelled."));
    } catch (error) {
      this.area.replaceChildren(refusal(error.message));
    }
    this.task = null;
    this.go.disabled = false;
  }

  show(task) {
    const { name, type, bytes } = task.result;
    const address = (more) => `api/task/file?${new URLSearchParams({ id: task.id, ...more })}`;
    const link = h("a", { class: "button keep", href: address({ download: "true" }), download: name }, `Download ${name.split(".").pop().toUpperCase()}`);
    this.area.replaceChildren(h("div", { class: "actions" }, link, h("span", { class: "hint", role: "status" }, `${name}, ${size(bytes)}`)),
      preview(type, address({}), name) ?? "");
    this.area.scrollIntoView({ block: "nearest" });
    link.focus({ preventScroll: true });
  }
}

function preview(type, src, name) {
  if (type === "video/mp4" || type === "video/webm") {
    const video = h("video", { src, controls: true, loop: true, playsinline: true, "aria-label": `Preview of ${name}` });
    video.muted = true;
    video.autoplay = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    return video;
  }
  return ["image/gif", "image/webp", "image/png", "image/jpeg"].includes(type) ? h("img", { src, alt: `Preview of ${name}` }) : null;
}

const size = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3)).toLocaleString()} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

// ---- films ----

/** The fields that both kinds of videos have. look: their values, changed by the fields. */
function look(values, draw, transparent) {
  const put = (change, again = true) => { Object.assign(values, change); if (again) draw(); };
  const clear = transparent && SEE_THROUGH.includes(values.form);
  if (values.background === "" && !clear) values.background = transparent ? "#ffffff" : "#000000";
  const grounds = [...(clear ? [["", "transparent"]] : []), ["#000000", "black"], ["#ffffff", "white"], ["own", "own colour …"]];
  const ground = grounds.some(([value]) => value === values.background) ? values.background : "own";
  const sizes = values.size === "" || !SIZES.some(([value]) => value === values.size);
  return [
    group("Size in pixels", choice("Size in pixels", "film-size", SIZES, sizes ? "" : values.size, (size) => put({ size }))),
    sizes && h("div", { class: "pair" },
      field("Width", number("film-width", values.width, 16, MOST_SIDE, 2, (event) => put({ width: event.target.value }, false))),
      field("Height", number("film-height", values.height, 16, MOST_SIDE, 2, (event) => put({ height: event.target.value }, false)))),
    group("Format", choice("Format", "film-form", FORMS, values.form, (form) => put({ form, ...(transparent && SEE_THROUGH.includes(form) ? { background: "" } : {}) })),
      h("span", { class: "hint" }, `${ABOUT[values.form]}${transparent && SEE_THROUGH.includes(values.form) ? " It can be transparent." : ""}`)),
    h("div", { class: "pair" },
      group("Enlargement", choice("Enlargement", "film-filter", FILTERS, values.filter, (filter) => put({ filter }))),
      field("Background", pick("film-background", grounds, ground, (event) => put({ background: event.target.value === "own" ? "#808080" : event.target.value })),
        ground === "own" && h("input", { type: "color", value: values.background, "aria-label": "Colour of the background", onchange: (event) => put({ background: event.target.value }, false) }))),
  ];
}

/** The values of `look` as the studio takes them. */
function asked(values) {
  const { form, filter, background } = values;
  const own = values.size || `${values.width}x${values.height}`;
  return { form, size: own, filter, ...(background ? { background } : {}) };
}

/**
 * A video that goes from image to image.
 * sources: [{ name, text, recipes }], each with two or more images; walk(first, num) -> recipes, from a seed.
 */
export function openFilm(model, sources, walk) {
  const values = Object.assign(last, {
    width: 1080, height: 1350, size: "1080x1080", form: "mp4", filter: "lanczos", background: "", seconds: 8, fps: 24, easing: "cosine", loop: true,
    first: 0, num: 6, ...last,
  });
  values.source = sources.length && sources[0].name !== "screen" ? sources[0].name : "walk";
  const of = () => sources.find((one) => one.name === values.source)?.recipes ?? walk(Number(values.first), Number(values.num));
  const body = () => ({
    ...asked(values), model: model.name, recipes: of(), seconds: Number(values.seconds), fps: Number(values.fps), easing: values.easing, loop: values.loop,
  });
  const put = (change) => Object.assign(values, change);
  return new MakingDialog("film", "Video from image to image", "Make the video", {
    start: () => ask("api/films", { json: body() }),
    command: () => ask("api/films/command", { json: body() }),
    body: (draw) => [
      field("Images", pick("film-source", [...sources.map((one) => [one.name, one.text]), ["walk", "A walk from a seed"]], values.source,
        (event) => { put({ source: event.target.value }); draw(); })),
      values.source === "walk" && h("div", { class: "pair" },
        field("First seed", number("film-first", values.first, 0, 2 ** 50, 1, (event) => put({ first: event.target.value }))),
        field("Number of images", number("film-num", values.num, 2, 200, 1, (event) => put({ num: event.target.value })))),
      ...look(values, draw, model.channels === 4),
      h("div", { class: "three" },
        field("Seconds", number("film-seconds", values.seconds, 0.2, MOST_FRAMES / 24, "any", (event) => put({ seconds: event.target.value }))),
        field("Frames per second", pick("film-fps", RATES.map((rate) => [rate, rate]), values.fps, (event) => put({ fps: event.target.value }))),
        field("Speed", pick("film-easing", EASINGS, values.easing, (event) => put({ easing: event.target.value })))),
      h("label", { class: "check" }, h("input", { type: "checkbox", id: "film-loop", checked: values.loop, onchange: (event) => put({ loop: event.target.checked }) }),
        " Return to the first image, so that the video can be repeated without a jump"),
    ],
  });
}

/** A video of a training, from its preview grids. */
export function openTrainingFilm(run) {
  const values = { width: 1080, height: 1350, size: "1080x1080", form: "mp4", filter: "lanczos", background: "#ffffff", seconds: Math.max(5, Math.round(2.5 + run.grids.length / 6)) };
  const body = () => ({ ...asked(values), run: run.name, seconds: Number(values.seconds) });
  return new MakingDialog("film", `Video of the training ${run.title}`, "Make the video", {
    start: () => ask("api/run/films", { json: body() }),
    command: () => ask("api/run/films/command", { json: body() }),
    body: (draw) => [
      h("p", { class: "hint" }, `The ${run.grids.length.toLocaleString()} previews of the training, one after the other; the last one is shown for 2.5 seconds.`),
      ...look(values, draw, false),
      field("Seconds", number("film-seconds", values.seconds, 3, 3600, "any", (event) => { values.seconds = event.target.value; })),
    ],
  });
}

// ---- prints ----

/** Images enlarged for printing, with their resolution. */
export function openPrint(model, recipes) {
  const several = recipes.length > 1;
  const most = Math.max(1, Math.min(64, Math.floor(Math.sqrt(MOST_PIXELS / (model.width * model.height)))));
  const values = Object.assign(last, { print: "png", printFilter: "lanczos", dpi: 300, form2: "files", ...last });
  values.enlarge = Math.min(most, last.enlarge ?? Math.max(1, Math.ceil(2048 / Math.max(model.width, model.height))));
  const columns = Math.ceil(Math.sqrt(recipes.length));
  const together = () => several && values.form2 === "grid";
  const facts = h("p", { class: "hint", role: "status", id: "print-facts" });
  const tell = () => {
    const [across, down] = together() ? [columns, Math.ceil(recipes.length / columns)] : [1, 1];
    const [width, height] = [model.width * values.enlarge * across, model.height * values.enlarge * down];
    const cm = (pixels) => ((pixels / values.dpi) * 2.54).toLocaleString(undefined, { maximumFractionDigits: 1 });
    facts.textContent = `${together() ? "The grid has" : several ? "Each image has" : "The image has"} ${width.toLocaleString()} x ${height.toLocaleString()} pixels: ${cm(width)} x ${cm(height)} cm in print.`;
  };
  const put = (change) => { Object.assign(values, change); tell(); };
  const body = () => ({
    model: model.name, recipes, format: values.print, enlarge: Number(values.enlarge), filter: values.printFilter, dpi: Number(values.dpi),
    ...(together() ? { columns } : {}),
  });
  const formats = Object.entries(model.formats);
  return new MakingDialog("print", several ? `Save ${recipes.length} images` : "Save the image", several ? "Make the files" : "Make the file", {
    start: () => ask("api/prints", { json: body() }),
    command: () => ask("api/prints/command", { json: body() }),
    body: () => {
      tell();
      return [
        several && group("Files", choice("Files", "print-form", [["files", `${recipes.length} images in a ZIP file`], ["grid", "One grid"]], values.form2, (form2) => put({ form2 }))),
        group("Format", choice("Format", "print-format", formats, values.print, (print) => put({ print })),
          h("span", { class: "hint" }, "PNG and TIFF are lossless; files of other formats are smaller.")),
        h("div", { class: "pair" },
          field(`Enlargement, 1 to ${most} times`, number("print-enlarge", values.enlarge, 1, most, 1, (event) => put({ enlarge: event.target.value }))),
          field("Resolution in dots per inch", number("print-dpi", values.dpi, 1, 10000, 1, (event) => put({ dpi: event.target.value })))),
        group("Filter", choice("Filter", "print-filter", [["lanczos", "Smooth"], ["bicubic", "Softer"], ["nearest", "Pixelated"]], values.printFilter, (printFilter) => put({ printFilter }))),
        facts,
      ];
    },
  });
}
