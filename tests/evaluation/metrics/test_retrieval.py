import pytest
import torch

from starflow.errors import StarflowError
from starflow.evaluation.metrics import retrieval
from starflow.evaluation.metrics.retrieval import candidates, evaluate_retrieval
from tiny_pipeline import tiny_pipeline

CAPTIONS = [
    "a red circle moves right",
    "The red circle moves right",  # says the same
    "a blue square grows",
    "a blue square grows and a red circle moves right",
    "a green triangle bounces on a black background",
]


def meaning(caption: str) -> str:
    return caption.lower().removeprefix("a ").removeprefix("the ")


def test_candidates_have_different_meanings_and_the_own_caption_comes_first():
    meanings = ["a", "a", "b", "c", "b"]
    assert candidates(meanings, 0) == [0, 2, 3]
    assert candidates(meanings, 1) == [1, 2, 3]
    assert candidates(meanings, 4) == [4, 0, 3]


def test_there_are_at_most_20_candidates():
    assert candidates(range(100), 90) == [*range(90, 100), *range(10)]


@pytest.mark.parametrize("tokens_at_once", [24, 2000])
@pytest.mark.parametrize(("sign", "correct"), [(-1, 5), (1, 0)])
def test_a_model_that_is_always_right_and_one_that_is_always_wrong(
    sign: int, correct: int, tokens_at_once: int, monkeypatch: pytest.MonkeyPatch
):
    """The tokens of clip `i` are all `i`; a model that is right finds text `i` likeliest."""
    noisy = torch.arange(5.0).view(5, 1, 1, 1, 1).expand(5, 3, 4, 2, 2)
    texts = torch.arange(5.0).view(5, 1, 1)
    pipeline = tiny_pipeline()
    monkeypatch.setattr(pipeline, "encode_prompt", lambda captions, fps: texts)
    monkeypatch.setattr(retrieval, "TOKENS_AT_ONCE", tokens_at_once)
    monkeypatch.setattr(retrieval, "shallow_log_det", lambda flow, x: (x.permute(0, 1, 3, 4, 2), None))
    monkeypatch.setattr(
        retrieval, "deep_log_likelihood", lambda flow, u, text: sign * (u[..., 0] - text[..., None, None]).abs()
    )
    results = evaluate_retrieval(pipeline, noisy, CAPTIONS, meaning)
    assert results["num_clips"] == 5
    assert results["num_captions"] == 4
    assert results["chance"] == 1 / 4
    assert results["top_1"]["correct"] == correct


def test_a_tiny_model():
    pipeline = tiny_pipeline()
    results = evaluate_retrieval(pipeline, torch.randn(2, 3, 4, 2, 2), CAPTIONS[1:3], meaning)
    assert results["num_captions"] == 2
    assert results["top_1"]["n"] == 2
    with pytest.raises(StarflowError, match="NaN"):
        evaluate_retrieval(pipeline, torch.full((2, 3, 4, 2, 2), torch.nan), CAPTIONS[1:3], meaning)


def test_captions_that_all_say_the_same():
    assert evaluate_retrieval(tiny_pipeline(), torch.randn(2, 3, 4, 2, 2), CAPTIONS[:2], meaning) is None
