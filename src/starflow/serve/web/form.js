// The form of a new video: its fields, its sources, and the errors of the API beside the fields that they are about.

import { make } from "./making.js";
import { Sources } from "./sources.js";

const FIELDS = ["prompt", "seconds", "size", "seed", "guidance_scale", "lora", "lora-scale"];
const find = (id) => document.getElementById(id);

export class VideoForm {
  #form = find("form");
  #model = null;
  #sources = new Sources(() => this.#update());
  #created;
  #measure;

  /** `created` is called with each video that was queued; `measure` with `{ prompt, file or id, name }` of a clip. */
  constructor(created, measure) {
    [this.#created, this.#measure] = [created, measure];
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#form.addEventListener("input", (event) => {
      this.#clearErrors(event.target.closest(".field") ?? this.#form);
      this.#update();
    });
    find("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#form.requestSubmit();
    });
  }

  /** Show the model's settings where nothing is chosen. */
  setModel(model) {
    this.#model = model;
    find("seconds").placeholder = (model.num_frames / model.fps).toFixed(2);
    find("seconds").max = model.max_seconds;
    find("size").placeholder = model.size;
    find("guidance_scale").placeholder = model.guidance_scale;
    find("lora").append(...model.loras.map((name) => new Option(name)));
    for (const id of ["lora", "lora-scale"]) find(id).parentElement.hidden = model.loras.length === 0;
    this.#update();
  }

  /** Fill the form to make a video from another one. */
  startFrom(video, role) {
    this.fill(video, [{ role, id: video.id, name: "This clip", kind: "video" }]);
    find("seconds").value = "";
    find("prompt").select();
  }

  /** Fill the form with the settings of a video, and with sources. */
  fill(video, sources = []) {
    find("prompt").value = video.prompt;
    find("seconds").value = video.seconds;
    find("size").value = video.size;
    find("seed").value = "";
    find("guidance_scale").value = video.guidance_scale;
    find("lora").value = video.lora?.name ?? "";
    find("lora-scale").value = video.lora?.scale ?? "";
    this.#sources.clear();
    sources.forEach((source) => this.#sources.add(source));
    this.#clearErrors();
    this.#form.scrollIntoView({ block: "nearest" });
    find("prompt").focus();
  }

  /** Show an error beside the field that it is about, and go there. */
  showError(error) {
    const at = document.querySelector(`[data-for="${CSS.escape(error.param ?? "")}"]`);
    if (at === null || !this.#form.contains(at)) {
      find("form-error").textContent = error.message;
      find("form-error").hidden = false;
      return;
    }
    at.textContent = error.message;
    at.hidden = false;
    const field = at.parentElement.querySelector("input, textarea, select");
    at.id ||= `${field.id}-error`;
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-errormessage", at.id);
    field.focus();
  }

  async #submit() {
    this.#clearErrors();
    const clip = this.#sources.of("video");
    if (clip) {
      this.#measure({ ...clip, prompt: find("prompt").value.trim() });
      return;
    }
    find("submit").disabled = true;
    try {
      this.#created(await make(this.#values(), this.#sources.all));
    } catch (error) {
      this.showError(error);
    } finally {
      find("submit").disabled = false;
    }
  }

  #values() {
    const inputs = FIELDS.map(find).filter((input) => input.value.trim() && !input.matches(":disabled"));
    return Object.fromEntries(inputs.map((input) => [input.name, input.value.trim()]));
  }

  #clearErrors(part = this.#form) {
    for (const error of part.querySelectorAll(".error")) error.hidden = true;
    for (const field of part.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  }

  /** What depends on the values: the length in frames, and which settings have a meaning. */
  #update() {
    const measures = Boolean(this.#sources.of("video"));
    const edits = Boolean(this.#sources.of("video_reference"));
    find("settings").disabled = measures;
    find("seconds").disabled = edits;
    find("lora-scale").disabled = !find("lora").value;
    find("submit").textContent = measures ? "Measure the surprise" : "Make the video";
    find("frames").textContent = edits ? "as long as the clip" : this.#framesText();
  }

  #framesText() {
    if (this.#model === null) return "";
    const { fps, frames_multiple: multiple, num_frames: usual } = this.#model;
    const seconds = find("seconds").valueAsNumber;
    const after = this.#sources.of("extend_reference") ? ", the clip included" : "";
    if (!seconds) return after ? "of the model, after the clip" : `${usual} frames`;
    const frames = 1 + multiple * Math.max(0, Math.round((seconds * fps - 1) / multiple));
    return frames === 1 ? "a picture" : `${frames} frames${after}`;
  }
}
