"""Hints for arguments that other tools take, and for prompts without quotation marks."""

import click

STEPS = "a flow has no denoising steps; --tolerance trades time for exactness"
OTHERS = {
    "--batch-size": "use --samples, or --prompts with a file",
    "--bf16": "use --dtype bfloat16",
    "--cfg": "use --guidance-scale",
    "--cfg-scale": "use --guidance-scale",
    "--checkpoint": "use --model",
    "--ckpt": "use --model",
    "--ckpt-path": "use --model",
    "--force": "videos that starflow made are replaced; remove other files first",
    "--fp16": "use --dtype float16",
    "--frames": "use --num-frames",
    "--guidance": "use --guidance-scale",
    "--height": "use --size WIDTHxHEIGHT",
    "--init-image": "use --image",
    "--length": "use --num-frames or --seconds",
    "--model-path": "use --model",
    "--n-prompt": "guidance is against the empty caption; say in the prompt what the video shows",
    "--negative-prompt": "guidance is against the empty caption; say in the prompt what the video shows",
    "--num-inference-steps": STEPS,
    "--num-steps": STEPS,
    "--num-videos": "use --samples",
    "--num-videos-per-prompt": "use --samples",
    "--out": "use -o or --output",
    "--output-path": "use -o or --output",
    "--overwrite": "videos that starflow made are replaced; remove other files first",
    "--prompt": "give the prompt as an argument, in quotation marks",
    "--sample-steps": STEPS,
    "--save-path": "use -o or --output",
    "--steps": STEPS,
    "--width": "use --size WIDTHxHEIGHT",
}


def hint(error: click.ClickException) -> str | None:
    """What to do about wrong usage, if it is a habit of another tool."""
    if isinstance(error, click.NoSuchOption):
        return OTHERS.get(error.option_name.replace("_", "-"))
    if isinstance(error, click.UsageError) and "unexpected extra argument" in error.message:
        return 'put a text of several words in quotation marks, such as "a red circle moves right"'
    return None
