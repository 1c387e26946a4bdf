// The picture: frames as they come, at the rate of the video if several come at once, and the surprise over them.

import { colorOf } from "./colors.js";

const EARLY = 8; // milliseconds that a frame may be shown before it is due, as screens have times of their own
const MEMORY = 0.98; // of the range of colors: how slowly it narrows
const RATE_SECONDS = 2;

const find = (id) => document.getElementById(id);

export class Picture {
  #canvas = find("picture");
  #heat = find("heat");
  #milliseconds;
  #queue = [];
  #due = 0;
  #times = [];
  #range = null;

  constructor({ width, height, fps }) {
    [this.#canvas.width, this.#canvas.height, this.#milliseconds] = [width, height, 1000 / fps];
    find("screen").style.setProperty("--ratio", width / height);
  }

  /** Show the frames of a message soon. `onFirst` and `onLast` are called when those have been drawn. */
  add({ shape: [count, height, width], surprise }, pixels, onFirst, onLast) {
    for (let index = 0; index < count; index += 1) {
      const image = new ImageData(width, height);
      const start = 3 * index * width * height;
      for (let pixel = 0; pixel < width * height; pixel += 1) {
        image.data.set(pixels.subarray(start + 3 * pixel, start + 3 * pixel + 3), 4 * pixel);
        image.data[4 * pixel + 3] = 255;
      }
      const wait = count > 1 ? this.#milliseconds : 0;
      this.#queue.push({ image, surprise, wait, first: index === 0 && onFirst, last: index === count - 1 && onLast });
    }
  }

  /** Draw the next frame if it is due; call it for each picture of the screen. */
  draw(now) {
    if (!this.#queue.length || now < this.#due - EARLY) return;
    const { image, surprise, wait, first, last } = this.#queue.shift();
    this.#canvas.getContext("2d").putImageData(image, 0, 0);
    this.#drawSurprise(surprise);
    this.#due = Math.max(now - EARLY, this.#due) + wait;
    this.#times = [...this.#times.filter((time) => now - time < 1000 * RATE_SECONDS), now];
    if (first) first();
    if (last) last();
  }

  /** Frames per second, in the last seconds. */
  rate(now) {
    const times = this.#times.filter((time) => now - time < 1000 * RATE_SECONDS);
    return times.length < 2 ? 0 : (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
  }

  #drawSurprise(surprise) {
    this.#heat.hidden = find("surprise-text").hidden = surprise === null;
    if (surprise === null) {
      this.#range = null;
      return;
    }
    const values = surprise.flat();
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const [low, high] = this.#range ?? [least, most];
    const middle = (low + high) / 2;
    this.#range = [Math.min(least, middle + (low - middle) * MEMORY), Math.max(most, middle + (high - middle) * MEMORY)];
    [this.#heat.width, this.#heat.height] = [surprise[0].length, surprise.length];
    const context = this.#heat.getContext("2d");
    surprise.forEach((row, y) =>
      row.forEach((value, x) => {
        context.fillStyle = `rgb(${colorOf((value - this.#range[0]) / (this.#range[1] - this.#range[0] || 1))})`;
        context.fillRect(x, y, 1, 1);
      }),
    );
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    find("surprise-text").textContent =
      "Colors: −log p of each latent position of this frame, given the frames before and your action. " +
      `Mean ${mean.toFixed(1)} nats, from ${least.toFixed(1)} to ${most.toFixed(1)}; bright is less likely.`;
  }
}
