#!/bin/sh
# Make a video with curl. Usage: sh client.sh URL PROMPT FILE.mp4
set -eu
url=$1 prompt=$2 file=$3
api() { curl --fail-with-body --silent --show-error -H "Authorization: Bearer ${STARFLOW_API_KEY:-none}" "$@"; }
field() { printf '%s' "$video" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
fail() { echo "$*" >&2; exit 1; }

video=$(api "$url/v1/videos" --form-string "prompt=$prompt" -F seed=0) || fail "$video"
id=$(field id)
while [ "$(field status)" = queued ] || [ "$(field status)" = in_progress ]; do
    sleep 0.5
    video=$(api "$url/v1/videos/$id") || fail "$video"
done
[ "$(field status)" = completed ] || fail "the video is $(field status)"
api "$url/v1/videos/$id/content" -o "$file"
