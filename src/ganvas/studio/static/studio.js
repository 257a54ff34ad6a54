// The page with its views and the selected model. The state is stored in the URL, so that it survives a reload.

import { ask } from "./client.js";
import { $, h, say, sayError } from "./dom.js";
import { Explore } from "./explore.js";
import { NewTraining } from "./train.js";
import { Watch } from "./watch.js";

const VIEWS = { explore: "explore", watch: "training", train: "new training" };
const told = { view: "explore", values: {} };

function read() {
  const [view, query = ""] = location.hash.slice(1).split("?");
  told.view = view in VIEWS ? view : "explore";
  told.values = Object.fromEntries(new URLSearchParams(query));
}

function write(view, values) {
  const kept = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined && value !== false);
  const query = new URLSearchParams(kept);
  history.replaceState(null, "", `#${view}${query.size ? `?${query}` : ""}`);
  read();
}

const explore = new Explore((view) => write("explore", {
  model: $("model").value, label: view.label, seed: view.seed || "", ...view.amounts,
}));
const watch = new Watch({
  remember: (values) => write("watch", values),
  explore: (name) => { location.hash = `explore?${new URLSearchParams({ model: name })}`; },
});
const train = new NewTraining({
  remember: (values) => write("train", values),
  started: (name) => { location.hash = `watch?${new URLSearchParams({ run: name })}`; },
});

async function places() {
  const [{ places }, info] = await Promise.all([ask("api/places"), ask("api/new")]);
  const { allowed } = info;
  const models = places.filter((one) => one.has_model);
  $("model").replaceChildren(...models.map((one) => h("option", { value: one.name }, one.title)));
  $("to-watch").hidden = !allowed && !places.some((one) => one.is_run);
  $("to-train").hidden = !info.new;
  watch.know(info, models.filter((one) => !one.is_run).map((one) => one.name));
  return { models, empty: info.new && !places.length };
}

async function turn() {
  read();
  for (const view of Object.keys(VIEWS)) {
    $(view).hidden = view !== told.view;
    if (view === told.view) $(`to-${view}`).setAttribute("aria-current", "page");
    else $(`to-${view}`).removeAttribute("aria-current");
  }
  document.body.dataset.view = told.view;
  document.title = `Ganvas studio: ${VIEWS[told.view]}`;
  if (told.view !== "explore") $("tray").hidden = true;
  if (told.view !== "watch") watch.stop();
  if (told.view !== "train") train.stop();
  const { models, empty } = await places();
  if (told.view === "watch") {
    await watch.start({ run: told.values.run, others: told.values.with });
    return;
  }
  if (told.view === "train") {
    await train.start(told.values);
    return;
  }
  if (!models.length) {
    $("tray").hidden = true;
    if (empty) {
      location.hash = "train";
      return;
    }
    say("No run in this folder has a model yet. See Training for the progress.");
    location.hash = "watch";
    return;
  }
  const wanted = models.find((one) => one.name === told.values.model) ?? models[0];
  $("model").value = wanted.name;
  $("tray").hidden = false;
  if (explore.shownName === wanted.name) {
    explore.gallery.relayout();
    await explore.refresh();
    return;
  }
  const { model: _, label = "", seed, ...amounts } = told.values;
  await explore.load(wanted.name, { label, seed: Math.max(0, Math.floor(Number(seed) || 0)), amounts });
}

$("model").addEventListener("change", () => { location.hash = `explore?${new URLSearchParams({ model: $("model").value })}`; });
$("help").addEventListener("click", () => $("keys").showModal());
document.addEventListener("keydown", (event) => {
  if (event.key === "?" && !event.target.closest("input, textarea, select, dialog")) $("keys").showModal();
});
for (const name of ["dragover", "drop"]) { // a file that misses its place must not replace the page
  addEventListener(name, (event) => { if (event.dataTransfer?.types.includes("Files")) event.preventDefault(); });
}
addEventListener("hashchange", () => turn().catch(sayError));
turn().catch(sayError);
