// The page of `starflow play`: a WebSocket that sends frames, and is told what the player does.
//
// It measures "control to picture" (from a press until the first frame with its action is drawn) and "frame" (each frame
// that is drawn) with the browser's User Timing, so that `benchmarks/play.py` can observe them.

import { Controls, isTyping } from "./controls.js";
import { Picture } from "./picture.js";

const LATENCIES = 21; // that the shown median is of
const find = (id) => document.getElementById(id);

const socket = new WebSocket(new URL("play", location.href.replace(/^http/, "ws")));
socket.binaryType = "arraybuffer";

let picture, controls;
let isPaused = false;
let index = 0; // of the newest message that was shown
let fps = 0;
let stepsPerSecond = 0;
let latencies = [];
const pressed = new Map(); // times of actions by id, until a frame has shown them

function send(message) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function tell(text) {
  find("notice").textContent = text;
  find("notice").hidden = !text;
}

// --- what the server sends -------------------------------------------------------------------------------------------

socket.onmessage = ({ data }) => {
  if (typeof data === "string") {
    const message = JSON.parse(data);
    if (message.type === "hello") begin(message);
    else tell(message.message);
    return;
  }
  const end = 4 + new DataView(data).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, end - 4)));
  if (header.type === "clip") download(header.name, data.slice(end));
  else show(header, new Uint8Array(data, end));
};

socket.onclose = () => {
  if (find("notice").hidden) tell("The game has ended. Load the page again to play on.");
};

function begin(hello) {
  find("model").textContent = `${hello.model}, ${hello.width}×${hello.height}, ${+hello.fps.toFixed(2)} frames per second`;
  [fps, stepsPerSecond] = [hello.fps, hello.fps / hello.frames_per_step];
  find("start").replaceChildren(...hello.starts.map((name) => new Option(name || "from the caption", name)));
  picture = new Picture(hello);
  controls = new Controls(hello, find("controls"), act);
  find("latency-meter").hidden = !hello.controls.length;
  requestAnimationFrame(tick);
}

function show(header, pixels) {
  const first = () => {
    measureLatency(header.action);
    controls.shown(header.action);
    find("made").textContent = `${header.milliseconds.toFixed(0)} ms`;
    find("seed").textContent = header.seed;
    if (document.activeElement !== find("prompt")) find("prompt").value = header.prompt;
  };
  const last = () => {
    index = header.index;
    if (!isPaused) send({ type: "seen", index });
  };
  picture.add(header, pixels, first, last);
}

function tick(now) {
  controls.readGamepad(now);
  picture.draw(now);
  const rate = picture.rate(now);
  find("rate").textContent = rate ? `${rate.toFixed(1)} of ${+fps.toFixed(2)}` : "–";
  requestAnimationFrame(tick);
}

// --- what the player does --------------------------------------------------------------------------------------------

function act(action, id, time) {
  pressed.set(id, time);
  send({ type: "action", action, id });
}

/** Of the action that led to a frame, when this is drawn first. Actions that were replaced before have no frame. */
function measureLatency(id) {
  const now = performance.now();
  performance.measure("frame", { start: now, end: now });
  if (pressed.has(id)) {
    const start = pressed.get(id);
    performance.measure("control to picture", { start, end: now });
    latencies = [...latencies, now - start].slice(-LATENCIES);
    const median = latencies.toSorted((a, b) => a - b)[latencies.length >> 1];
    find("latency").textContent = `${median.toFixed(0)} ms`;
  }
  performance.clearMeasures(); // those who observe have got them
  for (const each of [...pressed.keys()]) if (each <= id) pressed.delete(each);
}

function pause(on) {
  isPaused = on;
  find("pause").setAttribute("aria-pressed", String(on));
  find("paused").hidden = !on;
  if (!on) send({ type: "seen", index });
}

function rewind() {
  send({ type: "rewind", steps: Math.ceil(stepsPerSecond) });
}

find("pause").onclick = () => pause(!isPaused);
find("rewind").onclick = rewind;
find("save").onclick = () => send({ type: "save" });
find("show-surprise").onclick = ({ target }) => {
  const on = target.getAttribute("aria-pressed") !== "true";
  target.setAttribute("aria-pressed", String(on));
  send({ type: "surprise", on });
};
find("start-form").onsubmit = (event) => {
  event.preventDefault();
  pause(false);
  send({ type: "reset", start: find("start").value });
};
find("prompt-form").onsubmit = (event) => {
  event.preventDefault();
  find("prompt").blur(); // the keys play again
  send({ type: "say", prompt: find("prompt").value });
};
window.addEventListener("keydown", (event) => {
  if (isTyping(event) || event.repeat || event.ctrlKey || event.metaKey) return;
  if (event.code === "Backspace") rewind();
  if (event.code === "KeyP") pause(!isPaused);
});
for (const button of document.querySelectorAll(".buttons button, form button"))
  button.addEventListener("pointerup", () => setTimeout(() => document.activeElement?.blur())); // the keys play again

function download(name, bytes) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
