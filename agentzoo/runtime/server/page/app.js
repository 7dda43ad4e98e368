// The page of a policy server: its models and latencies, episodes beside their dreams, dreams to
// play in, and the curves of a folder of runs. Text from the server is only ever set as text.
"use strict";

const $ = (id) => document.getElementById(id);
const COLORS = ["#3b82c4", "#d97a1e", "#3f9d55", "#b8519e", "#8a6fd1", "#a3812b", "#2aa3a3", "#c9524b"];
const HISTORY = 400; // points of a chart
const RETRY_MS = 2000;

// -- the connection ------------------------------------------------------------------------------

let socket = null;
let key = "";
let models = [];
const handlers = {}; // kind of a message -> function

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/page/socket`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => socket.send(JSON.stringify({ key })); // never in the address
  socket.onmessage = (event) => {
    if (typeof event.data === "string") {
      const message = JSON.parse(event.data);
      if (handlers[message.kind]) handlers[message.kind](message);
    } else {
      frame(event.data);
    }
  };
  socket.onclose = (event) => {
    ended();
    if (isAway) return;
    if (event.code === 4401) {
      $("key-form").hidden = false;
      $("key").focus();
      say(key ? "that is not this server's key" : "this server asks for its key", Boolean(key));
      return;
    }
    say("the connection is gone; trying again", true);
    setTimeout(connect, RETRY_MS);
  };
}

// a page that is left is kept for going back, and its connection with it
let isAway = false;
window.addEventListener("pagehide", () => {
  isAway = true;
  if (socket) socket.close();
});
window.addEventListener("pageshow", (event) => {
  isAway = false;
  if (event.persisted) connect();
});

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function say(text, isBad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", isBad);
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value;
  $("key").value = "";
  $("key-form").hidden = true;
  connect();
});

handlers.hello = (message) => {
  models = message.models;
  say(`${models.length} ${models.length === 1 ? "model" : "models"} here`);
  for (const [id, fits] of [["watch-model", (m) => m.env !== ""], ["play-model", (m) => m.dreams]]) {
    const before = $(id).value;
    $(id).replaceChildren(...models.filter(fits).map((model) => option(model.name, model.name)));
    if (models.some((model) => model.name === before)) $(id).value = before;
    $(id).form.querySelector("button").disabled = !$(id).options.length;
  }
  if (!$("play-model").options.length) {
    $("play-help").textContent =
      "No model here has a world model in its bundle; export one with agentzoo export --world.";
  }
  $("run-note").textContent = message.runs ? "" : "Start the server with --runs FOLDER to see its runs here.";
  if (message.runs) send({ do: "runs" });
};

handlers.refused = (message) => {
  say(message.error, true);
  if (message.about === "watch" || message.about === "play") ended();
};

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

function cell(text, className = "") {
  const made = document.createElement("td");
  made.textContent = text;
  made.className = className;
  return made;
}

// -- tabs ----------------------------------------------------------------------------------------

const tabs = [...document.querySelectorAll('[role="tab"]')];

function show(tab) {
  for (const one of tabs) {
    const isShown = one === tab;
    one.setAttribute("aria-selected", String(isShown));
    one.tabIndex = isShown ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = !isShown;
  }
  redraw();
}

for (const tab of tabs) {
  tab.addEventListener("click", () => show(tab));
  tab.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = tabs[(tabs.indexOf(tab) + by + tabs.length) % tabs.length];
    next.focus();
    show(next);
  });
}

// -- charts --------------------------------------------------------------------------------------

const charts = new Map(); // canvas id -> what it shows

function chart(id, content) {
  charts.set(id, content);
  if ($(id).offsetParent !== null) draw($(id), content);
}

function redraw() {
  for (const [id, content] of charts) if ($(id).offsetParent !== null) draw($(id), content);
}

window.addEventListener("resize", redraw);

// content: {title, x, series: [{name, color, points: [[x, y]], dashed, band: [[x, low, high]]}]}
function draw(canvas, content) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text"), faint = style.getPropertyValue("--faint");
  pen.scale(ratio, ratio);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px system-ui, sans-serif";
  const all = content.series.flatMap((one) => [
    ...one.points, ...(one.band || []).flatMap(([x, low, high]) => [[x, low], [x, high]]),
  ]).filter(([, y]) => Number.isFinite(y));
  pen.fillStyle = text;
  pen.fillText(content.title, 8, 16);
  if (!all.length) {
    pen.fillStyle = faint;
    pen.fillText("nothing yet", 8, height / 2);
    return;
  }
  let [x0, x1] = extent(all.map(([x]) => x)), [y0, y1] = extent(all.map(([, y]) => y));
  if (content.zero) y0 = Math.min(0, y0);
  if (x0 === x1) x1 = x0 + 1;
  if (y1 - y0 < 1e-9) { y0 -= content.zero ? 0 : 0.5; y1 = y0 + 1; }
  const names = legend(pen, content.series, width);
  const rows = names.length ? names.at(-1).row + 1 : 0;
  const left = 52, right = width - 10, top = 26 + 16 * rows, bottom = height - 22;
  const X = (x) => left + ((x - x0) / (x1 - x0)) * (right - left);
  const Y = (y) => bottom - ((y - y0) / (y1 - y0)) * (bottom - top);
  pen.strokeStyle = faint;
  pen.globalAlpha = 0.35;
  for (const y of ticks(y0, y1)) {
    pen.beginPath(); pen.moveTo(left, Y(y)); pen.lineTo(right, Y(y)); pen.stroke();
  }
  pen.globalAlpha = 1;
  pen.fillStyle = faint;
  for (const y of ticks(y0, y1)) { pen.textAlign = "right"; pen.fillText(short(y), left - 6, Y(y) + 4); }
  pen.textAlign = "left"; pen.fillText(short(x0), left, height - 6);
  pen.textAlign = "right"; pen.fillText(`${short(x1)} ${content.x || ""}`, right, height - 6);
  pen.textAlign = "left";
  for (const { text: name, color, at, row } of names) {
    pen.fillStyle = color; pen.fillRect(at, 26 + 16 * row, 12, 3);
    pen.fillStyle = text; pen.fillText(name, at + 16, 32 + 16 * row);
  }
  for (const one of content.series) {
    if (one.band && one.band.length) {
      pen.beginPath();
      one.band.forEach(([x, , high], i) => (i ? pen.lineTo(X(x), Y(high)) : pen.moveTo(X(x), Y(high))));
      for (const [x, low] of [...one.band].reverse()) pen.lineTo(X(x), Y(low));
      pen.closePath();
      pen.fillStyle = one.color; pen.globalAlpha = 0.2; pen.fill(); pen.globalAlpha = 1;
    }
    pen.beginPath();
    pen.strokeStyle = one.color;
    pen.lineWidth = 2;
    pen.setLineDash(one.dashed ? [5, 4] : []);
    let isDown = false;
    for (const [x, y] of one.points) {
      if (!Number.isFinite(y)) { isDown = false; continue; }
      if (isDown) pen.lineTo(X(x), Y(y)); else pen.moveTo(X(x), Y(y));
      isDown = true;
    }
    pen.stroke();
    pen.setLineDash([]);
    if (one.points.length === 1) { pen.fillStyle = one.color; pen.fillRect(X(one.points[0][0]) - 2, Y(one.points[0][1]) - 2, 5, 5); }
  }
}

// where the names of series stand: from left to right, in a new row where there is no more room
function legend(pen, series, width) {
  const placed = [], room = width - 36;
  let at = 8, row = 0;
  for (const { name, color } of series) {
    if (!name) continue;
    let text = name;
    while (text.length > 1 && pen.measureText(text).width > room) text = `${text.slice(0, -2)}…`;
    const wide = 28 + pen.measureText(text).width;
    if (at > 8 && at + wide > width) { at = 8; row += 1; }
    if (row === 6) return placed; // the curves need room, too
    placed.push({ text, color, at, row });
    at += wide;
  }
  return placed;
}

function extent(numbers) {
  let low = Infinity, high = -Infinity;
  for (const n of numbers) { if (n < low) low = n; if (n > high) high = n; }
  return [low, high];
}

function ticks(low, high) {
  const rough = (high - low) / 3, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= rough) || rough;
  const found = [];
  for (let y = Math.ceil(low / step) * step; y <= high + 1e-12; y += step) found.push(y);
  return found;
}

function short(number) {
  const size = Math.abs(number);
  if (size >= 1e6) return `${+(number / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(number / 1e3).toPrecision(3)}k`;
  return String(+number.toPrecision(3));
}

// -- Server --------------------------------------------------------------------------------------

const milliseconds = (s) => (s === null ? "–" : `${(s * 1000).toFixed(s < 0.01 ? 2 : 0)} ms`);

handlers.stats = (message) => {
  const totals = [
    ["Sessions", message.sessions], ["Requests", message.requests], ["Watchers", message.watchers],
    ["Dreams running", `${message.dreams} of ${message.max_dreams}`], ["Up", `${Math.round(message.up_s)} s`],
  ];
  $("totals").replaceChildren(...totals.map(([name, value]) => {
    const row = document.createElement("div");
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name;
    dd.textContent = value;
    row.append(dt, dd);
    return row;
  }));
  $("models").replaceChildren(...message.models.map((one) => {
    const model = models.find((known) => known.name === one.name) || {};
    const row = document.createElement("tr");
    row.append(
      cell(one.name), cell(model.agent || ""), cell(model.env || "an object of its own", "long"), cell(one.version),
      cell(model.dreams ? "yes" : "no"), cell(one.now.rate.toFixed(1), "number"),
      cell(milliseconds(one.now.median), "number"), cell(milliseconds(one.now.p99), "number"),
      cell(milliseconds(one.minutes.median), "number"), cell(milliseconds(one.minutes.p99), "number"),
    );
    return row;
  }));
  const series = (name) => message.models.map((one, i) => ({
    name: one.name, color: COLORS[i % COLORS.length],
    points: one.history.map((past) => [past.at, past[name] === null ? NaN : past[name] * (name === "rate" ? 1 : 1000)]),
  }));
  chart("rate-chart", { title: "requests a second", x: "s", zero: true, series: series("rate") });
  chart("latency-chart", { title: "median latency, ms", x: "s", zero: true, series: series("median") });
};

// -- pictures ------------------------------------------------------------------------------------

// A frame is: uint32 length of a JSON header, the header, then the pictures' bytes one after another.
function frame(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let offset = 4 + length;
  for (const picture of header.pictures) {
    const size = picture.w * picture.h * picture.c;
    paint($(`${header.view}-${picture.slot}`), picture, new Uint8Array(buffer, offset, size));
    offset += size;
  }
  (header.view === "watch" ? watched : played)(header);
}

function paint(canvas, { w, h, c }, bytes) {
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  const pen = canvas.getContext("2d", { willReadFrequently: true }); // written pixel by pixel
  const image = pen.createImageData(w, h);
  for (let i = 0, from = 0; i < image.data.length; i += 4, from += c) {
    image.data[i] = bytes[from];
    image.data[i + 1] = bytes[c === 3 ? from + 1 : from];
    image.data[i + 2] = bytes[c === 3 ? from + 2 : from];
    image.data[i + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
}

function blank(id) {
  const canvas = $(id);
  canvas.width = canvas.height = 64;
}

function lines(id, view, names) {
  const series = Object.entries(view.vectors).flatMap(([slot, steps]) => {
    const count = steps.length ? Math.min(steps[steps.length - 1][1].length, COLORS.length) : 0;
    return Array.from({ length: count }, (_, i) => ({
      name: slot === "real" || slot === "person" ? `[${i}]` : "", color: COLORS[i],
      dashed: slot === "dream" || slot === "policy", points: steps.map(([x, values]) => [x, values[i]]),
    }));
  });
  $(id).hidden = !series.length;
  if (series.length) chart(id, { title: names, x: "steps", series });
}

// -- Watch ---------------------------------------------------------------------------------------

let watch = null; // what is being watched

$("watch-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const mode = $("watch-mode").value;
  send({
    do: "watch", model: $("watch-model").value, seed: Number($("watch-seed").value),
    deterministic: mode === "" ? null : mode === "true",
  });
  say("the episode is being prepared");
});

handlers.watching = (message) => {
  watch = { isPaused: message.paused, watchers: 1, reward: [], value: [], dreamReward: [], dreamValue: [], vectors: {} };
  blank("watch-real");
  blank("watch-dream");
  $("speed").value = String(message.speed);
  $("dream-caption").textContent = message.dreams
    ? `What the model dreams, from frame ${message.context} on`
    : "This bundle has no world model to dream with";
  for (const id of ["pause", "step"]) $(id).disabled = false;
  $("again").disabled = !message.dreams;
  paused(message.paused);
  say(`watching ${message.model}, seed ${message.seed}`);
};

handlers.control = (message) => {
  paused(message.paused);
  $("speed").value = String(message.speed);
  if (watch) watch.watchers = message.watchers;
};

handlers.episode = (message) => {
  if (!watch) return;
  say(`the episode of seed ${message.seed} ended after ${message.steps} steps with ${message.total.toFixed(1)}`);
};

handlers.ended = (message) => {
  ended();
  say(message.why, true);
};

function paused(isPaused) {
  if (watch) watch.isPaused = isPaused;
  $("pause").setAttribute("aria-pressed", String(isPaused));
  $("pause").textContent = isPaused ? "Go on" : "Pause";
}

$("pause").addEventListener("click", () => watch && send({ do: "control", pause: !watch.isPaused }));
$("step").addEventListener("click", () => send({ do: "control", step: true }));
$("again").addEventListener("click", () => send({ do: "control", again: true }));
$("speed").addEventListener("change", () => send({ do: "control", speed: Number($("speed").value) }));

function watched(header) {
  if (!watch) return;
  if (header.step === 0) {
    for (const name of ["reward", "value", "dreamReward", "dreamValue"]) watch[name] = [];
    watch.vectors = {};
  }
  const put = (name, y) => {
    watch[name].push([header.step, y === null || y === undefined ? NaN : y]);
    if (watch[name].length > HISTORY) watch[name].shift();
  };
  put("reward", header.reward);
  put("value", header.value);
  put("dreamReward", header.dream_reward);
  put("dreamValue", header.dream_value);
  for (const [slot, values] of Object.entries(header.vectors || {})) {
    (watch.vectors[slot] ||= []).push([header.step, values]);
    if (watch.vectors[slot].length > HISTORY) watch.vectors[slot].shift();
  }
  $("watch-facts").textContent =
    `${watch.watchers} watching, seed ${header.seed}, step ${header.step}, return ${header.total.toFixed(1)}`;
  const pair = (real, dream) => [
    { name: "what happens", color: COLORS[0], points: watch[real] },
    { name: "the dream", color: COLORS[1], points: watch[dream] },
  ];
  chart("reward-chart", { title: "reward", x: "steps", series: pair("reward", "dreamReward") });
  chart("value-chart", { title: "value", x: "steps", series: pair("value", "dreamValue") });
  lines("vector-chart", watch, "observation: what happens, and the dream dashed");
}

// -- Play ----------------------------------------------------------------------------------------

let play = null; // the dream being played
const AXES = [["ArrowLeft", "ArrowRight"], ["ArrowDown", "ArrowUp"], ["a", "d"], ["s", "w"], ["j", "l"], ["k", "i"]];
const LABELS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
const MOST_PADS = 24;

$("play-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const mode = $("play-mode").value;
  send({
    do: "play", model: $("play-model").value, seed: Number($("play-seed").value),
    deterministic: mode === "" ? null : mode === "true",
  });
  say("the dream is being prepared");
});

$("play-stop").addEventListener("click", () => {
  send({ do: "leave" });
  ended();
  say("stopped");
});

handlers.playing = (message) => {
  const model = models.find((one) => one.name === message.model);
  play = { action: model.action, held: new Set(), last: 0, pads: pads(model.action), reward: { person: [], policy: [] },
           total: { person: 0, policy: 0 }, vectors: {}, isOver: {} };
  blank("play-person");
  blank("play-policy");
  $("play-stop").disabled = false;
  buttons();
  steer();
  $("play-person").focus({ preventScroll: true });
  $("play-person").scrollIntoView({ block: "nearest" });
  say(`playing in the dream of ${message.model}, seed ${message.seed}`);
};

// What can be held: [{key, label, apply(action)}]; an action is in model units, as the model thinks.
function pads(action) {
  if (action.kind === "box") {
    return Array.from({ length: action.size }, (_, i) => [-1, 1].map((sign, side) => ({
      key: (AXES[i] || [])[side] || "", axis: i, sign, label: `${i + 1}${sign < 0 ? "−" : "+"}`,
    }))).flat();
  }
  let offset = 0;
  return action.nvec.flatMap((count, group) => {
    const made = Array.from({ length: count }, (_, i) => ({
      key: action.nvec.length > 1 ? "" : count <= 3 ? ["ArrowLeft", count === 2 ? "ArrowRight" : "ArrowUp", "ArrowRight"][i]
        : i < 9 ? String(i + 1) : "",
      group, index: offset + i, label: action.nvec.length > 1 ? `${group + 1}: ${i}` : String(i + (action.start[0] || 0)),
    }));
    offset += count;
    return made;
  });
}

function buttons() {
  const shown = play.pads.slice(0, MOST_PADS);
  $("pads").replaceChildren(...shown.map((pad) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = pad.key ? `${LABELS[pad.key] || pad.key} (${pad.label})` : pad.label;
    button.setAttribute("aria-pressed", "false");
    const hold = (isHeld) => (event) => {
      event.preventDefault();
      if (isHeld && event.pointerId !== undefined) button.setPointerCapture(event.pointerId);
      held(pad, isHeld);
    };
    button.addEventListener("pointerdown", hold(true));
    button.addEventListener("pointerup", hold(false));
    button.addEventListener("pointercancel", hold(false));
    button.addEventListener("keydown", (event) => { if (event.key === " " || event.key === "Enter") hold(true)(event); });
    button.addEventListener("keyup", (event) => { if (event.key === " " || event.key === "Enter") hold(false)(event); });
    pad.button = button;
    return button;
  }));
  const keys = play.pads.filter((pad) => pad.key).length;
  $("play-help").textContent = keys
    ? "Hold the keys or the buttons below; both dreams began in the same place."
    : "Hold the buttons below; both dreams began in the same place.";
}

function held(pad, isHeld) {
  if (!play || play.held.has(pad) === isHeld) return;
  if (isHeld) play.held.add(pad); else play.held.delete(pad);
  if (pad.button) pad.button.setAttribute("aria-pressed", String(isHeld));
  steer();
}

function steer() {
  const { action } = play;
  const units = new Array(action.size).fill(0);
  if (action.kind === "box") {
    for (const pad of play.held) units[pad.axis] += pad.sign;
  } else {
    const chosen = new Map([...play.held].map((pad) => [pad.group, pad.index]));
    let offset = 0;
    action.nvec.forEach((count, group) => {
      // two ways to go and no rest: keep going; otherwise the first stands for doing nothing
      const rest = action.nvec.length === 1 && count === 2 ? play.last : offset + (count === 3 ? 1 : 0);
      const index = chosen.has(group) ? chosen.get(group) : rest;
      if (chosen.has(group) && action.nvec.length === 1) play.last = index;
      units[index] = 1;
      offset += count;
    });
  }
  send({ do: "act", action: units });
}

for (const [type, isHeld] of [["keydown", true], ["keyup", false]]) {
  window.addEventListener(type, (event) => {
    if (!play || $("play").hidden || event.ctrlKey || event.altKey || event.metaKey) return;
    if (["INPUT", "SELECT"].includes(event.target.tagName) || event.target.getAttribute("role") === "tab") return;
    const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const pad = play.pads.find((one) => one.key === pressed);
    if (!pad) return;
    event.preventDefault();
    held(pad, isHeld);
  });
}

window.addEventListener("blur", () => { if (play) for (const pad of [...play.held]) held(pad, false); });

function played(header) {
  if (!play) return;
  for (const [slot, numbers] of Object.entries(header.numbers)) {
    play.reward[slot].push([header.step, numbers.reward === undefined ? NaN : numbers.reward]);
    if (play.reward[slot].length > HISTORY) play.reward[slot].shift();
    if (!play.isOver[slot]) play.total[slot] += numbers.reward || 0;
    play.isOver[slot] = numbers.is_over;
    $(`${slot}-score`).textContent = play.total[slot].toFixed(1) + (numbers.is_over ? ", over" : "");
  }
  for (const [slot, values] of Object.entries(header.vectors || {})) {
    (play.vectors[slot] ||= []).push([header.step, values]);
    if (play.vectors[slot].length > HISTORY) play.vectors[slot].shift();
  }
  chart("play-chart", {
    title: "dreamed reward", x: "steps", series: [
      { name: "you", color: COLORS[0], points: play.reward.person },
      { name: "the policy", color: COLORS[1], points: play.reward.policy },
    ],
  });
  lines("play-vector", play, "dreamed observation: yours, and the policy's dashed");
}

function ended() {
  watch = play = null;
  for (const id of ["pause", "step", "again", "play-stop"]) $(id).disabled = true;
  $("pads").replaceChildren();
}

// -- Runs ----------------------------------------------------------------------------------------

let runs = [];
const hiddenRuns = new Set();
const curves = new Map(); // run -> {metric: [[step, value]]}

handlers.runs = (message) => {
  runs = message.runs;
  const metrics = [...new Set(runs.flatMap((run) => run.metrics))].sort();
  const before = $("run-metric").value;
  $("run-metric").replaceChildren(...metrics.map((name) => option(name, name)));
  const preferred = [before, "eval/mean_reward", "rollout/ep_rew_mean"].find((name) => metrics.includes(name));
  if (preferred) $("run-metric").value = preferred;
  $("run-list").replaceChildren(...runs.map((run) => {
    const row = document.createElement("tr");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !hiddenRuns.has(run.name);
    box.setAttribute("aria-label", `show ${run.name}`);
    box.addEventListener("change", () => {
      if (box.checked) hiddenRuns.delete(run.name); else hiddenRuns.add(run.name);
      drawRuns();
    });
    const first = document.createElement("td");
    first.append(box);
    row.append(first, cell(run.name, "long"), cell(run.agent), cell(run.env, "long"), cell(run.seed), cell(short(run.steps), "number"),
               cell(run.age_s < 90 ? `${Math.round(run.age_s)} s ago` : `${Math.round(run.age_s / 60)} min ago`, "number"));
    return row;
  }));
  $("run-note").textContent = runs.length ? "" : "There are no runs in this folder yet.";
  askCurves();
};

handlers.curves = (message) => {
  curves.set(`${message.run} ${message.metric}`, message.points);
  drawRuns();
};

function askCurves() {
  for (const run of runs) send({ do: "curves", run: run.name, metric: $("run-metric").value });
}

$("run-metric").addEventListener("change", askCurves);
$("run-bands").addEventListener("change", drawRuns);
setInterval(() => { if (!$("runs").hidden) send({ do: "runs" }); }, 3000);

function drawRuns() {
  const metric = $("run-metric").value;
  const groups = new Map();
  for (const run of runs) {
    const points = curves.get(`${run.name} ${metric}`);
    if (hiddenRuns.has(run.name) || !points || !points.length) continue;
    const alike = $("run-bands").checked && run.agent ? `${run.agent} ${run.env}` : run.name;
    if (!groups.has(alike)) groups.set(alike, []);
    groups.get(alike).push(points);
  }
  const series = [...groups].map(([alike, several]) => [alike.split("?")[0], several]).map(([name, several], i) => ({
    name: several.length > 1 ? `${name}, ${several.length} seeds` : name,
    color: COLORS[i % COLORS.length],
    ...(several.length > 1 ? banded(several) : { points: several[0] }),
  }));
  chart("run-chart", { title: metric, x: "steps", series });
}

// Mean and band of several curves on the steps that all of them have reached.
function banded(several) {
  const start = Math.max(...several.map((points) => points[0][0]));
  const end = Math.min(...several.map((points) => points[points.length - 1][0]));
  const steps = [...new Set(several.flatMap((points) => points.map(([x]) => x)))]
    .filter((x) => x >= start && x <= end).sort((a, b) => a - b);
  const points = [], band = [];
  for (const x of steps) {
    const values = several.map((one) => between(one, x));
    points.push([x, values.reduce((a, b) => a + b, 0) / values.length]);
    band.push([x, Math.min(...values), Math.max(...values)]);
  }
  return { points, band };
}

function between(points, x) {
  let i = 0;
  while (i + 2 < points.length && points[i + 1][0] < x) i += 1;
  const [x0, y0] = points[i], [x1, y1] = points[Math.min(i + 1, points.length - 1)];
  return x1 === x0 ? y0 : y0 + ((x - x0) / (x1 - x0)) * (y1 - y0);
}

connect();
