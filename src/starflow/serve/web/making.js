// Makes videos, and remembers in this browser the pictures and clips that they were made from, so that they can be made
// again with another seed: the server removes them when a video has ended.

import { createVideo } from "./api.js";

const STORE = "sources";
const REMEMBERED = 50; // videos

/** Queue a video from the fields of the API and sources `[{ role, file or id, name, kind }]`. */
export async function make(values, sources) {
  const fields = new FormData();
  for (const [name, value] of Object.entries(values)) fields.append(name, value);
  for (const { role, file, id } of sources) {
    if (file) fields.append(role, file);
    else fields.append(`${role}[id]`, id);
  }
  const video = await createVideo(fields);
  if (sources.length) await remember(video, sources).catch(() => {}); // no room here; "again" will ask for them
  return video;
}

/** The sources of a video; undefined if there were none, or this browser does not know them. */
export async function recall(video) {
  return result((await store("readonly")).get(keyOf(video)));
}

async function remember(video, sources) {
  const remembered = await store("readwrite");
  remembered.put(sources, keyOf(video));
  const keys = await result(remembered.getAllKeys()); // the oldest first
  for (const key of keys.slice(0, -REMEMBERED)) remembered.delete(key);
}

function keyOf(video) {
  return [video.created_at, video.id];
}

async function store(mode) {
  const opening = indexedDB.open("starflow", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
  return (await result(opening)).transaction(STORE, mode).objectStore(STORE);
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
