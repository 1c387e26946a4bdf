import pytest

import starflow


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = starflow.no_such_name


@pytest.mark.parametrize("name", starflow.__all__)
def test_every_public_name_loads(name):
    assert name in dir(starflow)
    assert getattr(starflow, name).__name__ == name
