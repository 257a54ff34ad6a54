// API documentation, generated from the OpenAPI description.

import { ask } from "./client.js";
import { $, h } from "./dom.js";

const told = await ask("api/openapi.json");

function shape(schema, deep = 0) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map((one) => shape(one, deep)).join(" or ");
  if (schema.enum) return schema.enum.join(" or ");
  if (schema.const !== undefined) return String(schema.const);
  if (schema.type === "array") return `list of ${shape(schema.items, deep + 1)}`;
  if (schema.type === "object" && schema.additionalProperties) return `names to ${shape(schema.additionalProperties, deep + 1)}`;
  return schema.type ?? "anything";
}

const row = (name, what, words) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, what), h("td", {}, words ?? ""));

function operation(path, method, one) {
  const parameters = (one.parameters ?? []).map((p) => row(`${p.name}${p.required ? "" : " (optional)"}`, shape(p.schema), p.description ?? p.schema?.description));
  const body = Object.values(one.requestBody?.content ?? {})[0];
  const answers = Object.entries(one.responses).filter(([code]) => code < 400).map(([code, answer]) => {
    const kinds = Object.entries(answer.content ?? {}).map(([kind, { schema }]) => (schema?.$ref ? shape(schema) : kind));
    return `${code}: ${kinds.join(" or ")}`;
  });
  return h("section", {}, h("h2", {}, h("code", {}, `${method.toUpperCase()} ${path}`)), h("p", {}, one.description ?? one.summary),
    parameters.length ? h("div", { class: "table" }, h("table", {}, h("tbody", {}, parameters))) : "",
    h("p", { class: "hint" }, body ? `Body: ${body.schema ? shape(body.schema) : "the file"}. ` : "", `Responses: ${answers.join(", ")}.`));
}

function schemaOf(name, schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([key, one]) => row(`${key}${schema.required?.includes(key) ? "" : " (optional)"}`, shape(one), one.description));
  return h("section", {}, h("h2", {}, name), schema.description ? h("p", {}, schema.description) : "",
    h("div", { class: "table" }, h("table", {}, h("tbody", {}, rows))));
}

$("main").append(h("h1", {}, `${told.info.title} ${told.info.version}`),
  ...told.info.description.split("\n\n").map((part) => h("p", {}, part)),
  ...Object.entries(told.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, one]) => operation(path, method, one))),
  h("h1", {}, "Schemas"), ...Object.entries(told.components.schemas).map(([name, schema]) => schemaOf(name, schema)));
