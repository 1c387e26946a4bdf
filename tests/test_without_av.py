"""Only reading and writing video files needs PyAV: everything else works where it cannot be imported."""

import os
import subprocess
import sys

SCRIPT = """
import sys

sys.modules["av"] = None  # importing it fails

from starflow.pipeline.pipeline import StarFlowPipeline

pipeline = StarFlowPipeline.from_pretrained("toyworld")
pipeline.set_progress_bar_config(disable=True)
latents = pipeline("a red circle moves right", num_frames=5, output_type="latent").frames
assert latents.shape == (1, 2, 24, 4, 4), latents.shape
assert latents.isfinite().all()
print("made latents")
"""


def test_latents_are_made_without_av():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "made latents\n"
