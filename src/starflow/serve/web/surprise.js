// How much each part of a clip surprises the model: colors over the video, and a bar for each latent frame.

import { colorOf } from "./colors.js";

const find = (id) => document.getElementById(id);

export class SurpriseMap {
  #video;
  #canvas = find("heat");
  #panel = find("surprise");
  #scores = null;

  constructor(video) {
    this.#video = video;
    const draw = () => {
      if (this.#scores !== null) this.#draw();
      video.requestVideoFrameCallback?.(draw);
    };
    draw();
    for (const name of ["seeked", "timeupdate", "loadeddata"]) video.addEventListener(name, () => this.#draw());
  }

  get isShown() {
    return this.#scores !== null;
  }

  hide() {
    this.#scores = null;
    this.#canvas.hidden = this.#panel.hidden = true;
  }

  /** Show the scores of the clip that is played, under the first caption. `model` says how latent frames are spaced. */
  show(scores, model) {
    const [score] = scores.scores;
    const values = score.surprise.flat(2);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const [width, height] = model.size.split("x").map(Number);
    this.#scores = { ...score, least, most, fps: scores.fps, factor: model.frames_multiple, aspect: width / height };
    this.#canvas.hidden = this.#panel.hidden = false;
    const seconds = (scores.num_frames / scores.fps).toFixed(1);
    find("surprise-text").textContent =
      `Under “${score.prompt}”: ${score.bits_per_dim.toFixed(3)} bits per dimension, log-likelihood ` +
      `${Math.round(score.log_likelihood)} nats. The first ${seconds} s are measured; bright parts are less likely.`;
    find("least").textContent = `${least.toFixed(1)} nats`;
    find("most").textContent = `${most.toFixed(1)} nats`;
    this.#drawBars();
    this.#draw();
  }

  #drawBars() {
    const means = this.#scores.surprise.map((frame) => mean(frame.flat()));
    const [least, most] = [Math.min(0, ...means), Math.max(...means)];
    const bars = means.map((value) => {
      const bar = document.createElement("li");
      bar.style.height = `${Math.max(3, (100 * (value - least)) / (most - least || 1))}%`;
      bar.title = bar.ariaLabel = value.toFixed(1);
      return bar;
    });
    find("bars").replaceChildren(...bars);
  }

  /** Draw the latent frame of the moment. The first has one video frame, the others `factor`. */
  #draw() {
    if (this.#scores === null) return;
    const { surprise, least, most, fps, factor } = this.#scores;
    const frame = Math.floor(this.#video.currentTime * fps + 1e-3);
    const index = Math.floor((frame + factor - 1) / factor);
    [...find("bars").children].forEach((bar, at) => bar.classList.toggle("now", at === index));
    const tokens = surprise[index] ?? [[]]; // nothing after what was measured
    this.#place();
    [this.#canvas.width, this.#canvas.height] = [tokens[0].length, tokens.length];
    const context = this.#canvas.getContext("2d");
    tokens.forEach((row, y) =>
      row.forEach((value, x) => {
        context.fillStyle = `rgb(${colorOf((value - least) / (most - least || 1))})`;
        context.fillRect(x, y, 1, 1);
      }),
    );
  }

  /** Cover the part of the video that was measured: its center, in the model's aspect ratio. */
  #place() {
    const { videoWidth, videoHeight } = this.#video;
    if (!videoWidth) return;
    const ratio = this.#scores.aspect / (videoWidth / videoHeight);
    this.#canvas.style.width = `${100 * Math.min(1, ratio)}%`;
    this.#canvas.style.height = `${100 * Math.min(1, 1 / ratio)}%`;
  }
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
