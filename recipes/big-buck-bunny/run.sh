#!/usr/bin/env bash
# The whole recipe: get the film, cut it, look at it, train an autoencoder and a flow, measure, sample.
#     recipes/big-buck-bunny/run.sh [KEY=VALUE …]      such as loop.device=cuda
# Keys go to both training runs. What is done already is not done again; a training run that was interrupted goes on.
set -euo pipefail
here=$(dirname "$0")
out=runs/big-buck-bunny
starflow=${STARFLOW:-starflow}

"${PYTHON:-python}" "$here/film.py" "$out/film"
"$starflow" data check "$out/film/train" --config "$here/flow.yaml" || true
"$starflow" train vae "$here/vae.yaml" --resume "$@"
"$starflow" train flow "$here/flow.yaml" --resume "$@"
"$starflow" evaluate "$out/flow/final" --data "$out/film/test" -o "$out/evaluation"
cat "$out"/film/test/*.txt >"$out/prompts.txt"
"$starflow" generate --prompts "$out/prompts.txt" --model "$out/flow/final" -o "$out/samples" \
    --contact-sheet "$out/samples.png"
"${PYTHON:-python}" "$here/nearest.py" "$out/samples" "$out/film/train" "$out/film/test" "$out"
