// The live run page: state and log lines as they come, complete after any loss.
import { Refused, backoff, count, refresh, sayLoggedOut, size, socketUrl, span } from "./app.js";

const page = JSON.parse(document.getElementById("run-page").textContent);
const log = document.getElementById("log");
const jump = document.getElementById("jump");
const earlier = document.getElementById("earlier");
const sign = document.querySelector("[data-live-sign]");
const announcer = document.getElementById("announcer");

const CHUNK = 200; // lines in one box that the browser lays out only when it is seen
const DRAWN_AT_ONCE = 400;
const MOST_LINES = 4000; // in the page while it follows the end; three times that while someone reads further up
const TOO_FAR = 3000; // further behind than this, the page starts again from the end of the log
const CONFIRM_MS = 250;
const DEAF_MS = 37500;
const POLL_MS = 4000;
const PARTS_MS = 2000; // between two looks at what is said of each part; their cells are drawn at once
const ENDED = ["succeeded", "failed", "cancelled"];

// The log ------------------------------------------------------------------------------------------

let have = page.last; // every line up to here was received
let queue = []; // received, not drawn yet
let drawing = false;
let detached = false; // someone reads far up: lines are counted, not drawn
let lines = log.querySelectorAll(".l").length;
let lastAttempt = page.attempt;

const hms = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 40;
let following = true;

function makeLine(line) {
  const row = document.createElement("p");
  row.className = `l ${line.level}`;
  row.dataset.seq = line.seq;
  const time = document.createElement("time");
  time.dateTime = line.at;
  time.textContent = hms.format(new Date(line.at));
  time.title = line.at;
  const text = document.createElement("span");
  if (line.level !== "info") {
    const level = document.createElement("b");
    level.textContent = line.level;
    text.append(level, " ");
  }
  text.append(...withRuns(line.message));
  row.append(time, text);
  return row;
}

/** A message as text, in which the runs that it names are links. */
function withRuns(message) {
  return message.split(/\b(run [0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b/).map((piece, at) => {
    if (at % 2 === 0) return piece;
    const link = document.createElement("a");
    link.href = `/runs/${piece.slice(4)}/`;
    link.textContent = piece;
    return link;
  });
}

function makeRows(batch, attempt) {
  return batch.map((line) => {
    const row = makeLine(line);
    if (line.attempt > 1 && line.attempt !== attempt) row.dataset.attempt = `Attempt ${line.attempt}`;
    attempt = line.attempt || attempt;
    return row;
  });
}

function makeChunk(rows) {
  const chunk = document.createElement("div");
  chunk.className = "chunk";
  chunk.append(...rows);
  return chunk;
}

function append(batch) {
  const rows = makeRows(batch, lastAttempt);
  lastAttempt = batch.at(-1).attempt || lastAttempt;
  lines += rows.length;
  const last = log.lastElementChild;
  const room = last?.classList.contains("chunk") ? Math.max(0, CHUNK - last.childElementCount) : 0;
  if (room) last.append(...rows.splice(0, room));
  while (rows.length) log.append(makeChunk(rows.splice(0, CHUNK)));
}

function trim() {
  while (lines > MOST_LINES && log.querySelectorAll(".chunk").length > 1) {
    const first = log.querySelector(".chunk");
    lines -= first.childElementCount;
    first.remove();
  }
  showEarlier();
}

/** Chunks out of sight have a guessed height: the end moves as they come into view. */
function goToEnd(frames = 10) {
  log.scrollTop = log.scrollHeight;
  showJump();
  if (frames) requestAnimationFrame(() => goToEnd(frames - 1));
}

function showEarlier() {
  const first = Number(log.querySelector(".l")?.dataset.seq ?? 1);
  earlier.hidden = first <= 1;
}

function draw() {
  drawing = false;
  if (!queue.length) return;
  following = isAtEnd();
  if (!following && lines + queue.length > 3 * MOST_LINES) detached = true;
  if (detached) {
    queue = [];
  } else {
    append(queue.splice(0, DRAWN_AT_ONCE));
    if (following) {
      trim();
      log.scrollTop = log.scrollHeight;
    }
  }
  showJump();
  if (queue.length) schedule();
  else confirmLater();
}

function showJump() {
  jump.hidden = !detached && isAtEnd();
  document.getElementById("empty")?.toggleAttribute("hidden", lines > 0);
}

// Frames stop in a hidden tab; its log should go on.
function schedule() {
  if (drawing) return;
  drawing = true;
  if (document.hidden) setTimeout(draw, 200);
  else requestAnimationFrame(draw);
}

// `after`: the batch is all there is after that line. More than we have means that something was lost.
function receive(batch, after) {
  if (after > have) {
    lostMore = true;
    fetchMissing();
    return;
  }
  const fresh = batch.filter((line) => line.seq > have);
  if (!fresh.length) return;
  have = fresh.at(-1).seq;
  queue.push(...fresh);
  schedule();
}

async function fetchLog(query) {
  const answer = await fetch(`${page.log_url}?${query}`, { signal: AbortSignal.timeout(15000) });
  if (answer.status === 401 || answer.status === 403) throw new Refused();
  if (!answer.ok) throw new Error(`The log answered ${answer.status}.`);
  return answer.json();
}

let missing = null;
let lostMore = false;

// Fetch what follows `have` until there is no more; whoever asks meanwhile waits for the same.
function fetchMissing() {
  missing ??= fetchUntilComplete()
    .catch(giveUpIfRefused)
    .finally(() => (missing = null));
  return missing;
}

async function fetchUntilComplete() {
  let more = true;
  while (more) {
    lostMore = false;
    const after = have;
    const answer = await fetchLog(`after=${after}`);
    takeState(answer.state);
    receive(answer.lines, after);
    if (answer.state.last_seq - have > TOO_FAR && following) await startFromEnd();
    more = lostMore || answer.lines.length === page.batch;
  }
}

// Forget what is shown and show the end of the log.
async function startFromEnd() {
  const answer = await fetchLog("");
  log.querySelectorAll(".chunk").forEach((chunk) => chunk.remove());
  queue = [];
  lines = 0;
  lastAttempt = 0;
  detached = false;
  if (answer.lines.length) {
    have = Math.max(have, answer.lines.at(-1).seq);
    append(answer.lines);
  }
  showEarlier();
  goToEnd();
  say({ after: have });
}

async function showEarlierLines() {
  const first = log.querySelector(".l");
  if (!first) return;
  earlier.disabled = true;
  try {
    const { lines: batch } = await fetchLog(`before=${first.dataset.seq}`);
    const fromEnd = log.scrollHeight - log.scrollTop;
    const rows = makeRows(batch, 0);
    lines += rows.length;
    while (rows.length) earlier.after(makeChunk(rows.splice(-CHUNK)));
    log.scrollTop = log.scrollHeight - fromEnd;
    earlier.hidden = !batch.length || batch[0].seq <= 1;
  } catch (error) {
    giveUpIfRefused(error);
  } finally {
    earlier.disabled = false;
  }
}

// The state ----------------------------------------------------------------------------------------

let state = page.state;
let stateAt = Date.now();
let described = describe(state);

function describe(of) {
  return JSON.stringify([of.status, of.attempt, of.waiting.replace(/\d+/g, ""), of.cancel_requested, of.error, of.progress.estimated_rows, of.step, of.parts?.cells.length]);
}

function takeState(fresh) {
  if (ENDED.includes(state.status) && !ENDED.includes(fresh.status)) return; // overtaken on the way
  const before = state.status;
  state = fresh;
  stateAt = Date.now();
  showProgress();
  if (describe(fresh) !== described) {
    described = describe(fresh);
    toldParts = fresh.parts?.cells;
    if (fresh.status !== before) announcer.textContent = `The run is now ${fresh.status_label.toLowerCase()}.`;
    showWhatChanged();
  }
  if (ENDED.includes(fresh.status) && have >= fresh.last_seq) setTimeout(end, 5000);
}

let showing = null;
let showAgain = false;

function showWhatChanged() {
  if (showing) {
    showAgain = true;
    return;
  }
  showing = refresh()
    .catch(giveUpIfRefused)
    .finally(() => {
      showing = null;
      showProgress();
      if (showAgain) {
        showAgain = false;
        showWhatChanged();
      }
    });
}

function put(name, text) {
  for (const place of document.querySelectorAll(`[data-value="${name}"]`)) {
    if (place.textContent !== text) place.textContent = text;
  }
}

function showProgress() {
  const progress = state.progress;
  const left = progress.seconds_left;
  put("rows", count(progress.rows));
  put("bytes", size(progress.bytes));
  put("rate", progress.rows_per_s ? count(progress.rows_per_s) : "–");
  put("percent", progress.percent === null ? "–" : `${Math.floor(progress.percent)} %`);
  put("left", left === null ? "–" : span(Math.round(left)));
  put("phase", state.phase);
  if (state.parts) showParts(state.parts);
  showElapsed();
  const bar = document.querySelector("[data-progress]");
  if (bar && progress.percent !== null) bar.value = progress.percent;
  const percent = state.status === "running" && progress.percent !== null ? ` ${Math.floor(progress.percent)} %` : "";
  document.title = `${state.status_label}${percent} · ${page.pipeline} · DataMantri`;
}

let toldParts = page.state.parts?.cells;
let partsLater = null;

// Three characters for each cell: its state, how full and how wide it is. What is said of each is fetched, less often.
function showParts({ words, cells }) {
  put("parts", words);
  const drawn = document.querySelectorAll(".parts .part");
  if (drawn.length * 3 !== cells.length) return;
  drawn.forEach((cell, i) => {
    const look = `part is-${cells[3 * i]} f${cells[3 * i + 1]} w${cells[3 * i + 2]}`;
    if (cell.className !== look) cell.className = look;
  });
  if (cells === toldParts) return;
  partsLater ??= setTimeout(() => {
    partsLater = null;
    toldParts = state.parts?.cells;
    showWhatChanged();
  }, PARTS_MS);
}

function showElapsed() {
  if (state.progress.elapsed_s === null) return;
  const since = ENDED.includes(state.status) ? 0 : (Date.now() - stateAt) / 1000;
  put("elapsed", span(state.finished_at ? state.progress.elapsed_s : Math.round(state.progress.elapsed_s + since)));
}

// The socket ---------------------------------------------------------------------------------------

let socket = null;
let failures = 0;
let heardAt = 0;
let saidAt = 0;
let confirming = null;
let over = false;

function say(what) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(what));
}

// The server sends only so much that was not confirmed; what waits to be drawn is not confirmed yet.
function confirmLater() {
  confirming ??= setTimeout(() => {
    confirming = null;
    if (!queue.length) say({ after: have });
  }, CONFIRM_MS);
}

function connect() {
  if (over) return;
  let started = false;
  const mine = (socket = new WebSocket(socketUrl(page.socket_path)));
  heardAt = Date.now();
  mine.onmessage = async (event) => {
    heardAt = Date.now();
    const message = JSON.parse(event.data);
    if (message.type === "lines") {
      receive(message.lines, message.after);
      return;
    }
    takeState(message.state);
    if (started) {
      confirmLater();
      return;
    }
    started = true;
    failures = 0;
    showSign("live");
    if (message.state.last_seq - have > TOO_FAR && following) await startFromEnd().catch(giveUpIfRefused);
    else say({ after: have });
  };
  mine.onclose = () => {
    if (over) return;
    showSign("reconnecting");
    if (failures++ === 0) fetchMissing();
    setTimeout(connect, backoff(failures));
  };
}

function showSign(what) {
  sign.hidden = false;
  sign.dataset.sign = what;
  sign.textContent = what;
}

function giveUpIfRefused(error) {
  if (!(error instanceof Refused)) return; // the next poll, check or connection tries again
  over = true;
  socket?.close();
  showSign("logged out");
  sayLoggedOut();
}

function end() {
  if (over || !ENDED.includes(state.status) || have < state.last_seq) return;
  over = true;
  socket?.close();
  sign.hidden = true;
}

setInterval(() => {
  if (over) return;
  const now = Date.now();
  if (!ENDED.includes(state.status)) showElapsed();
  if (socket?.readyState === WebSocket.OPEN) {
    if (now - heardAt > DEAF_MS) socket.close(); // a connection that is open at one end only
    else if (now - saidAt > page.check_ms) {
      saidAt = now;
      if (!queue.length) say({ after: have, check: true });
    }
  } else if (now - saidAt > POLL_MS) {
    saidAt = now;
    fetchMissing();
  }
}, 1000);

log.addEventListener("scroll", showJump, { passive: true });
earlier.addEventListener("click", showEarlierLines);
jump.addEventListener("click", () => {
  if (detached) startFromEnd().catch(giveUpIfRefused);
  else goToEnd();
});

for (const time of log.querySelectorAll(".l time")) {
  time.title = time.dateTime;
  time.textContent = hms.format(new Date(time.dateTime));
}
log.scrollTop = log.scrollHeight;
showEarlier();
showJump();
showProgress();
if (ENDED.includes(state.status) && have >= state.last_seq) over = true;
else connect();
