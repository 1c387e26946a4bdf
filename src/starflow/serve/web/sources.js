// The pictures and clips that a video is made from: dropped, pasted, chosen, or a video of the server.

import { getContent } from "./api.js";

const ROLES = {
  image: { input_reference: "The first frame", last_image_reference: "The last frame" },
  video: {
    video_reference: "Edit this clip",
    extend_reference: "Continue this clip",
    video: "Measure its surprise",
  },
};
const find = (id) => document.getElementById(id);

/**
 * A list of sources `{ role, file or id, name, kind }`, with their rows on the page.
 * `changed` is called after each change.
 */
export class Sources {
  #items = []; // { role, file, id, name, kind, row }
  #changed;

  constructor(changed) {
    this.#changed = changed;
    const chooser = find("file");
    chooser.addEventListener("change", () => {
      this.addFiles(chooser.files);
      chooser.value = "";
    });
    document.addEventListener("paste", (event) => {
      if (event.clipboardData.files.length) event.preventDefault();
      this.addFiles(event.clipboardData.files);
    });
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      document.body.classList.add("dragging");
    });
    document.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) document.body.classList.remove("dragging");
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("dragging");
      this.addFiles(event.dataTransfer.files);
    });
  }

  get all() {
    return this.#items.map(({ role, file, id, name, kind }) => ({ role, file, id, name, kind }));
  }

  /** The source with this role, if there is one. */
  of(role) {
    return this.all.find((source) => source.role === role);
  }

  addFiles(files) {
    this.#complain("");
    for (const file of files) {
      const kind = file.type.startsWith("video/") || file.type === "image/gif" ? "video" : "image";
      if (kind === "image" && !file.type.startsWith("image/")) this.#complain(`${file.name} is no picture or clip.`);
      else this.add({ file, name: file.name || "pasted", kind });
    }
  }

  /** Add a source. Without a role, it gets the first that is free. A clip replaces the clip before it. */
  add({ role, file, id, name, kind }) {
    const alike = this.#items.filter((item) => item.kind === kind);
    if (kind === "video") alike.forEach((item) => this.#remove(item));
    const roles = Object.keys(ROLES[kind]);
    const free = roles.find((each) => kind === "video" || !alike.some((item) => item.role === each));
    if (free === undefined) {
      this.#complain("A video takes two pictures: the first frame and the last one.");
      return;
    }
    const item = { role: role ?? free, file, id, name, kind };
    this.#items.push(item);
    find("source-list").append(this.#rowOf(item));
    this.#changed();
  }

  clear() {
    [...this.#items].forEach((item) => this.#remove(item));
    this.#complain("");
    this.#changed();
  }

  #remove(item) {
    item.row.remove();
    this.#items.splice(this.#items.indexOf(item), 1);
  }

  #rowOf(item) {
    const row = find("source-template").content.cloneNode(true).firstElementChild;
    const [label, choice, button] = ["label", "select", "button"].map((name) => row.querySelector(name));
    item.row = row;
    row.querySelector(".preview").append(previewOf(item));
    label.textContent = item.name;
    choice.id = label.htmlFor = `role-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
    choice.append(...Object.entries(ROLES[item.kind]).map(([role, text]) => new Option(text, role)));
    choice.addEventListener("change", () => this.#setRole(item, choice.value));
    this.#showRole(item);
    button.ariaLabel = `Remove ${item.name}`;
    button.addEventListener("click", () => {
      this.#remove(item);
      this.#changed();
      find("file").focus();
    });
    return row;
  }

  /** Give a source a role; the one that had it gets the former role. */
  #setRole(item, role) {
    const other = this.#items.find((each) => each.role === role);
    if (other) other.role = item.role;
    item.role = role;
    this.#items.forEach((each) => this.#showRole(each));
    this.#changed();
  }

  #showRole(item) {
    item.row.querySelector("select").value = item.role;
    item.row.querySelector(".error").dataset.for = item.role;
  }

  #complain(message) {
    const error = document.querySelector('[data-for="file"]');
    error.textContent = message;
    error.hidden = !message;
  }
}

/** A picture of a source. That of a video of the server is loaded. */
function previewOf({ file, id, kind }) {
  const element = document.createElement(file && kind === "video" && file.type !== "image/gif" ? "video" : "img");
  if (element.tagName === "IMG") element.alt = "";
  element.muted = true;
  const show = (blob) => (element.src = URL.createObjectURL(blob));
  if (file) show(file);
  else getContent(id, "thumbnail").then(async (response) => show(await response.blob()), () => {});
  return element;
}
