"""Matrices in bfloat16: the same results to the last bit, and only where bfloat16 holds them exactly."""

import copy

import pytest
import torch
from torch import nn

from starflow.flow.narrow import NarrowLinear, narrow, widen
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS, tiny_pipeline


@pytest.fixture
def pipeline() -> StarFlowPipeline:
    """In float32, with weights that were stored in bfloat16."""
    return tiny_pipeline().to(torch.bfloat16).to(torch.float32)


def narrowed(model: nn.Module) -> list[NarrowLinear]:
    return [module for module in model.modules() if isinstance(module, NarrowLinear)]


def test_samples_are_the_same_to_the_last_bit(pipeline: StarFlowPipeline):
    def latents() -> torch.Tensor:
        return pipeline(CAPTIONS, generator=torch.Generator().manual_seed(0), output_type="latent").frames

    want = latents()
    num_layers = sum(len(block.transformer.layers) for block in pipeline.flow.blocks)
    narrow(pipeline.flow)
    assert len(narrowed(pipeline.flow)) == 4 * num_layers
    assert all(matrix.weight.dtype == torch.bfloat16 for matrix in narrowed(pipeline.flow))
    assert torch.equal(latents(), want)


def test_matrices_that_bfloat16_does_not_hold_stay(pipeline: StarFlowPipeline):
    kept = pipeline.flow.deep.transformer.layers[0].mlp.up
    with torch.no_grad():
        kept.weight[0, 0] = 1 + 2**-20
    narrow(pipeline.flow)
    assert pipeline.flow.deep.transformer.layers[0].mlp.up is kept
    assert isinstance(pipeline.flow.deep.transformer.layers[0].mlp.down, NarrowLinear)


def test_other_precisions_stay(pipeline: StarFlowPipeline):
    for dtype in (torch.float64, torch.bfloat16):
        pipeline.flow.to(dtype)
        narrow(pipeline.flow)
        assert not narrowed(pipeline.flow)


def test_widened_matrices_are_those_of_before(pipeline: StarFlowPipeline):
    before = copy.deepcopy(pipeline.flow.state_dict())
    narrow(pipeline.flow)
    widen(pipeline.flow)
    after = pipeline.flow.state_dict()
    assert after.keys() == before.keys()
    assert all(after[name].dtype == torch.float32 and torch.equal(after[name], before[name]) for name in before)
