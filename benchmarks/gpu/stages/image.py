"""The released image model's configuration with random weights: passes and sweeps."""

from flow_clock import time_works
from measure import Results
from models import pipeline_of
from works import image_works


def measure(results: Results, tiny: bool) -> None:
    """One image, and a batch of eight."""
    pipeline = pipeline_of("image", tiny, results.device)
    config, codec = pipeline.config, pipeline.codec
    grid = (1, config.height // codec.spatial_factor, config.width // codec.spatial_factor)
    time_works(results, pipeline.flow, image_works(tiny), grid, config.max_text_tokens)
