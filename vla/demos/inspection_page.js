"use strict";
// The table, the view of one episode, and the exclusion list. Texts of the file are set as text, never as HTML.
const { episodes, height_cm: heightToReach } = JSON.parse(document.getElementById("data").textContent);
const STEPS_PER_S = 20;
const ROWS = 500; // rows at a time: a browser is slow with tens of thousands
const byId = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const others = (episode) => Object.entries(episode.sources).filter(([name]) => name !== "expert");
const outcome = (success) => (success === null ? "unjudged" : success ? "success" : "failure");
const number = (episode) => Number(episode.name.split("_")[1]);
const mistakes = ({ detours, slips }) => detours + (slips ? ` + ${slips} slip${slips > 1 ? "s" : ""}` : "");

// label, text of a cell, what to sort by, what the filter finds (the text, if not said); `wide` cells take a line of their own on a phone
const COLUMNS = [
  { label: "Name", text: (e) => e.name, by: number },
  { label: "Split", text: (e) => e.split || "-", by: (e) => e.split },
  { label: "Instruction", text: (e) => e.instruction, by: (e) => e.instruction.toLowerCase(), wide: true },
  { label: "Target", text: (e) => e.target, by: (e) => e.target, shown: episodes.some((e) => e.target) },
  { label: "Steps", text: (e) => String(e.steps), by: (e) => e.steps },
  { label: "Label", text: (e) => outcome(e.label), by: (e) => Number(e.label) },
  { label: "Judged anew", text: (e) => outcome(e.success), by: (e) => Number(e.success) },
  { label: "Detours", text: mistakes, by: (e) => e.detours + e.slips },
  {
    label: "Executed by",
    text: (e) => others(e).map(([name, share]) => `${name} ${share}%`).join(", ") || "expert 100%",
    by: (e) => others(e).reduce((sum, [, share]) => sum + share, 0),
  },
  { label: "Idle", text: (e) => `${e.idle}%`, by: (e) => e.idle },
  {
    label: "Nearest",
    text: (e) => (e.nearest ? `${e.nearest[0]}, ${e.nearest[1]}, ${e.nearest[2].toFixed(1)} cm` : "-"),
    by: (e) => (e.nearest ? e.nearest[2] : Infinity),
    find: (e) => (e.nearest ? e.nearest[0] : ""), // "valid" finds the episode's own side of the split only
  },
  { label: "Notes", text: (e) => e.notes.join(", "), by: (e) => -e.notes.length },
].filter((column) => column.shown !== false);

const ticked = new Set(episodes.filter((e) => e.excluded).map((e) => e.name));
let saved = listed();
let sorting = { column: 0, down: false };
let limit = ROWS;
let open = null; // name of the open episode
let order = []; // what the table holds, in order
const rowOf = new Map();

for (const episode of episodes) {
  episode.haystack = [episode.seed, ...COLUMNS.map(({ find, text }) => (find ?? text)(episode))].join(" ").toLowerCase();
}

function listed() {
  return episodes.filter((e) => ticked.has(e.name)).map((e) => `${e.name}\n`).join("");
}

function compare(one, other) {
  const { by } = COLUMNS[sorting.column];
  const [a, b] = [by(one), by(other)];
  const sign = a < b ? -1 : a > b ? 1 : 0;
  return (sorting.down ? -sign : sign) || number(one) - number(other);
}

function showTable() {
  const words = byId("filter").value.toLowerCase().split(/\s+/);
  order = episodes
    .filter((e) => words.every((word) => e.haystack.includes(word)) && (!byId("noted").checked || e.notes.length))
    .sort(compare);
  if (open !== null && !order.some((e) => e.name === open)) open = null;
  rowOf.clear();
  const rows = order.slice(0, limit).flatMap((e) => [
    makeRow(e),
    ...(e.name === open ? [makeDetail(e)] : []),
    ...(byId("sheet").checked && e.pictures ? [makeStrip(e)] : []),
  ]);
  byId("table").tBodies[0].replaceChildren(...rows);
  byId("shown").textContent = `${order.length} of ${episodes.length} episodes`;
  byId("more").hidden = order.length <= limit;
  [...byId("table").tHead.rows[0].cells].slice(1).forEach((cell, index) => {
    const direction = sorting.down ? "descending" : "ascending";
    cell.setAttribute("aria-sort", index === sorting.column ? direction : "none");
  });
  byId("sort").value = sorting.column;
}

function makeRow(episode) {
  const row = element("tr", { id: episode.name });
  rowOf.set(episode.name, row);
  const box = element("input", { type: "checkbox", checked: ticked.has(episode.name) });
  box.setAttribute("aria-label", `exclude ${episode.name}`);
  box.onchange = () => tick(episode.name, box.checked);
  row.append(element("td", { className: "tick" }, box));
  for (const column of COLUMNS) row.append(makeCell(column, episode));
  row.classList.toggle("ticked", ticked.has(episode.name));
  row.classList.toggle("bad", episode.label !== episode.success);
  row.classList.toggle("open", episode.name === open);
  row.onclick = (event) => {
    if (!event.target.closest("input, .tick")) toggle(episode.name);
  };
  return row;
}

function makeStrip(episode) {
  const picture = element("img", { src: episode.pictures.strip, alt: `frames of ${episode.name}`, loading: "lazy" });
  return element("tr", { className: "strip" }, element("td", { colSpan: COLUMNS.length + 1 }, picture));
}

function makeCell(column, episode) {
  const cell = element("td", { className: column.wide ? "wide" : "" });
  if (column.label === "Name") {
    const button = element("button", { type: "button", textContent: episode.name });
    button.setAttribute("aria-expanded", episode.name === open);
    cell.append(button);
  } else if (column.label === "Notes") {
    cell.append(...episode.notes.flatMap((note) => [makeNote(note), " "]));
  } else {
    cell.textContent = column.text(episode);
    if (!column.wide) cell.dataset.label = column.label;
  }
  return cell;
}

function makeNote(note) {
  const urgent = note === "label differs" || note === "actions out of range";
  return element("span", { className: urgent ? "note bad" : "note", textContent: note });
}

function tick(name, on) {
  if (on) ticked.add(name);
  else ticked.delete(name);
  const row = rowOf.get(name);
  row.classList.toggle("ticked", on);
  row.querySelector("input").checked = on;
  showList();
}

function showList() {
  byId("count").textContent = `${ticked.size} of ${episodes.length}`;
  byId("names").value = listed();
}

function toggle(name) {
  show(open === name ? null : name);
  rowOf.get(name).querySelector("button").focus({ preventScroll: true });
}

function show(name) {
  const before = rowOf.get(open);
  open = name;
  before?.classList.remove("open");
  before?.querySelector("button").setAttribute("aria-expanded", "false");
  document.querySelector("tr.detail")?.remove();
  const row = rowOf.get(name);
  if (!row) return;
  row.classList.add("open");
  row.querySelector("button").setAttribute("aria-expanded", "true");
  row.after(makeDetail(episodes.find((e) => e.name === name)));
}

function move(by) {
  const place = order.findIndex((e) => e.name === open) + by;
  const next = order[Math.max(0, Math.min(place, order.length - 1, limit - 1))];
  if (next && next.name !== open) visit(next.name);
}

// Open an episode and bring it into view, even if the filter hides it.
function visit(name) {
  if (!episodes.some((e) => e.name === name)) return;
  if (!rowOf.has(name)) {
    byId("filter").value = "";
    byId("noted").checked = false;
    limit = Infinity;
    showTable();
  }
  show(name);
  rowOf.get(name).querySelector("button").focus({ preventScroll: true });
  rowOf.get(name).scrollIntoView({ block: "start" });
}

function makeDetail(episode) {
  const cell = element("td", { colSpan: COLUMNS.length + 1 });
  cell.append(element("p", { textContent: about(episode) }));
  if (episode.pictures) cell.append(makeView(episode));
  else cell.append(element("p", { className: "dim", textContent: "Its frames and curves were left out; see the top of the page." }));
  return element("tr", { className: "detail" }, cell);
}

function about(episode) {
  const start = episode.start;
  const place = start ? ` The target lay at x ${start[0]} cm, y ${start[1]} cm, turned by ${start[2]}°.` : episode.moves ? "" : " No cube was to be moved.";
  const seed = episode.seed === null ? "" : `Seed ${episode.seed}.`;
  return `${seed}${place} The gripper closes ${episode.closings} time${episode.closings === 1 ? "" : "s"}. ${episode.words}.`;
}

function makeView(episode) {
  const { strip, frames } = episode.pictures;
  const frame = element("div", { className: "frame" });
  frame.setAttribute("role", "img");
  frame.style.backgroundImage = `url(${strip})`;
  frame.style.backgroundSize = `${100 * frames.length}% 100%`;
  const last = episode.steps - 1;
  const slider = element("input", { type: "range", className: "scrub", min: 0, max: last, value: 0 });
  slider.setAttribute("aria-label", `step of ${episode.name}`);
  const reading = element("output", { className: "reading" });
  const cursor = element("div", { className: "cursor" });
  const thumbs = element("img", { className: "thumbs", src: strip, alt: `${frames.length} frames of ${episode.name}` });
  const lanes = makeLanes(episode);
  lanes.append(cursor);
  const go = (step) => {
    slider.value = Math.max(0, Math.min(step, last));
    const now = Number(slider.value);
    const shown = frames.reduce((best, row, index) => (Math.abs(row - now) < Math.abs(frames[best] - now) ? index : best), 0);
    frame.style.backgroundPositionX = `${frames.length > 1 ? (100 * shown) / (frames.length - 1) : 0}%`;
    frame.setAttribute("aria-label", `frame of step ${frames[shown] + 1}`);
    cursor.style.left = `${(100 * (now + 0.5)) / episode.steps}%`;
    reading.textContent = readingAt(episode, now, frames[shown]);
    slider.setAttribute("aria-valuetext", reading.textContent);
  };
  slider.oninput = () => go(Number(slider.value));
  const share = (event, target) => (event.clientX - target.getBoundingClientRect().left) / target.clientWidth;
  thumbs.onclick = (event) => go(frames[Math.min(frames.length - 1, Math.floor(share(event, thumbs) * frames.length))]);
  const drag = (event) => event.buttons && go(Math.floor(share(event, lanes) * episode.steps));
  lanes.onpointerdown = drag;
  lanes.onpointermove = drag;
  go(0);
  return element("div", { className: "view" }, element("div", {}, frame), element("div", {}, thumbs, slider, reading, lanes));
}

function readingAt(episode, step, row) {
  const { phases, gripper, sources, height, opening } = episode.pictures;
  const words = [
    `step ${step + 1} of ${episode.steps}`,
    `${(step / STEPS_PER_S).toFixed(2)} s`,
    runAt(phases, step),
    `gripper ${runAt(gripper, step)}`,
    `executed by ${runAt(sources, step)}`,
    `cube ${centimetres(height[step])} up`,
    `fingers ${centimetres(opening[step])} apart`,
  ];
  return words.join(" · ") + (row === step ? "" : ` · frame of step ${row + 1}`);
}

const centimetres = (mm) => (mm === null ? "?" : `${(mm / 10).toFixed(1)} cm`);

function runAt(runs, step) {
  for (const [name, steps] of runs) {
    if (step < steps) return name;
    step -= steps;
  }
  return "";
}

// Bands and curves over time, all as wide as the slider.
function makeLanes(episode) {
  const p = episode.pictures;
  const lanes = element("div", { className: "lanes" });
  lanes.append(lane(p.phases, "phase"), lane(p.gripper, "label's gripper"), lane(p.sources, "executed by"));
  if (p.idle.length) lanes.append(lane(idleRuns(p.idle, episode.steps), "idle"));
  const tallest = 10 * Math.ceil(Math.max(...p.height, ...p.opening, 10 * heightToReach) / 10); // whole cm
  const strongest = Math.ceil(Math.max(10, ...p.left, ...p.right));
  lanes.append(
    legend(["cube above the table", "finger opening"], `0 to ${tallest / 10} cm; dotted: the ${heightToReach} cm to reach`),
    plot([p.height, p.opening], 0, tallest, [], 10 * heightToReach),
    legend(["left finger", "right finger"], `squeeze, 0 to ${strongest} N`),
    plot([p.left, p.right], 0, strongest),
    legend(["x", "y", "z"], "of the action, -1 to 1; thin: executed"),
    plot(p.labels, -105, 105, p.executed, 0),
  );
  return lanes;
}

function idleRuns(stretches, steps) {
  const runs = [];
  let from = 0;
  for (const [first, stop] of stretches) {
    runs.push(["none", first - from], ["still", stop - first]);
    from = stop;
  }
  return [...runs, ["none", steps - from]];
}

function lane(runs, title) {
  const total = runs.reduce((sum, [, steps]) => sum + steps, 0);
  const band = element("div", { className: "lane", title });
  for (const [name, steps] of runs) {
    const part = element("span", { textContent: name === "none" ? "" : name });
    part.classList.add(...name.split(/\s+/).filter(Boolean));
    part.classList.toggle("thin", steps / total < 0.07);
    part.style.flexGrow = steps;
    band.append(part);
  }
  return band;
}

function legend(names, words) {
  const parts = names.flatMap((name, index) => [element("b", { className: `c${index}`, textContent: name }), " "]);
  return element("p", { className: "legend" }, ...parts, words);
}

function plot(columns, low, high, thin = [], limit = null) {
  const steps = columns[0].length;
  const picture = svg("svg", { class: "plot", viewBox: `0 0 ${steps} 100`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const y = (value) => (100 * (high - value)) / (high - low);
  const line = (values, name) => {
    const points = values.flatMap((value, step) => (value === null ? [] : [`${step + 0.5},${y(value).toFixed(1)}`]));
    picture.append(svg("polyline", { class: name, points: points.join(" ") }));
  };
  if (limit !== null) picture.append(svg("line", { class: "limit", x1: 0, x2: steps, y1: y(limit), y2: y(limit) }));
  thin.forEach((values, index) => line(values, `c${index} thin`));
  columns.forEach((values, index) => line(values, `c${index}`));
  return picture;
}

function makeHead() {
  const head = byId("table").tHead.rows[0];
  head.append(element("th", { textContent: "Exclude" }));
  COLUMNS.forEach((column, index) => {
    const button = element("button", { type: "button", textContent: column.label });
    button.onclick = () => sortBy(index, index === sorting.column && !sorting.down);
    const cell = element("th", {}, button);
    cell.scope = "col";
    head.append(cell);
    byId("sort").append(element("option", { value: index, textContent: column.label.toLowerCase() }));
  });
}

function sortBy(column, down) {
  sorting = { column, down };
  showTable();
}

function download() {
  const address = URL.createObjectURL(new Blob([listed()], { type: "text/plain" }));
  element("a", { href: address, download: "exclude.txt" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
  saved = listed();
}

function restart() {
  limit = ROWS;
  showTable();
}

makeHead();
byId("controls").onsubmit = (event) => event.preventDefault();
byId("filter").oninput = restart;
byId("noted").onchange = restart;
byId("sheet").onchange = showTable;
byId("sort").onchange = (event) => sortBy(Number(event.target.value), false);
byId("more").onclick = () => {
  limit += ROWS;
  showTable();
};
byId("download").onclick = download;
byId("names").onfocus = (event) => event.target.select();
byId("names").oncopy = () => (saved = listed());
addEventListener("hashchange", () => visit(location.hash.slice(1)));
addEventListener("beforeunload", (event) => saved !== listed() && event.preventDefault());
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("[type=search], select, textarea")) return;
  if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "x" && open !== null) tick(open, !ticked.has(open));
  else return;
  event.preventDefault();
});
showTable();
showList();
visit(location.hash.slice(1));
