// Create elements without HTML strings, so that all data is shown as text.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(element, attributes);
  element.append(...children.flat());
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (["value", "checked", "disabled", "hidden", "selected"].includes(name)) element[name] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
}

export const $ = (id) => document.getElementById(id);

let quiet;
/** Show a message for a while; screen readers read it. */
export function say(text, isError = false) {
  const place = $("said");
  place.replaceChildren(h("span", { class: isError ? "error" : "" }, text));
  place.classList.add("shown");
  clearTimeout(quiet);
  quiet = setTimeout(() => place.classList.remove("shown"), isError ? 9000 : 5000);
}

/** Show an error message, except for aborted requests. */
export function sayError(error) {
  if (error?.name !== "AbortError") say(error?.message ?? String(error), true);
}

export function later(wait, work) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), wait);
  };
}

/** A slider with label and formatted value. */
export function slider({ label, min, max, step, value, format = (x) => x, oninput, onchange, id }) {
  const shown = h("output", {}, format(value));
  const input = h("input", { type: "range", min, max, step, value, id, "aria-label": label });
  input.value = value; // after the limits are set
  const tell = () => {
    shown.textContent = format(Number(input.value));
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  tell();
  input.addEventListener("input", () => { tell(); oninput?.(Number(input.value)); });
  input.addEventListener("change", () => onchange?.(Number(input.value)));
  const row = h("label", { class: "slider" }, h("span", { class: "name" }, label), input, shown);
  row.put = (number) => { input.value = number; tell(); };
  row.input = input;
  return row;
}

/** Copy a text; if the browser does not allow it, show the text in a dialog. */
async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied: ${text.length > 300 ? `${text.slice(0, 300)} …` : text}`);
  } catch {
    showTexts(what, [["", text]]);
  }
}

/** Copy a command, an answer of the studio. If PowerShell needs another one, both are shown. */
export async function copyCommand({ command, powershell }) {
  if (command === powershell) await copy(command, "The command");
  else showTexts("The command", [["Linux and macOS", command], ["PowerShell", powershell]]);
}

function showTexts(title, texts) {
  const dialog = h("dialog", { "aria-label": title }, h("h2", {}, title),
    texts.map(([name, text]) => {
      const field = h("textarea", { readonly: true, rows: 3, "aria-label": name || title }, text);
      return [name && h("h3", {}, name), field, h("div", { class: "actions" }, h("button", { onclick: () => {
        field.select();
        navigator.clipboard?.writeText(text).then(() => say("Copied"), () => {});
      } }, "Copy"))];
    }),
    h("form", { method: "dialog", class: "actions" }, h("button", {}, "Close")));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  dialog.querySelector("textarea").select();
}

export function download(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/** Radio buttons with the appearance of tabs; `pick` is called with the selected value. */
export function choice(label, name, values, chosen, pick) {
  return h("fieldset", { class: "choice" }, h("legend", { class: "unseen" }, label),
    values.map(([value, text]) => h("label", {},
      h("input", { type: "radio", name, value, checked: value === chosen, onchange: () => pick(value) }),
      h("span", {}, text))));
}
