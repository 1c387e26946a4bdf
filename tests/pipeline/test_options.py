import inspect

import pytest

from starflow.errors import UsageError
from starflow.pipeline.options import Options
from starflow.pipeline.pipeline import StarFlowPipeline

SETTINGS = {"height": 64, "width": 32, "fps": 8, "guidance_scale": 2.0, "sampler": "sliding", "tolerance": 0.03}


def test_missing_options_get_the_defaults_of_the_model():
    options = Options(width=48, guidance_scale=0, num_frames=5).with_defaults(SETTINGS)
    assert (options.width, options.guidance_scale, options.num_frames) == (48, 0, 5)
    assert (options.height, options.fps, options.sampler, options.tolerance) == (64, 8, "sliding", 0.03)
    assert Options().with_defaults(SETTINGS).num_frames is None  # the default depends on the given images and clips


def test_every_default_is_a_setting_of_the_pipeline():
    assert SETTINGS.keys() <= inspect.signature(StarFlowPipeline).parameters.keys()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"num_frames": 0}, "num_frames must be 1 or more, not 0"),
        ({"guidance_scale": -1.0}, "guidance_scale must be 0 or more, not -1.0"),
        ({"guidance_scale": 1e30}, r"guidance_scale must be at most 100, not 1e\+30"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be 0 or more, not nan"),
        ({"fps": float("inf")}, "fps must be above 0, not inf"),
        ({"tolerance": 0}, "tolerance must be above 0, not 0"),
        ({"num_frames": 9.5}, "num_frames must be a whole number, not 9.5"),
        ({"height": "64"}, "height must be a whole number, not '64'"),
        ({"fps": "8"}, "fps must be a number, not '8'"),
        ({"sampler": "slide"}, "unknown sampler 'slide': choose sliding, block-jacobi, sequential, published"),
    ],
)
def test_invalid_values_are_refused(asked: dict, message: str):
    with pytest.raises(UsageError, match=message):
        Options(**asked)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="num_step"):
        Options(num_step=50)
