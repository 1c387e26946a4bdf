// The stage: one video, or a clip of the user, with its state, its settings, and what can be done with it.

import { getContent, score } from "./api.js";
import { Player } from "./player.js";
import { SurpriseMap } from "./surprise.js";
import { isActive, settingsOf, shortState, stateOf } from "./texts.js";

const SMALL = 160; // pixels: smaller frames are enlarged without smoothing
const find = (id) => document.getElementById(id);

export class Stage {
  #element = find("video");
  #player = new Player(this.#element);
  #map = new SurpriseMap(this.#element);
  #model = null;
  #video = null; // of the server
  #clip = null; // or of the user: its name
  #measuring = null; // the controller of the measurement that runs
  #problem = "";

  /** `actions` are functions of a video, by the name of their button. */
  constructor(actions) {
    const handlers = {
      ...actions,
      cancel: (video) => (this.#measuring ? this.#measuring.abort() : actions.cancel(video)),
      surprise: (video) => this.#toggleSurprise(video),
      download,
    };
    for (const button of find("actions").children) {
      const handle = handlers[button.dataset.action];
      button.addEventListener("click", () => this.#try(() => handle(this.#video)));
    }
    this.#element.addEventListener("resize", () => this.#fit());
  }

  setModel(model) {
    this.#model = model;
  }

  get hasClip() {
    return this.#clip !== null;
  }

  /** Show a video; null for none. May be called again whenever the video has changed. */
  show(video) {
    if (video === null && this.hasClip) return; // the user's clip stays
    if (video?.id !== this.#video?.id || this.hasClip) this.#leave();
    if (video !== null && video.status !== this.#video?.status) announce(`${shortState(video)}: ${video.prompt}`);
    this.#video = video;
    this.#render();
    if (video === null) this.#player.clear();
    else this.#try(() => this.#player.show(video));
  }

  /** Show a clip of the user, and measure its surprise under a prompt. */
  async measureClip({ file, id, name, prompt }) {
    this.#leave();
    this.#clip = name;
    this.#render();
    await this.#try(async () => this.#player.showFile(file ?? (await (await getContent(id)).blob())));
    await this.#measure(file ? { video: file } : { "video[id]": id }, prompt);
  }

  #toggleSurprise(video) {
    if (!this.#map.isShown) return this.#measure({ "video[id]": video.id }, video.prompt);
    this.#map.hide();
    this.#render();
  }

  async #measure(clip, prompt) {
    const controller = (this.#measuring = new AbortController());
    this.#problem = "";
    this.#render();
    const fields = new FormData();
    for (const [name, value] of Object.entries({ ...clip, prompt })) fields.append(name, value);
    await this.#try(async () => {
      const scores = await score(fields, controller.signal);
      if (controller === this.#measuring) this.#map.show(scores, this.#model);
    });
    if (controller !== this.#measuring) return; // something else is shown now
    this.#measuring = null;
    this.#render();
    if (this.#map.isShown) announce("The surprise is measured.");
  }

  /** Do something whose error is shown on the stage. */
  async #try(action) {
    const [video, clip] = [this.#video?.id, this.#clip];
    try {
      await action();
    } catch (error) {
      if (error.name === "AbortError" || video !== this.#video?.id || clip !== this.#clip) return;
      this.#problem = error.message;
      this.#render();
    }
  }

  #leave() {
    this.#measuring?.abort();
    this.#map.hide();
    [this.#video, this.#clip, this.#measuring, this.#problem] = [null, null, null, ""];
  }

  #render() {
    const video = this.#video;
    const isMade = video?.status === "completed";
    const isRunning = video !== null && isActive(video);
    find("title").textContent = video?.prompt ?? this.#clip ?? "No video yet";
    find("status").textContent = this.#statusText();
    find("screen").hidden = !isMade && video?.status !== "in_progress" && this.#clip === null;
    find("progress").hidden = !isRunning && !this.#measuring;
    if (video?.status === "in_progress") find("progress").value = video.progress;
    else find("progress").removeAttribute("value");
    setText("stage-error", video?.error?.message ?? this.#problem);
    this.#showButtons({
      cancel: isRunning || this.#measuring,
      again: video !== null && !isRunning,
      continue: isMade,
      edit: isMade,
      surprise: isMade && !this.#measuring,
      download: isMade,
      delete: video !== null && !isRunning,
    });
    this.#showSettings(video === null ? [] : settingsOf(video));
    if (video !== null) this.#fit(...video.size.split("x").map(Number));
  }

  #statusText() {
    if (this.#measuring) return "Measuring the surprise…";
    if (this.#clip !== null) return "Your clip";
    return this.#video === null ? "Write a prompt, and make one." : stateOf(this.#video);
  }

  #showButtons(isVisible) {
    const hadFocus = find("actions").contains(document.activeElement);
    for (const button of find("actions").children) button.hidden = !isVisible[button.dataset.action];
    if (hadFocus && document.activeElement.hidden) find("title").focus();
    document.querySelector('[data-action="surprise"]').ariaPressed = this.#map.isShown;
  }

  #showSettings(settings) {
    const rows = settings.map(([name, value]) => {
      const row = document.createElement("div");
      row.append(make("dt", name), make("dd", value));
      return row;
    });
    find("about").replaceChildren(...rows);
  }

  /** Give the screen the shape of the frames. */
  #fit(width = this.#element.videoWidth, height = this.#element.videoHeight) {
    if (!width) return;
    find("screen").style.setProperty("--ratio", width / height);
    find("screen").classList.toggle("small", width <= SMALL);
  }
}

async function download(video) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await (await getContent(video.id)).blob());
  link.download = `${video.id}.mp4`;
  link.click();
  URL.revokeObjectURL(link.href);
}

function announce(text) {
  find("announcement").textContent = text;
}

/** Set the text of an alert, which is hidden without one. Equal texts are not announced again. */
function setText(id, text) {
  if (find(id).textContent !== text) find(id).textContent = text;
  find(id).hidden = !text;
}

function make(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}
