// Keeps a list of runs true: told of changes over a socket, it fetches what it shows, at its own pace.
import { Refused, backoff, refresh, sayLoggedOut, socketUrl } from "./app.js";

const PACE_MS = 1000; // at most one fetch in this time
const BUSY_MS = 2000; // while something runs or waits: progress is not announced
const IDLE_MS = "asks" in document.body.dataset ? 4000 : 20000; // in any case, for what nobody announces
const live = document.querySelector("[data-live]");
const sign = document.querySelector("[data-live-sign]");

let socket = null;
let failures = 0;
let fetchedAt = Date.now();
let fetching = false;
let wanted = false;
let stopped = false;

async function fetchWhatChanged() {
  if (fetching || stopped || document.hidden) return;
  const wait = fetchedAt + PACE_MS - Date.now();
  if (wait > 0) {
    setTimeout(fetchWhatChanged, wait);
    return;
  }
  fetching = true;
  wanted = false;
  fetchedAt = Date.now();
  try {
    await refresh();
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ seen: true }));
  } catch (error) {
    if (error instanceof Refused) {
      stopped = true;
      socket?.close();
      sayLoggedOut();
    }
  } finally {
    fetching = false;
  }
  if (wanted) fetchWhatChanged();
}

function change(pipelines) {
  if (live.dataset.pipeline && pipelines && !pipelines.includes(live.dataset.pipeline)) {
    socket.send(JSON.stringify({ seen: true }));
    return;
  }
  wanted = true;
  fetchWhatChanged();
}

function connect() {
  socket = new WebSocket(socketUrl("/ws/board/"));
  socket.onopen = () => {
    failures = 0;
    if (sign) sign.hidden = false;
    wanted = true; // something may have changed since the page was made
    fetchWhatChanged();
  };
  socket.onmessage = (event) => change(JSON.parse(event.data).pipelines);
  socket.onclose = () => {
    if (sign) sign.hidden = true;
    if (!stopped) setTimeout(connect, backoff(failures++));
  };
}

setInterval(() => {
  const age = Date.now() - fetchedAt;
  if (wanted || age > IDLE_MS || (age > BUSY_MS && "busy" in live.dataset)) fetchWhatChanged();
}, 500);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) fetchWhatChanged();
});
connect();
