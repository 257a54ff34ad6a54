// Slow jobs of the studio: wait for them, show their progress.

import { ask } from "./client.js";
import { h } from "./dom.js";

/** Wait for a slow job; null if it is no longer wanted. Throws an error if the job fails. */
export async function followed(task, tell, wanted = () => true) {
  let now = task;
  while (now.state === "waiting" || now.state === "working") {
    tell(now);
    await new Promise((done) => setTimeout(done, 400));
    if (!wanted()) return null;
    now = await ask("api/task", { query: { id: task.id } });
  }
  if (!wanted()) return null;
  if (now.state === "failed") throw new Error(now.sentence);
  return now;
}

/** A progress bar with the current step and a button to cancel. */
export function working(title, cancel) {
  const bar = h("progress", { max: 1, "aria-label": title });
  const says = h("span", { role: "status" }, `${title} …`); // read aloud; the numbers change too often for that
  const counts = h("span", { class: "counts" });
  const button = h("button", { onclick: () => { button.disabled = true; cancel(); } }, "Cancel");
  const tell = (task) => {
    const waits = task.state === "waiting" ? "waiting for another job" : task.doing;
    const step = `${!waits ? title : /^\S+\.\w+:/.test(waits) ? waits : capital(waits)} …`; // file names stay as they are
    if (says.textContent !== step) says.textContent = step;
    counts.textContent = task.total ? `${task.done.toLocaleString()} of ${task.total.toLocaleString()}` : "";
    if (task.total) bar.value = task.done / task.total;
    else bar.removeAttribute("value");
  };
  return { element: h("div", { class: "working" }, bar, h("div", { class: "actions" }, says, counts, button)), tell };
}

/** An error as an element. */
export const refusal = (message) => h("p", { class: "refused", role: "alert" }, capital(message));

export const capital = (words) => `${words[0].toUpperCase()}${words.slice(1)}`;
