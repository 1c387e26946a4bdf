import math

import pytest

from starflow.errors import UsageError
from starflow.registry import load_named

FUNCTIONS = {"square-root": "math:sqrt", "broken": "starflow.nowhere:Nothing"}


def test_names_and_module_attributes_are_loaded():
    assert load_named("function", "square-root", FUNCTIONS) is math.sqrt
    assert load_named("function", "math:floor", FUNCTIONS) is math.floor


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("square-rot", "there is no function 'square-rot': did you mean square-root"),
        ("cosine", "choose square-root, broken, or give module:attribute"),
        ("broken", "cannot load the function broken: No module named 'starflow.nowhere'"),
        ("math:nothing", "cannot load the function math:nothing: .*no attribute 'nothing'"),
    ],
)
def test_what_cannot_be_loaded_is_a_usage_error(name: str, message: str):
    with pytest.raises(UsageError, match=message):
        load_named("function", name, FUNCTIONS)
