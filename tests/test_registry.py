import pytest

from starflow.data.folder import ClipFolder
from starflow.errors import UsageError
from starflow.registry import load_named

KNOWN = {"folder": "starflow.data.folder:ClipFolder", "lost": "starflow.nowhere:Lost"}


@pytest.mark.parametrize("name", ["folder", "starflow.data.folder:ClipFolder"])
def test_a_class_by_its_name_or_its_path(name: str):
    assert load_named("source", name, KNOWN) is ClipFolder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("foldr", "there is no source 'foldr': did you mean folder?"),
        ("zzz", "there is no source 'zzz': choose folder, lost, or give module:Class"),
        ("lost", "cannot load the source lost: No module named"),
        ("starflow.data.folder:Nothing", "cannot load the source starflow.data.folder:Nothing"),
    ],
)
def test_what_is_not_there_is_a_usage_error(name: str, message: str):
    with pytest.raises(UsageError) as error:
        load_named("source", name, KNOWN)
    assert message in str(error.value)
