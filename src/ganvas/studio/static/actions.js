// What can be done with a run: stop, resume, train longer, evaluate, open the report, explore its model.

import { duration } from "./charts.js";
import { ask } from "./client.js";
import { h, say, sayError } from "./dom.js";
import { capital, refusal, working } from "./jobs.js";
import { openTrainingFilm } from "./media.js";

const LONGER = [1.5, 2, 3, 5, 10]; // multiples of the budget

export class RunActions {
  /** hooks: { explore(name), changed() } */
  constructor(hooks) {
    Object.assign(this, { hooks, allowed: false, trainings: [], evaluation: null });
    this.buttons = h("div", { class: "actions" });
    this.says = h("div", { class: "status" });
    this.evaluated = h("section", { class: "evaluated", "aria-label": "Evaluation", hidden: true });
    this.element = h("div", { class: "run-actions" }, this.buttons, this.says, this.evaluated);
  }

  /** Take the state of the trainings of this studio, and of the evaluations. */
  async update(allowed, trainings) {
    Object.assign(this, { allowed, trainings });
    this.tasks = allowed ? (await ask("api/tasks", { query: { kind: "evaluation" } })).tasks : [];
    if (this.run) this.take(this.run);
  }

  /** Show the actions of a run; nothing is replaced while nothing changes, so that the focus stays. */
  take(run) {
    if (this.run?.name !== run.name) this.says.replaceChildren();
    this.run = run;
    const training = this.trainings.find((one) => one.run === run.name);
    const evaluation = (this.tasks ?? []).filter((one) => one.model === run.name).pop();
    const busy = this.trainings.find((one) => ["starting", "training", "stopping"].includes(one.state));
    this.drawEvaluation(evaluation, run);
    const key = JSON.stringify([run.name, run.state, run.has_model, run.has_report, Boolean(run.grids?.length), run.budget, training?.state, training?.sentence, busy?.run, evaluation?.state, this.allowed]);
    if (key === this.key) return;
    this.key = key;
    const own = ["starting", "training", "stopping"].includes(training?.state);
    const evaluating = ["waiting", "working"].includes(evaluation?.state);
    const parts = [];
    if (own) {
      const stopping = training.state === "stopping";
      const words = stopping ? "Stopping …" : training.state === "starting" ? "Cancel" : "Stop and save";
      parts.push(h("button", { id: "stop", disabled: stopping, onclick: () => this.stop() }, words));
    } else if (this.allowed && !run.begun && ["stopped", "waiting"].includes(run.state)) {
      parts.push(h("button", { id: "resume", class: "keep", disabled: Boolean(busy), onclick: () => this.resume() }, "Resume"));
    } else if (this.allowed && run.state === "finished" && run.budget) {
      parts.push(this.longer(run, busy));
    }
    if (run.has_model) parts.push(h("button", { id: "explore-model", onclick: () => this.hooks.explore(run.name) }, "Explore model"));
    if (this.allowed && run.has_model && !run.isModel) parts.push(h("button", { id: "evaluate", disabled: evaluating, onclick: () => this.evaluate() }, run.has_report ? "Evaluate again" : "Evaluate"));
    if (run.has_report) parts.push(h("a", { id: "open-report", class: "button", href: `api/run/report?${new URLSearchParams({ run: run.name })}`, target: "_blank", rel: "noopener" }, "Open report"));
    if (run.grids?.length) parts.push(h("button", { id: "training-film", onclick: () => openTrainingFilm(this.run) }, "Video …"));
    if (training?.sentence && ["failed", "stopped"].includes(training.state) && !run.begun) {
      parts.push(h("p", { class: training.state === "failed" ? "refused" : "hint" }, capital(training.sentence)));
    }
    if (busy && busy.run !== run.name && this.allowed && run.state !== "training") {
      parts.push(h("span", { class: "hint" }, `${busy.run} is being trained; one run is trained at a time.`));
    }
    const focused = this.buttons.contains(document.activeElement);
    this.buttons.replaceChildren(...parts);
    if (focused) this.buttons.querySelector("button:not([disabled])")?.focus();
  }

  longer(run, busy) {
    const words = (value) => (run.budget_unit === "minutes" ? duration(60 * value) : `${value.toLocaleString()} ${run.budget_unit}`);
    const values = LONGER.map((factor) => (run.budget_unit === "images" ? Math.round(factor * run.budget) : Number((factor * run.budget).toPrecision(3))));
    const pick = h("select", { id: "longer", "aria-label": "New budget" }, values.map((one, place) => h("option", { value: one, selected: place === 1 }, `${words(one)} in total`)));
    return h("span", { class: "longer" }, pick,
      h("button", { id: "resume", disabled: Boolean(busy), onclick: () => this.resume(Number(pick.value)) }, "Train longer"));
  }

  /** done: what to say then; otherwise the sentence of the answer. */
  async act(address, json, done) {
    try {
      const answer = await ask(address, { json });
      this.says.replaceChildren();
      say(done ?? capital(answer.sentence));
    } catch (error) {
      this.says.replaceChildren(refusal(error.message));
    }
    this.hooks.changed();
  }

  stop() {
    return this.act("api/trainings/stop", { run: this.run.name });
  }

  resume(budget) {
    return this.act("api/trainings/resume", { run: this.run.name, ...(budget ? { budget } : {}) }, `Training ${this.run.name} goes on`);
  }

  /** source: the training images, for a model without its run. */
  evaluate(source) {
    return this.act("api/evaluations", { model: this.run.name, ...(source ? { source } : {}) }, "The evaluation has started");
  }

  // ---- evaluation ----

  drawEvaluation(task, run) {
    const key = JSON.stringify([task ?? null, run.name]);
    if (key === this.evaluationKey) return;
    this.evaluationKey = key;
    this.evaluated.hidden = !task;
    if (!task) return;
    if (["waiting", "working"].includes(task.state)) {
      if (this.waiting?.id !== task.id) {
        const shown = working("Evaluating", () => ask("api/task/stop", { method: "POST", query: { id: task.id } }).catch(sayError));
        this.waiting = { id: task.id, ...shown };
        this.evaluated.replaceChildren(h("h2", {}, "Evaluation"), shown.element);
      }
      this.waiting.tell(task);
      return;
    }
    this.waiting = null;
    this.evaluated.replaceChildren(h("h2", {}, "Evaluation"),
      task.state === "failed" ? refusal(task.sentence)
        : h("div", { role: "status" }, h("p", {}, task.result.has_report ? "Done: open the report." : "Done."),
          h("details", { open: !task.result.has_report }, h("summary", {}, "Measures"), h("pre", {}, task.result.lines.join("\n")))));
  }
}
