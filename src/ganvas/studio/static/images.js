// Choose the images of a training: upload files, a folder or an archive; pick a folder on the server; or a named data set.

import { ask } from "./client.js";
import { choice, h, sayError } from "./dom.js";
import { refusal } from "./jobs.js";

const PIECE = 8 * 2 ** 20; // bytes per request
const AT_ONCE = 4; // files sent at a time
const ARCHIVE = /\.(zip|tar|tar\.gz|tgz|tar\.bz2|tbz2|tar\.xz|txz)$/i;
const TABS = [["upload", "Upload"], ["folder", "Folder on the server"], ["set", "Example data"]];

export class ImagePicker {
  /** info: answer of GET api/new. hooks: { chosen(source) } */
  constructor(info, hooks, { tab = "upload" } = {}) {
    Object.assign(this, { info, hooks, tab });
    this.tabs = h("div", {});
    this.body = h("div", { class: "picker" });
    this.element = h("div", { class: "picking" }, this.tabs, this.body);
    this.draw();
  }

  draw() {
    this.tabs.replaceChildren(choice("Where the images are", "where", TABS, this.tab, (tab) => {
      this.tab = tab;
      this.draw();
    }));
    const parts = { upload: () => this.upload(), folder: () => this.folders(), set: () => this.sets() }[this.tab]();
    this.body.replaceChildren(...parts);
  }

  // ---- upload ----

  upload() {
    const files = h("input", { type: "file", multiple: true, class: "unseen", id: "files", tabindex: -1, "aria-label": "Image files or an archive", accept: this.info.files.join(",") });
    const folder = h("input", { type: "file", webkitdirectory: true, class: "unseen", id: "folder", tabindex: -1, "aria-label": "A folder of images" });
    for (const input of [files, folder]) {
      input.addEventListener("change", () => {
        const found = [...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
        if (found.length) this.send(found);
      });
    }
    this.status = h("div", { class: "status" });
    const zone = h("div", { class: "drop" },
      h("p", {}, h("strong", {}, "Drop images, a folder or a ZIP file here")),
      h("div", { class: "actions" },
        h("button", { id: "choose-files", onclick: () => files.click() }, "Choose files"),
        h("button", { id: "choose-folder", onclick: () => folder.click() }, "Choose a folder")),
      h("p", { class: "hint" }, "Subfolders become classes. The images stay on the machine where this studio runs."), files, folder);
    zone.addEventListener("dragover", (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
    zone.addEventListener("dragleave", () => zone.classList.remove("over"));
    zone.addEventListener("drop", async (event) => {
      event.preventDefault();
      zone.classList.remove("over");
      const found = await dropped(event.dataTransfer);
      if (found.length) this.send(found);
    });
    return [zone, this.status];
  }

  /** Upload the files that are images or one archive, with progress and a button to cancel. */
  async send(found) {
    const { name, files, skipped } = sorted(found, this.info.files);
    const archives = files.filter((one) => ARCHIVE.test(one.name));
    if (!files.length) return this.fail(`No image among ${found.length} files: expected ${this.info.files.slice(0, 6).join(", ")} or .zip.`);
    if (archives.length && files.length > 1) return this.fail("An archive and other files: drop one archive, or image files only.");
    const total = files.reduce((sum, one) => sum + one.file.size, 0);
    if (!total) return this.fail("The files are empty.");
    const stop = new AbortController();
    const bar = h("progress", { max: 1, value: 0, "aria-label": "Upload" });
    const says = h("span", {}, "");
    const cancel = h("button", { id: "cancel-upload", onclick: () => stop.abort() }, "Cancel");
    this.status.replaceChildren(bar, h("div", { class: "actions" }, says, cancel));
    let sent = 0;
    const tell = () => {
      bar.value = sent / total;
      says.textContent = `Uploading ${files.length === 1 ? files[0].name : `${files.length.toLocaleString()} images`}: ${megabytes(sent)} of ${megabytes(total)}`;
    };
    tell();
    let upload = null;
    try {
      upload = await ask("api/uploads", { json: { name, files: files.length, bytes: total }, signal: stop.signal });
      const left = [...files];
      const work = async () => {
        for (let one = left.shift(); one; one = left.shift()) {
          for (let start = 0; start === 0 || start < one.file.size; start += PIECE) {
            const piece = one.file.slice(start, start + PIECE);
            const query = { id: upload.id, name: one.name, start, last: start + PIECE >= one.file.size };
            await ask(`api/uploads/piece?${new URLSearchParams(query)}`, { method: "POST", body: piece, signal: stop.signal });
            sent += piece.size;
            tell();
          }
        }
      };
      await Promise.all(Array.from({ length: Math.min(AT_ONCE, files.length) }, work));
      const { source } = await ask("api/uploads/finish", { method: "POST", query: { id: upload.id } });
      this.status.replaceChildren();
      this.hooks.chosen(source, skipped ? `${skipped.toLocaleString()} files that are no images were not uploaded.` : "");
    } catch (error) {
      stop.abort();
      if (upload) ask("api/uploads/remove", { method: "POST", query: { id: upload.id }, raw: true }).catch(() => {});
      this.fail(error.name === "AbortError" ? "Upload cancelled." : error.message);
    }
  }

  fail(sentence) {
    this.status.replaceChildren(refusal(sentence));
  }

  // ---- a folder on the server ----

  folders() {
    const path = h("input", { type: "text", id: "path", value: this.path ?? "", spellcheck: "false", autocomplete: "off", placeholder: "Full path of a folder or archive" });
    const list = h("div", { class: "folders" });
    const go = (to) => this.list(to, path, list);
    const form = h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); go(path.value.trim()); } },
      h("label", { class: "field" }, h("span", {}, "Path"), path), h("button", {}, "Open"));
    go(this.path ?? "");
    return [form, list];
  }

  async list(to, path, list) {
    const isArchive = ARCHIVE.test(to);
    let found;
    try {
      found = await ask("api/folders", { query: { path: to } });
    } catch (error) {
      list.replaceChildren(refusal(error.message));
      return;
    }
    if (isArchive) return this.hooks.chosen(to, "");
    const focused = list.contains(document.activeElement);
    this.path = found.path;
    path.value = found.path;
    const entry = (label, target, use, kind) => h("li", {}, h("button", {
      class: "plain", onclick: () => (use ? this.hooks.chosen(target, "") : this.list(target, path, list)),
    }, h("span", { class: "sign", "aria-hidden": "true" }, kind), label));
    const up = found.path ? [entry("Up", found.parent, false, "↑")] : [];
    list.replaceChildren(
      found.path ? h("div", { class: "actions" },
        h("button", { class: "keep", id: "use-folder", onclick: () => this.hooks.chosen(found.path, "") }, "Use this folder"),
        h("span", { class: "hint", role: "status" }, inside(found))) : h("p", { class: "hint" }, "Folders that this studio may read:"),
      h("ul", { class: "entries", "aria-label": "Subfolders and archives" }, up,
        found.folders.map((one) => entry(one.name, one.path, false, "▸")),
        found.archives.map((one) => entry(`${one.name} (use this archive)`, one.path, true, "▤"))),
      found.complete ? "" : h("p", { class: "hint" }, "Not all entries are shown: enter the path."));
    if (focused) list.querySelector("button")?.focus();
  }

  // ---- named data sets ----

  sets() {
    return [h("ul", { class: "entries sets", "aria-label": "Data sets" }, this.info.sets.map((one) => h("li", {}, h("button", {
      class: "plain", onclick: () => this.hooks.chosen(one.name, ""),
    }, h("strong", {}, one.name), h("span", {}, one.title), h("span", { class: "hint" }, `Licence: ${one.licence}`))))),
    h("p", { class: "hint" }, "digits is included; others are downloaded once.")];
  }
}

function inside(found) {
  const parts = [
    found.num_images ? `${found.num_images.toLocaleString()} images` : "no images directly in it",
    found.folders.length ? `${found.folders.length.toLocaleString()} subfolders` : "",
  ];
  return parts.filter(Boolean).join(", ");
}

function megabytes(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** The files of a drop, also those in folders, as { file, name }. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, name: file.name }));
  const found = [];
  const visit = async (entry, name) => {
    if (entry.isFile) {
      found.push({ file: await new Promise((done, failed) => entry.file(done, failed)), name });
      return;
    }
    const reader = entry.createReader();
    for (;;) { // each call gives at most 100 entries
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!some.length) return;
      for (const one of some) await visit(one, `${name}/${one.name}`);
    }
  };
  try {
    for (const entry of entries) await visit(entry, entry.name);
  } catch (error) {
    sayError(error);
    return [];
  }
  return found;
}

/** Usable names of the images and archives; a folder that contains all of them gives the name of the upload. */
function sorted(found, endings) {
  const files = found.map(({ file, name }) => ({ file, name: name.split("/").map(plain).join("/") }))
    .filter(({ name }) => name.split("/").every((part) => part && !part.startsWith(".")) && endings.some((one) => name.toLowerCase().endsWith(one)));
  const tops = new Set(files.map(({ name }) => (name.includes("/") ? name.split("/")[0] : "")));
  const top = tops.size === 1 ? [...tops][0] : "";
  if (top) for (const one of files) one.name = one.name.slice(top.length + 1);
  const taken = new Set();
  for (const one of files) {
    const [, stem, ending] = one.name.match(/^(.*?)(\.[^./]*)?$/);
    for (let number = 2; taken.has(one.name.toLowerCase()); number++) one.name = `${stem}-${number}${ending ?? ""}`;
    taken.add(one.name.toLowerCase());
  }
  const single = files.length === 1 ? files[0].name.replace(ARCHIVE, "") : "images";
  return { name: plain(top || single).slice(0, 60) || "images", files, skipped: found.length - files.length };
}

/** A name without the characters that some systems do not allow. */
function plain(part) {
  const cleaned = part.normalize("NFC").replace(/[\x00-\x1f\x7f\\:*?"<>|]/g, "_").trim().replace(/\.$/, "_");
  return cleaned.length > 110 ? cleaned.slice(-110).trim() : cleaned;
}
