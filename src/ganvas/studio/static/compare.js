// Several runs side by side: measures, sample grids, differing options; and the class of each row beside a grid.

import { h } from "./dom.js";

/** told: answer of GET api/comparison. */
export function comparison(told) {
  const heads = told.names.map((name) => h("th", { scope: "col" }, name));
  const measures = told.rows.map((row) => h("tr", {},
    h("th", { scope: "row" }, row.name, row.better ? h("span", { class: "way" }, `${row.arrow} ${row.better}`) : ""),
    row.cells.map((cell) => h("td", { class: cell.best ? "best" : "" }, cell.value, cell.best ? h("span", { class: "pill finished" }, "best") : "",
      cell.interval ? h("span", { class: "interval" }, cell.interval) : ""))));
  const grids = told.grids.map((grid, place) => h("figure", { class: "sample" }, h("figcaption", {}, h("strong", {}, told.names[place])),
    grid.address ? labelled(h("img", { class: "grid", src: grid.address, alt: `Samples of ${told.names[place]}`, loading: "lazy" }), grid.rows).element : "",
    h("figcaption", {}, grid.note)));
  const differences = told.differences.map(({ name, values }) => h("tr", {}, h("th", { scope: "row" }, name), values.map((value) => h("td", {}, value))));
  return h("div", { class: "comparison" },
    h("section", { "aria-label": "Measures" }, h("h2", {}, "Measures"),
      told.caveats.map((one) => h("p", { class: "note warned" }, one)),
      h("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Measures of the runs" }, h("table", { class: "measures" },
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Measure, 95% interval"), heads)), h("tbody", {}, measures))),
      h("p", { class: "hint" }, "“Best” is a value that is better than all others, with intervals that do not overlap.")),
    h("section", { "aria-label": "Samples" }, h("h2", {}, "Samples"), h("div", { class: "films" }, grids)),
    h("section", { "aria-label": "Differences" }, h("h2", {}, "Differences"), differences.length
      ? h("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Options that differ" }, h("table", {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Option"), told.names.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, differences)))
      : h("p", { class: "hint" }, "The runs have the same options.")));
}

/** A grid of images with the class of each row at its left. */
export function labelled(image, rows) {
  const list = h("ul", { class: "rows", "aria-label": "Classes, one in each row" });
  const put = (names) => {
    if (list.children.length !== names.length) list.replaceChildren(...names.map((name) => h("li", { title: name }, h("span", {}, name))));
    list.hidden = !names.length;
  };
  put(rows);
  return { element: h("div", { class: "sheet" }, list, image), put };
}
