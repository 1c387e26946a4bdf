#!/bin/sh
# Make a model of Freedoom that can be played: record episodes, and train the autoencoder and the flow.
# Run it from the root of the repository, after: pip install -c constraints.txt -e '.[train,worlds]'
set -e
starflow record basic -o runs/freedoom-episodes/train --episodes 600
starflow record basic -o runs/freedoom-episodes/test --episodes 20 --seed 100000
starflow record take_cover -o runs/freedoom-episodes/train --episodes 300
starflow record take_cover -o runs/freedoom-episodes/test --episodes 20 --seed 100000
starflow train vae recipes/freedoom/vae.yaml
starflow train flow recipes/freedoom/flow.yaml
