"""What a JSON value must be made of, said of values by hand."""

import pytest

from raunet_jax.shapes import CORNER, NUMBER, misfit


@pytest.mark.parametrize(
    ("value", "shape", "said"),
    [
        ({}, dict, ""),
        ([], dict, "holds a list where an object is expected"),
        (None, (None, dict), ""),
        (True, int, "holds true or false where a number is expected"),
        (True, bool, ""),
        (1, float, "holds the number 1 where a number is expected"),
        ([1, None, 0.5], [NUMBER], ""),
        ({"a": 1, "more": "x"}, {"a": int}, ""),
        ({"more": "x"}, {"a": int}, "holds no a"),
        ({"more": "x"}, {"a?": int}, ""),
        ({"a": "x"}, {"a?": int}, "a holds a text where a number is expected"),
        (
            {"a": {"b": [0, {"c": []}]}},
            {"a": {str: [(int, {"c": str})]}},
            "a.b[1].c holds a list where a text is expected",
        ),
        ({"a": {}}, {"a": {"b": int}}, "a holds no b"),
        ([1, 2, 3], CORNER, ""),
        ([1, 2], CORNER, "holds a list of 2 where one of 3 is expected"),
        ({"x": 3}, {str: (None, [str])}, "x holds the number 3 where null or a list is expected"),
    ],
)
def test_where_a_value_is_of_another_shape_is_said(value, shape, said):
    assert misfit(value, shape) == said
