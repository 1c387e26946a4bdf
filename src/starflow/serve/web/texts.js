// What the page says about videos.

const TASKS = {
  "text-to-video": "from text",
  "text-to-image": "from text",
  "image-to-video": "from a picture",
  "video-to-video": "an edited clip",
  continuation: "a continued clip",
};
const STATES = {
  queued: "Queued",
  in_progress: "Being made",
  completed: "Completed",
  failed: "Failed",
  cancelled: "Cancelled",
};

export function isActive(video) {
  return video.status === "queued" || video.status === "in_progress";
}

/** Where a video is: its place in the queue, or how far it is and the time left. */
export function stateOf(video) {
  const state = STATES[video.status];
  if (video.status === "queued") return `${state}, ${ahead(video.queue_position)}`;
  if (video.status === "in_progress") return `${state}: ${video.progress} %${timeLeft(video)}`;
  if (video.status === "completed") return `${state} in ${duration(video.inference_time_s)}`;
  return state;
}

/** The state without what changes every second. */
export function shortState(video) {
  return STATES[video.status];
}

/** The settings of a video, as pairs. */
export function settingsOf(video) {
  return [
    ["Task", TASKS[video.task]],
    ["Length", `${Number(video.seconds).toFixed(2)} s, ${video.num_frames} frames at ${video.fps} fps`],
    ["Size", video.size.replace("x", " × ")],
    ["Seed", video.seed],
    ["Guidance", video.guidance_scale],
    ["Tolerance", video.tolerance],
    ["Model", video.lora ? `${video.model} with ${video.lora.name}, weight ${video.lora.scale}` : video.model],
    ["Made", new Date(1000 * video.created_at).toLocaleString()],
  ];
}

export function factsOf(video) {
  return `${Number(video.seconds).toFixed(1)} s · seed ${video.seed}`;
}

function ahead(position) {
  if (!position) return "next in line";
  return position === 1 ? "1 video before it" : `${position} videos before it`;
}

/** The time left if the rest is as quick as what is done. */
function timeLeft({ progress, inference_time_s: spent }) {
  return progress < 2 ? "" : `, about ${duration((spent * (100 - progress)) / progress)} left`;
}

function duration(seconds) {
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}
