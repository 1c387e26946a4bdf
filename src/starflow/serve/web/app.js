// The page: asks the server again and again for the videos, and connects the form, the stage and the history.
// The selected video is in the address (`#video_…`), so that a reload, the back button and a second tab work.

import * as api from "./api.js";
import { VideoForm } from "./form.js";
import { History } from "./history.js";
import { make, recall } from "./making.js";
import { Stage } from "./stage.js";
import { isActive } from "./texts.js";

const [QUICK, SLOW] = [700, 4000]; // milliseconds between looks, while a video is made and otherwise
const PAGE = 24;
const find = (id) => document.getElementById(id);

const form = new VideoForm(select, measure);
const stage = new Stage({
  cancel: (video) => api.cancelVideo(video.id).then(refresh),
  delete: (video) => api.deleteVideo(video.id).then(refresh),
  again: makeAgain,
  continue: (video) => form.startFrom(video, "extend_reference"),
  edit: (video) => form.startFrom(video, "video_reference"),
});
const cards = new History();
let [model, count, looks, timer] = [null, PAGE, 0, 0];

/** Show the videos of now, and look again later. */
async function refresh() {
  const look = ++looks;
  let delay = SLOW;
  try {
    if (model === null) await start();
    const { videos, hasMore } = await api.listVideos(count);
    const selected = await selectedOf(videos);
    if (look !== looks) return; // a later look knows more
    stage.show(selected);
    cards.show(videos, selected?.id, hasMore);
    if (videos.some(isActive)) delay = QUICK;
    notify(await api.whyNotReady());
  } catch (error) {
    if (error.status === 401 && !find("key-dialog").open) find("key-dialog").showModal();
    notify(error.status === 0 ? `${error.message} Trying again…` : error.message);
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, delay);
}

/** The video that the address names, or else the newest; null if there is none, or the user's clip is shown. */
async function selectedOf(videos) {
  const id = location.hash.slice(1);
  if (!id && stage.hasClip) return null;
  const named = videos.find((video) => video.id === id) ?? (id ? await api.getVideo(id) : null);
  if (named === null && location.hash.slice(1) === id) setAddress(videos[0]?.id ?? "");
  return named ?? videos[0] ?? null;
}

function setAddress(id) {
  history.replaceState(null, "", `${location.pathname}${location.search}${id && `#${id}`}`);
}

async function start() {
  model = await api.getModel();
  find("model").textContent = model.id;
  form.setModel(model);
  stage.setModel(model);
}

function select(video) {
  stage.show(video);
  location.hash = video.id;
}

function measure(clip) {
  setAddress("");
  showStage();
  return stage.measureClip(clip);
}

/** The same video with another seed. If this browser does not have its pictures or clips, the form asks for them. */
async function makeAgain(video) {
  const sources = await recall(video);
  if (sources === undefined && !video.task.startsWith("text-to-")) {
    form.fill(video);
    form.showError(new api.ApiError("This browser does not have what the video was made from: add it.", 0, "file"));
    return;
  }
  const { prompt, size, num_frames, fps, guidance_scale, tolerance, lora } = video;
  const adapter = lora && { "lora[name]": lora.name, "lora[scale]": lora.scale };
  select(await make({ prompt, size, num_frames, fps, guidance_scale, tolerance, ...adapter }, sources ?? []));
}

function notify(message) {
  if (find("notice").textContent !== message) find("notice").textContent = message;
  find("notice").hidden = !message;
}

/** Bring the stage into view, if only its end or less can be seen. */
function showStage() {
  const { top } = find("stage").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) find("stage").scrollIntoView();
}

addEventListener("hashchange", () => {
  showStage();
  refresh();
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());
find("more").addEventListener("click", () => {
  count += PAGE;
  refresh();
});
find("key-form").addEventListener("submit", () => {
  api.setKey(find("key").value);
  refresh();
});
refresh();
