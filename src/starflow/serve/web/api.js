// The HTTP API of this server. Addresses are relative, so that the page works behind a proxy with a path.

const KEY = "starflow-api-key";
const PAGE = 50;

/** What the server refuses: `status` is that of HTTP, or 0 if there was no answer; `param` is the field at fault. */
export class ApiError extends Error {
  constructor(message, status, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

export function setKey(key) {
  localStorage.setItem(KEY, key);
}

async function request(path, options = {}) {
  const key = localStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer.", 0);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const { message, param } = body?.error ?? { message: `The server answered ${response.status}.` };
  throw new ApiError(message, response.status, param);
}

async function json(path, options) {
  return (await request(path, options)).json();
}

export async function getModel() {
  return (await json("v1/models")).data[0];
}

/** Why no video can be made now; empty if a worker is ready. */
export async function whyNotReady() {
  try {
    await request("ready");
    return "";
  } catch (error) {
    return error.message;
  }
}

/** The newest videos, at least `count` if there are as many: `{ videos, hasMore }`. */
export async function listVideos(count) {
  const videos = [];
  let page;
  do {
    const after = videos.length ? `&after=${videos.at(-1).id}` : "";
    page = await json(`v1/videos?limit=${Math.min(count - videos.length, PAGE)}${after}`);
    videos.push(...page.data);
  } while (page.has_more && videos.length < count);
  return { videos, hasMore: page.has_more };
}

/** A video; null if there is none. */
export async function getVideo(id) {
  try {
    return await json(`v1/videos/${id}`);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

/** Queue a video. `fields` is FormData. */
export function createVideo(fields) {
  return json("v1/videos", { method: "POST", body: fields });
}

export function cancelVideo(id) {
  return json(`v1/videos/${id}/cancel`, { method: "POST" });
}

export function deleteVideo(id) {
  return json(`v1/videos/${id}`, { method: "DELETE" });
}

/** The response with a file of a video, whose body may still grow. */
export function getContent(id, variant = "video", signal = null) {
  return request(`v1/videos/${id}/content?variant=${variant}`, { signal });
}

/** The scores of a clip, once they are there. `fields` is FormData. */
export function score(fields, signal) {
  return json("v1/videos/score", { method: "POST", body: fields, signal });
}
