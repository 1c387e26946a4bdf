"""Make a video with OpenAI's client. Usage: python client.py URL PROMPT FILE.mp4 (needs the package `openai`)."""

import os
import sys

import openai

url, prompt, path = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("STARFLOW_API_KEY", "none"))
video = client.videos.create_and_poll(prompt=prompt, extra_body={"seed": 0})
if video.status != "completed":
    sys.exit(f"the video is {video.status}: {video.error}")
client.videos.download_content(video.id).write_to_file(path)
