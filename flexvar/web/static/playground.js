"use strict";
const $ = (id) => document.getElementById(id);
const state = { models: [], limits: {}, jobs: new Map(), seen: [], task: "generate" };

function make(tag, values = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(values)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  // Text only ever becomes text, never markup.
  for (const child of children) node.append(child);
  return node;
}

function say(text, bad = false) { $("status").textContent = text; $("status").className = bad ? "bad" : ""; }
const model = (name = $("model").value) => state.models.find((one) => one.name === name);
const whole = (id) => $(id).value === "" ? null : Number($(id).value);

async function ask(address, body, method = "POST") {
  const answer = await fetch(address, { method, headers: body instanceof Blob ? {} : { "Content-Type": "application/json" }, body: body instanceof Blob ? body : body && JSON.stringify(body) });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error ? found.error.message : `The server answered ${answer.status}.`);
  return found;
}

// ---- forms

async function begin() {
  const found = await ask("/api/models", undefined, "GET");
  state.models = found.models; state.limits = found.limits;
  $("num").max = found.limits.images;
  for (const one of found.models) {
    $("model").append(make("option", { value: one.name }, one.name));
    $("versus").append(make("option", { value: one.name }, one.name));
  }
  chosen();
  document.body.dataset.ready = "yes";
}

function chosen() {
  const one = model();
  $("about").textContent = one.lines.map((line) => line.replace(/\s+/g, " ")).join(" · ");
  $("value-name").textContent = one.takes === "label" ? "Class (name or number; empty is none)" : "Prompt";
  $("value").placeholder = one.classes ? `for example ${one.classes[Math.min(4, one.classes.length - 1)]}` : one.takes === "label" ? `0 to ${one.num_classes - 1}` : "for example a green octopus";
  $("negative-row").hidden = one.takes === "label" || one.takes === "none";
  $("classes").replaceChildren(...(one.classes || []).map((name) => make("option", { value: name })));
  [$("height").value, $("width").value] = one.size;
  for (const id of ["height", "width"]) { $(id).step = one.stride; $(id).min = one.stride; $(id).max = state.limits.side; $(id).disabled = one.fixed; }
  $("sampler").replaceChildren(...Object.keys(one.samplers).map((name) => make("option", { value: name, selected: name === one.sampler }, name)));
  forms();
  frame();
}

function forms() { $("options").replaceChildren(...model().samplers[$("sampler").value].map((option) => field(option, option.value))); }

function field(option, value) {
  const name = `option-${option.name}`;
  let input;
  if (option.choices) input = make("select", { id: name }, ...option.choices.map((c) => make("option", { value: c, selected: c === value }, c)));
  else if (option.kind === "boolean") input = make("input", { id: name, type: "checkbox", checked: Boolean(value) });
  else if (option.kind === "number" || option.kind === "integer") {
    input = make("input", { id: name, type: "number", step: option.kind === "integer" ? 1 : "any", value: value ?? "" });
    if (option.low !== null) input.min = option.low;
    if (option.high !== null) input.max = option.high;
  } else input = make("input", { id: name, value: value === null || value === undefined ? "" : JSON.stringify(value) });
  input.dataset.kind = option.choices ? "choice" : option.kind;
  input.dataset.name = option.name;
  input.dataset.start = input.type === "checkbox" ? String(input.checked) : input.value;
  return make("label", { title: option.meaning }, option.name.replaceAll("_", " ") + " ", input);
}

function options() {
  const given = $("sampler").value === model().sampler ? {} : { sampler: $("sampler").value };
  for (const input of $("options").querySelectorAll("[data-name]")) {
    const now = input.type === "checkbox" ? String(input.checked) : input.value;
    if (now === input.dataset.start || now === "") continue;
    const kind = input.dataset.kind;
    given[input.dataset.name] = kind === "boolean" ? input.checked : kind === "choice" ? input.value : kind === "number" || kind === "integer" ? Number(now) : JSON.parse(now);
  }
  return given;
}

function value() {
  const text = $("value").value.trim();
  if (text === "") return null;
  const one = model();
  return one.takes === "label" && !(one.classes || []).includes(text) && /^\d+$/.test(text) ? Number(text) : text;
}

// ---- the frame that is dragged to a size

function frame() {
  const one = model(), most = 3 * Math.max(...one.size), box = $("frame-box").clientWidth || 144;
  const [h, w] = [Number($("height").value), Number($("width").value)];
  $("frame").style.height = `${Math.min(1, h / most) * box}px`; $("frame").style.width = `${Math.min(1, w / most) * box}px`;
  $("frame").setAttribute("aria-valuetext", `${h} by ${w} pixels`);
}
function resize(h, w) {
  const one = model();
  if (one.fixed) { say("This model has one list of grids, and so one size."); return; }
  const snap = (v) => Math.max(one.stride, Math.min(3 * Math.max(...one.size), Math.round(v / one.stride) * one.stride));
  $("height").value = snap(h); $("width").value = snap(w); frame();
}
$("frame").addEventListener("pointerdown", (event) => {
  $("frame").setPointerCapture(event.pointerId);
  const most = 3 * Math.max(...model().size), box = $("frame-box").getBoundingClientRect();
  const move = (e) => resize((e.clientY - box.top) / box.height * most, (e.clientX - box.left) / box.width * most);
  const end = () => { $("frame").removeEventListener("pointermove", move); };
  $("frame").addEventListener("pointermove", move);
  $("frame").addEventListener("pointerup", end, { once: true });
});
$("frame").addEventListener("keydown", (event) => {
  const s = model().stride, step = { ArrowUp: [-s, 0], ArrowDown: [s, 0], ArrowLeft: [0, -s], ArrowRight: [0, s] }[event.key];
  if (!step) return;
  event.preventDefault();
  resize(Number($("height").value) + step[0], Number($("width").value) + step[1]);
});
for (const id of ["height", "width"]) $(id).addEventListener("input", frame);

// ---- tasks

const HINTS = {
  inpaint: "Paint over what is to be drawn anew. M paints the middle.",
  edit: "Drag a box; something of the class is drawn in it. M takes the middle.",
  outpaint: "Drag the frame outward, or give margins in pixels.",
  refine: "The result has the height and width above.",
  score: "Where the picture surprises the model, and which classes or prompts fit it.",
};
function switched() {
  state.task = new FormData($("form")).get("task");
  $("source").hidden = state.task === "generate";
  $("frame-row").hidden = !["generate", "refine"].includes(state.task);
  $("tools").hidden = !["inpaint", "edit"].includes(state.task);
  $("margin-tools").hidden = state.task !== "outpaint";
  $("versus-box").hidden = state.task !== "generate";
  $("go").textContent = state.task === "score" ? "Ask" : "Draw";
  if (HINTS[state.task]) $("hint").textContent = HINTS[state.task];
  Paint.mode = state.task;
}
$("task").addEventListener("change", switched);

async function open(source) { try { await Paint.load(source); say(""); } catch (error) { say(error.message, true); } }
$("file").addEventListener("change", () => { if ($("file").files[0]) open(URL.createObjectURL($("file").files[0])); });
$("brush").addEventListener("input", () => { Paint.brush = Number($("brush").value); });
$("erase").addEventListener("change", () => { Paint.erasing = $("erase").checked; });
$("undo").addEventListener("click", () => Paint.undo());
$("clear").addEventListener("click", () => Paint.clear());
const SIDES = ["top", "right", "bottom", "left"];
for (const id of SIDES) $(id).addEventListener("change", () => { Paint.margins = SIDES.map((side) => Number($(side).value)); });
Paint.onchange = () => SIDES.forEach((side, n) => { $(side).value = Paint.margins[n]; });
$("paint").addEventListener("keydown", (event) => {
  if (event.key === "m") Paint.middle();
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) Paint.undo();
});

// ---- jobs

function request(name, steps) {
  const base = { model: name, value: value(), seed: whole("seed"), num: whole("num") || 1, options: name === $("model").value ? options() : {} };
  if (steps) base.steps = steps;
  if ($("negative").value && !$("negative-row").hidden) base.negative = $("negative").value;
  return base;
}

async function submit(event) {
  event.preventDefault();
  if (!$("lock").checked || $("seed").value === "") roll();
  try {
    if (state.task === "score") return await opinion();
    if (state.task === "generate") {
      const body = request($("model").value, whole("steps"));
      body.size = [whole("height"), whole("width")];
      const other = $("versus").value;
      if (!other) return await run("/api/generate", body);
      const second = { ...request(other, whole("versus-steps") || whole("steps")), size: body.size };
      const pair = [];
      return await Promise.all([run("/api/generate", body, pair), run("/api/generate", second, pair)]);
    }
    if (!Paint.ready) throw new Error("Open a picture first.");
    const body = { ...request($("model").value, whole("steps")), task: state.task, image: Paint.picture() };
    if (state.task === "inpaint") body.mask = Paint.mask();
    if (state.task === "edit") { if (!Paint.box) throw new Error("Drag a box on the picture first."); body.box = Paint.box; }
    if (state.task === "outpaint") body.margins = Paint.margins;
    if (state.task === "refine") body.size = [whole("height"), whole("width")];
    await run("/api/edit", body);
  } catch (error) { say(error.message, true); }
}
$("form").addEventListener("submit", submit);

async function run(address, body, pair) {
  const { job } = await ask(address, body);
  const strip = make("div", { className: "strip", role: "group" });
  strip.setAttribute("aria-label", "The picture after each scale");
  if (!pair || !pair.started) $("strips").replaceChildren();
  if (pair) pair.started = true;
  $("strips").append(make("p", { className: "quiet" }, body.model), strip);
  busy(job, true);
  const begun = performance.now();
  return new Promise((resolve) => {
    const events = new EventSource(`/api/jobs/${job}/events`);
    const end = () => { events.close(); busy(job, false); resolve(); };
    events.onmessage = (message) => {
      const event = JSON.parse(message.data);
      if (event.event === "queued" && event.before) say(`Waits for ${event.before} other${event.before > 1 ? "s" : ""}.`);
      if (event.event === "started") say("Drawing …");
      if (event.event === "scale") {
        strip.append(make("button", { type: "button", title: `Scale ${event.grid.join("×")}: keep the scales up to here`, disabled: true },
          make("img", { src: `data:image/png;base64,${event.previews[0]}`, alt: `after ${event.grid.join("×")}` }), event.grid.join("×")));
        say(`Scale ${event.grid.join("×")}${event.steps ? `, ${event.step + 1} of ${event.steps}` : ""}, ${((performance.now() - begun) / 1000).toFixed(2)} s`);
      }
      if (event.event === "done") { done(event, body, strip, pair); end(); }
      if (event.event === "error") { say(event.message, true); end(); }
      if (event.event === "cancelled") { say("Stopped."); end(); }
    };
    events.onerror = () => { say("The server does not answer.", true); end(); };
  });
}

function busy(job, on) {
  on ? state.jobs.set(job, true) : state.jobs.delete(job);
  $("stop").disabled = !state.jobs.size;
  document.body.classList.toggle("busy", state.jobs.size > 0);
}
$("stop").addEventListener("click", () => { for (const job of state.jobs.keys()) fetch(`/api/jobs/${job}`, { method: "DELETE" }); });

function roll() { $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % 2 ** 31; }
$("dice").addEventListener("click", roll);

// ---- results

function done(event, body, strip, pair) {
  const label = `${event.seconds.toFixed(2)} s${event.memory_mb ? `, ${event.memory_mb} MB` : ""}`;
  say((event.warnings || []).join(" ") || `Done in ${label}.`);
  const first = event.pictures[0];
  [...strip.children].forEach((button, scale) => {
    if (scale + 1 >= strip.children.length || !event.layout) return;
    button.disabled = false;
    button.addEventListener("click", () => {
      roll();
      [...strip.children].forEach((one, n) => one.classList.toggle("kept", n <= scale));
      const again = { ...body, seed: whole("seed"), start: { picture: first.id, scale }, num: 1 };
      for (const key of ["task", "image", "mask", "box", "margins", "size", "steps"]) delete again[key];
      run("/api/generate", again).catch((error) => say(error.message, true));
    });
  });
  if (pair) {
    pair.push([event.pictures[0], body, label]);
    if (pair.length < 2) return;
    pair.sort((a, b) => (a[1].model === $("model").value ? -1 : 1) - (b[1].model === $("model").value ? -1 : 1));
    $("results").replaceChildren(compared(pair), ...pair.map(([picture, asked, text]) => shown(picture, asked, `${asked.model}: ${text}`)));
    pair.forEach(([picture, asked]) => remember(picture, asked));
    return;
  }
  $("results").replaceChildren(...event.pictures.map((picture) => shown(picture, body, label)));
  event.pictures.forEach((picture) => remember(picture, body));
}

function shown(picture, body, text) {
  const name = picture.settings.label ?? picture.settings.prompt ?? "";
  const edit = make("button", { type: "button", onclick: () => { open(picture.url); document.querySelector("[name=task][value=inpaint]").click(); } }, "Edit");
  const facts = [name, `${picture.height}×${picture.width}`, `seed ${picture.settings.seed}`, text].filter((part) => part !== "");
  return make("figure", {},
    make("img", { src: picture.url, alt: String(name || "picture"), width: shownWidth(picture) }),
    make("figcaption", {}, facts.join(" · "), make("br"),
      make("a", { href: picture.url, download: `flexvar-${picture.id}.png` }, "Download"), edit,
      make("button", { type: "button", onclick: (e) => copy(e.target, command(body, picture)) }, "Copy as command"),
      make("button", { type: "button", onclick: (e) => copy(e.target, python(body, picture)) }, "Copy as Python"),
      make("button", { type: "button", onclick: () => recall(picture.settings, body) }, "Use settings")));
}

// Small pictures are shown at a whole multiple of their size.
function shownWidth(picture) { return picture.width * Math.max(1, Math.round(288 / Math.max(picture.width, picture.height))); }

function compared(pair) {
  const over = make("div", { className: "over" }, make("img", { src: pair[1][0].url, alt: pair[1][1].model }));
  const slider = make("input", { type: "range", min: 0, max: 100, value: 50 });
  slider.setAttribute("aria-label", `Left ${pair[0][1].model}, right ${pair[1][1].model}`);
  const cut = () => { over.style.clipPath = `inset(0 0 0 ${slider.value}%)`; };
  slider.addEventListener("input", cut); cut();
  return make("figure", { id: "compare" }, make("div", { className: "compare" }, make("img", { src: pair[0][0].url, alt: pair[0][1].model, width: shownWidth(pair[0][0]) }), over), slider,
    make("figcaption", {}, `${pair[0][1].model} (left) and ${pair[1][1].model} (right), one seed`));
}

function remember(picture, body) {
  state.seen.unshift(picture);
  const entry = make("li", {}, make("button", { type: "button", title: "Show again", onclick: () => $("results").replaceChildren(shown(picture, body, "from the history")) },
    make("img", { src: picture.url, alt: String(picture.settings.label ?? picture.settings.prompt ?? "picture") })));
  $("history").prepend(entry);
  while ($("history").children.length > 60) $("history").lastChild.remove();
}

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
const literal = (x) => x === true ? "True" : x === false ? "False" : x === null ? "None" : Array.isArray(x) ? `(${x.map(literal).join(", ")},)` : JSON.stringify(x);
function command(body, picture) {
  const flags = Object.entries(body.options).map(([k, v]) => v === true ? `--${k.replaceAll("_", "-")}` : v === false ? `--no-${k.replaceAll("_", "-")}` : `--${k.replaceAll("_", "-")} ${quoted(Array.isArray(v) ? v.join(",") : v)}`);
  const word = model(body.model).takes === "label" ? "label" : "prompt";
  if (body.value !== null && body.value !== undefined) flags.unshift(`--${word} ${quoted(body.value)}`);
  if (body.negative) flags.push(`--negative ${quoted(body.negative)}`);
  if (body.steps) flags.push(`--steps ${body.steps}`);
  const tail = `--seed ${picture.settings.seed} --out out`;
  if (body.start) return `flexvar generate --from flexvar-${picture.id}.png --out out`;
  if (!body.task) return `flexvar generate --model ${quoted(body.model)} ${flags.join(" ")} --size ${picture.height}x${picture.width} ${tail}`;
  const own = { inpaint: "--mask mask.png", edit: `--box ${(body.box || []).join(",")}`, outpaint: `--margins ${(body.margins || []).join(",")}`, refine: `--size ${(body.size || []).join("x")}` }[body.task];
  return `flexvar edit ${body.task} --model ${quoted(body.model)} --image picture.png ${own} ${flags.join(" ")} ${tail}`;
}
function python(body, picture) {
  const words = Object.entries(body.options).map(([k, v]) => `${k}=${literal(v)}`);
  if (body.steps) words.push(`steps=${body.steps}`);
  if (body.negative) words.push(`negative=${literal(body.negative)}`);
  words.push(`seed=${picture.settings.seed}`);
  const head = `from flexvar import Pipeline\n\npipe = Pipeline.from_pretrained(${literal(body.model)})\n`;
  const what = literal(body.value ?? null);
  if (!body.task) {
    const key = model(body.model).takes === "label" ? "labels" : "prompts";
    return `${head}pipe(${key}=[${what}], size=(${picture.height}, ${picture.width}), ${words.join(", ")}).images[0].save("picture.png")\n`;
  }
  const own = { inpaint: '"mask.png"', edit: `box=${literal(body.box)}`, outpaint: `margins=${literal(body.margins)}`, refine: `size=${literal(body.size)}` }[body.task];
  return `${head}pipe.${body.task}("picture.png", ${own}, label=${what}, ${words.join(", ")}).images[0].save("edited.png")\n`;
}
async function copy(button, text) {
  try { await navigator.clipboard.writeText(text); } catch {
    const area = make("textarea", { value: text }); document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
  }
  button.dataset.copied = text;
  const before = button.textContent; button.textContent = "Copied"; setTimeout(() => { button.textContent = before; }, 900);
}

// ---- settings that come back

function recall(settings, body) {
  const name = (body && body.model) || settings.checkpoint || settings.model;
  if (model(name)) { $("model").value = name; chosen(); }
  $("value").value = settings.label ?? settings.prompt ?? "";
  if (settings.size && !model().fixed) { [$("height").value, $("width").value] = settings.size; frame(); }
  if (Array.isArray(settings.steps)) $("steps").value = settings.steps.length;
  if (settings.seed !== undefined) { $("seed").value = settings.seed; $("lock").checked = true; }
  const named = { ...settings, ...(settings.sampler && typeof settings.sampler === "object" ? settings.sampler : {}) };
  for (const input of $("options").querySelectorAll("[data-name]")) {
    const found = named[input.dataset.name];
    if (found === undefined || found === null) continue;
    if (input.type === "checkbox") input.checked = Boolean(found); else input.value = typeof found === "object" ? JSON.stringify(found) : found;
  }
  say(model(name) ? "The picture's settings are back." : `The picture's settings are back, but its model (${name}) is not here.`, !model(name));
}
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
document.addEventListener("drop", async (event) => {
  event.preventDefault(); document.body.classList.remove("dropping");
  const file = event.dataTransfer.files[0];
  if (file) await dropped(file);
});
async function dropped(file) {
  if (file.type === "image/png") {
    try { recall(await ask("/api/settings", file)); if (state.task === "generate") return; } catch { /* a picture of another program */ }
  }
  if (state.task === "generate") document.querySelector("[name=task][value=inpaint]").click();
  open(URL.createObjectURL(file));
}

// ---- what the model thinks

async function opinion() {
  if (!Paint.ready) throw new Error("Open a picture first.");
  const values = model().classes ? [] : $("value").value.split(",").map((v) => v.trim()).filter(Boolean);
  const { job } = await ask("/api/score", { model: $("model").value, image: Paint.picture(), values });
  busy(job, true);
  const events = new EventSource(`/api/jobs/${job}/events`);
  const end = () => { events.close(); busy(job, false); };
  events.onerror = () => { say("The server does not answer.", true); end(); };
  events.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (event.event === "started") say("Thinking …");
    if (event.event === "error") { say(event.message, true); end(); }
    if (event.event === "cancelled") { say("Stopped."); end(); }
    if (event.event === "done") { heat(event); say(`Done in ${event.seconds.toFixed(2)} s.`); end(); }
  };
}

function heat(event) {
  const layer = make("canvas"), shownAt = make("select", {}, ...event.heat.map((one, n) => make("option", { value: n, selected: n === event.heat.length - 1 }, `scale ${one.grid.join("×")}`)));
  const range = make("p", { className: "quiet" });
  const paint = () => {
    const { grid: [h, w], nats } = event.heat[shownAt.value], all = nats.flat(), low = Math.min(...all), high = Math.max(...all);
    layer.width = w; layer.height = h;
    const pen = layer.getContext("2d"), pixels = pen.createImageData(w, h);
    all.forEach((v, n) => { const t = high > low ? (v - low) / (high - low) : 0.5; pixels.data.set([255 * Math.min(1, 2 * t), 255 * (1 - Math.abs(2 * t - 1)) * 0.6, 255 * Math.max(0, 1 - 2 * t), 255], 4 * n); });
    pen.putImageData(pixels, 0, 0);
    range.textContent = `Nats a cell: blue ${low.toFixed(1)} (expected) to red ${high.toFixed(1)} (surprising).`;
  };
  shownAt.addEventListener("change", paint);
  const picture = make("img", { src: `data:image/png;base64,${Paint.picture()}`, alt: "the picture", width: 320 });
  const rows = event.best.map((one) => make("tr", {}, make("td", {}, String(one.value ?? "no class")), make("td", {}, `${(100 * one.share).toFixed(1)} %`), make("td", {}, `${one.nats.toFixed(1)}`)));
  $("opinion").hidden = false;
  $("opinion").replaceChildren(make("label", {}, "Heat map of ", shownAt), make("div", { className: "heat" }, picture, layer), range,
    make("table", {}, make("tr", {}, make("th", {}, "likeliest"), make("th", {}, "share"), make("th", {}, "nats")), ...rows));
  paint();
}

$("model").addEventListener("change", chosen);
$("sampler").addEventListener("change", forms);
switched();
begin().catch((error) => say(error.message, true));
