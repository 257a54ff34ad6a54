// Recipes of images: seed, class, sliders such as truncation, edits, interpolation to another image, mixing.

/** Key of a recipe, independent of the order of its fields. */
export function key(recipe) {
  return JSON.stringify(sorted(recipe));
}

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.keys(value).sort().map((name) => [name, sorted(value[name])]));
}

export function classOf(recipe, classes) {
  if (!classes.length) return null;
  if (typeof recipe.label === "string") return recipe.label;
  if (recipe.label) return Object.entries(recipe.label).map(([name, part]) => `${name} ${percent(part)}`).join(", ");
  return classes[(recipe.seed ?? 0) % classes.length];
}

/** A class in a caption; one that is only a number needs the word. */
export const named = (label) => (/^\d/.test(label) ? `class ${label}` : label);

/** The sliders of a recipe, such as truncation, that are not neutral. */
export const amountsOf = (recipe) => Object.fromEntries(Object.entries(recipe).filter(([name, value]) => name !== "seed" && typeof value === "number"));

export const percent = (part) => `${Math.round(part * 100)}%`;

export function words(recipe, classes = []) {
  const parts = [recipe.code ? "projected" : `seed ${recipe.seed}`];
  const label = classOf(recipe, classes);
  if (label !== null) parts.push(named(label));
  for (const [name, amount] of Object.entries(amountsOf(recipe))) parts.push(`${name} ${amount}`);
  for (const [name, amount] of Object.entries(recipe.edits ?? {})) parts.push(`${name} ${signed(amount)}`);
  if (recipe.towards) parts.push(`${percent(recipe.towards.share)} towards (${words(recipe.towards.to, classes)})`);
  if (recipe.mix) parts.push(`layers ${recipe.mix.depths.join(", ")} from (${words(recipe.mix.with, classes)})`);
  return parts.join(" · ");
}

export const signed = (amount) => `${amount > 0 ? "+" : ""}${Math.round(amount * 100) / 100}`;

/** Add edit directions to a recipe, including its nested recipes. */
export function edited(recipe, added) {
  const edits = { ...recipe.edits };
  for (const [name, amount] of Object.entries(added)) {
    edits[name] = Math.round(((edits[name] ?? 0) + amount) * 1000) / 1000;
    if (!edits[name]) delete edits[name];
  }
  const changed = { ...recipe, edits };
  if (!Object.keys(edits).length) delete changed.edits;
  if (recipe.towards) changed.towards = { ...recipe.towards, to: edited(recipe.towards.to, added) };
  if (recipe.mix) changed.mix = { ...recipe.mix, with: edited(recipe.mix.with, added) };
  return changed;
}

/** Interpolate from a to b; null if a must first be converted to a latent code. */
export function between(a, b, share) {
  if (a.mix) {
    const { mix, ...own } = a; // interpolate both parts of a mix
    const first = between(own, b, share);
    const second = between(mix.with, b, share);
    return first && second && { ...first, mix: { with: second, depths: mix.depths } };
  }
  if (!a.towards) return { ...a, towards: { to: b, share } };
  if (!b.towards && !b.mix) return { ...b, towards: { to: a, share: round(1 - share) } };
  return null;
}

export const round = (number) => Math.round(number * 1e6) / 1e6;

/** a with some layers of b. */
export function mixed(a, b, depths) {
  if (!a.mix) return { ...a, mix: { with: b, depths } };
  return { seed: 0, ...labelOf(a), towards: { to: a, share: 1 }, mix: { with: b, depths } }; // start from a
}

const labelOf = (recipe) => (recipe.label === undefined ? {} : { label: recipe.label });

/** A variation of an image: strength 0 gives the image itself, 1 any other image of its class. */
export function variation(recipe, seed, strength, classes) {
  const label = classOf(recipe, classes);
  const own = { seed, ...amountsOf(recipe) };
  if (label !== null) own.label = recipe.label ?? label;
  return { ...own, towards: { to: recipe, share: round(1 - strength) } };
}

/** Layers by name, as on the command line. */
export function depthsOf(name, num) {
  const [start, end] = { coarse: [0, 1], middle: [1, 2], fine: [2, 3] }[name].map((part) => bankers((num * part) / 3));
  const found = [...Array(num).keys()].slice(start, end);
  return found.length ? found : [Math.min(start, num - 1)];
}

const bankers = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x)); // rounds like Python
