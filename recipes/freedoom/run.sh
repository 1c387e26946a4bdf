#!/bin/sh
# Make a model of Freedoom that can be played: record episodes, train the autoencoder and the flow, and measure.
# Run it from the root of the repository, after: pip install -c constraints.txt -e '.[train,evaluate,worlds]'
set -e
starflow record basic -o runs/freedoom-episodes/train --episodes 1600
starflow record basic -o runs/freedoom-episodes/test --episodes 20 --seed 100000
starflow record take_cover -o runs/freedoom-episodes/train --episodes 1000
starflow record take_cover -o runs/freedoom-episodes/test --episodes 20 --seed 100000
starflow train vae recipes/freedoom/vae.yaml --resume
starflow train flow recipes/freedoom/flow.yaml --resume
starflow evaluate runs/freedoom-flow/final --data runs/freedoom-episodes/test --training runs/freedoom-episodes/train -o runs/freedoom-evaluation
