// The history: a card for each video, which leads to it.

import { getContent } from "./api.js";
import { factsOf, isActive, stateOf } from "./texts.js";

const find = (id) => document.getElementById(id);

export class History {
  #cards = new Map(); // by the id of the video

  /** Show the videos, the newest first. Cards that stay keep the focus. */
  show(videos, selected, hasMore) {
    const ids = new Set(videos.map((video) => video.id));
    for (const [id, card] of this.#cards) {
      if (ids.has(id)) continue;
      card.remove();
      this.#cards.delete(id);
    }
    videos.forEach((video, index) => this.#place(video, index, video.id === selected));
    find("no-history").hidden = videos.length > 0;
    find("more").hidden = !hasMore;
  }

  #place(video, index, isSelected) {
    const list = find("history-list");
    const card = this.#cards.get(video.id) ?? newCard(video);
    this.#cards.set(video.id, card);
    if (list.children[index] !== card) list.insertBefore(card, list.children[index] ?? null);
    const link = card.firstElementChild;
    if (isSelected) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    card.querySelector(".state").textContent = video.status === "completed" ? "" : stateOf(video);
    card.querySelector(".thumbnail").classList.toggle("active", isActive(video));
    if (video.status === "completed") showThumbnail(card, video);
  }
}

function newCard(video) {
  const card = find("clip-template").content.cloneNode(true).firstElementChild;
  card.firstElementChild.href = `#${video.id}`;
  card.querySelector(".prompt").textContent = video.prompt;
  card.querySelector(".facts").textContent = factsOf(video);
  return card;
}

async function showThumbnail(card, video) {
  const image = card.querySelector("img");
  if (image.dataset.video) return;
  image.dataset.video = video.id;
  try {
    image.src = URL.createObjectURL(await (await getContent(video.id, "thumbnail")).blob());
    image.hidden = false;
  } catch {
    delete image.dataset.video; // the next call tries again
  }
}
