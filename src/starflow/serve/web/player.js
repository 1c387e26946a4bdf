// Plays a video: the finished file, or the fragments of one that is being made.

import { getContent } from "./api.js";

export class Player {
  #element;
  #shown = ""; // what is shown, or about to be
  #id = "";
  #controller = new AbortController();

  constructor(element) {
    this.#element = element;
    element.autoplay = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  }

  /** Show a video of the server. May be called again whenever the video has changed. */
  async show(video) {
    if (video.status === "completed") {
      await this.#change(`completed ${video.id}`, video.id, (signal) => this.#playFinished(video, signal));
    } else if (video.status === "in_progress") {
      const attempt = `growing ${video.id} ${video.started_at}`;
      await this.#change(attempt, video.id, (signal) => this.#playGrowing(video, signal));
    } else {
      this.clear();
    }
  }

  /** Show a file of the user. */
  async showFile(file) {
    await this.#change(`file ${file.name} ${file.lastModified}`, "", () => this.#play(file));
  }

  clear() {
    this.#change("", "", () => this.#empty());
  }

  #empty() {
    URL.revokeObjectURL(this.#element.src);
    this.#element.removeAttribute("src");
    this.#element.load();
  }

  async #change(shown, id, play) {
    if (shown === this.#shown) return;
    this.#controller.abort();
    this.#controller = new AbortController();
    if (id !== this.#id) this.#empty();
    [this.#shown, this.#id] = [shown, id];
    try {
      await play(this.#controller.signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#shown = ""; // the next call tries again
      throw error;
    }
  }

  #play(source, time = 0) {
    URL.revokeObjectURL(this.#element.src);
    this.#element.src = URL.createObjectURL(source);
    this.#element.currentTime = time;
  }

  /** Play the finished file, from where its fragments were. */
  async #playFinished(video, signal) {
    const blob = await (await getContent(video.id, "video", signal)).blob();
    signal.throwIfAborted();
    this.#play(blob, this.#element.currentTime);
  }

  /** Append fragments as they come. A browser that cannot waits for the finished file. */
  async #playGrowing(video, signal) {
    const reader = (await getContent(video.id, "video", signal)).body.getReader();
    const head = await readHead(reader);
    if (head === null || !window.MediaSource?.isTypeSupported(head.type)) return reader.cancel();
    const source = new MediaSource();
    this.#play(source);
    await event(source, "sourceopen", signal);
    const buffer = source.addSourceBuffer(head.type);
    for (let data = head.data; data; data = (await reader.read()).value) {
      buffer.appendBuffer(data);
      await event(buffer, "updateend", signal);
    }
    source.endOfStream();
  }
}

/** The first bytes of a fragmented MP4, up to the codec's configuration, and their type; null if there is none. */
async function readHead(reader) {
  let data = new Uint8Array();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return null;
    const longer = new Uint8Array(data.length + value.length);
    longer.set(data);
    longer.set(value, data.length);
    data = longer;
    const type = typeOf(data);
    if (type) return { data, type };
  }
}

/** The MIME type of H.264 in an MP4: profile, constraints and level are bytes 1 to 3 of the box `avcC`. */
function typeOf(data) {
  const text = new TextDecoder("latin1").decode(data);
  const start = text.indexOf("avcC") + 5;
  if (start < 5 || data.length < start + 3) return "";
  const hex = Array.from(data.slice(start, start + 3), (byte) => byte.toString(16).padStart(2, "0"));
  return `video/mp4; codecs="avc1.${hex.join("")}"`;
}

function event(target, name, signal) {
  return new Promise((resolve, reject) => {
    target.addEventListener(name, resolve, { once: true });
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
