// Requests to the studio. Errors have a message; requests are repeated if the studio is busy.

const TRIES = 8;
const LONGEST = 6000; // characters of a URL; longer recipes are sent in a body

export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

export async function ask(path, { query, json, body, method, signal, raw = false, headers = {} } = {}) {
  const address = query ? `${path}?${new URLSearchParams(query)}` : path;
  const options = { method: method ?? (json || body ? "POST" : "GET"), signal, headers: { ...headers } };
  if (json) {
    options.body = JSON.stringify(json);
    options.headers["content-type"] = "application/json";
  } else if (body) {
    options.body = body;
    options.headers["content-type"] = "application/octet-stream";
  }
  for (let round = 1; ; round++) {
    let response;
    try {
      response = await fetch(address, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal("The studio does not answer: is it still running?", 0);
    }
    if (response.ok || response.status === 304) return raw ? response : response.json();
    const told = await response.json().catch(() => ({}));
    const wait = Number(response.headers.get("retry-after"));
    if (response.status === 503 && wait && round < TRIES) {
      await pause(wait + Math.random());
      continue;
    }
    throw new Refusal(told.error ?? `The studio answered ${response.status}`, response.status);
  }
}

/** URL of an image; it contains model and version, so the image never changes. */
export function addressOf(model, recipe, more = {}) {
  const query = { model: model.name, version: model.version, recipe: JSON.stringify(recipe), ...more };
  return `api/picture?${new URLSearchParams(query)}`;
}

export const isLong = (address) => address.length > LONGEST;

/** Source for an <img>; the image is generated when this resolves. */
export async function source(model, recipe, signal) {
  const address = addressOf(model, recipe);
  if (!isLong(address)) return address;
  const found = await ask("api/pictures", { json: { model: model.name, recipes: [recipe] }, signal });
  return `data:image/png;base64,${found.pictures[0].png}`;
}

/** Show an image in an <img>, or an error message in its place. */
export async function show(image, model, recipe) {
  const address = addressOf(model, recipe);
  if (image.dataset.shows === address) return;
  image.dataset.shows = address;
  image.classList.remove("failed");
  image.onerror = () => explain(image, address);
  try {
    const found = await source(model, recipe);
    if (image.dataset.shows === address) image.src = found;
  } catch (error) {
    if (image.dataset.shows === address) fail(image, error.message);
  }
}

async function explain(image, address) {
  try {
    const response = await ask(address, { raw: true }); // waits if the studio is busy
    const blob = await response.blob();
    if (image.dataset.shows !== address) return;
    image.onerror = null;
    const place = URL.createObjectURL(blob);
    image.onload = () => URL.revokeObjectURL(place);
    image.src = place;
  } catch (error) {
    if (image.dataset.shows === address) fail(image, error.message);
  }
}

function fail(image, sentence) {
  image.classList.add("failed");
  image.alt = sentence;
  image.title = sentence;
}

/** Update an image while a slider moves: one request at a time, always for the latest value. */
export class Live {
  constructor(image, onerror) {
    Object.assign(this, { image, onerror, busy: false, next: null });
  }

  async want(model, recipe) {
    this.next = [model, recipe];
    if (this.busy) return;
    this.busy = true;
    while (this.next) {
      const [of, what] = this.next;
      this.next = null;
      try {
        const found = await source(of, what);
        const loading = new Image();
        loading.src = found;
        try {
          await loading.decode();
        } catch {
          await ask(found, { raw: true }); // throws the reason
        }
        if (!this.next) {
          this.image.dataset.shows = addressOf(of, what);
          this.image.src = found;
        }
      } catch (error) {
        this.onerror(error);
      }
    }
    this.busy = false;
  }
}
