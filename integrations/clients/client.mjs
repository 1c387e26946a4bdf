// Make a video with JavaScript. Usage: node client.mjs URL PROMPT FILE.mp4 (Node 18 or newer)
import { writeFile } from "node:fs/promises";

const [url, prompt, path] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${process.env.STARFLOW_API_KEY ?? "none"}` };

async function api(path, options = {}) {
  const response = await fetch(`${url}/v1/${path}`, { headers, ...options });
  if (!response.ok) throw new Error((await response.json()).error.message);
  return response;
}

const body = JSON.stringify({ prompt, seed: 0 });
const json = { ...headers, "Content-Type": "application/json" };
let video = await (await api("videos", { method: "POST", headers: json, body })).json();
while (["queued", "in_progress"].includes(video.status)) {
  await new Promise((resolve) => setTimeout(resolve, 500));
  video = await (await api(`videos/${video.id}`)).json();
}
if (video.status !== "completed") throw new Error(`the video is ${video.status}`);
await writeFile(path, (await api(`videos/${video.id}/content`)).body);
