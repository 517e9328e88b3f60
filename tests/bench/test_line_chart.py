"""A chart is well-formed, and its points are where their values say."""

import xml.etree.ElementTree as ElementTree

from bench.line_chart import HEIGHT, Line, chart

NAMESPACE = {"svg": "http://www.w3.org/2000/svg"}


def _points(drawn: str) -> list[list[tuple[float, float]]]:
    lines = ElementTree.fromstring(drawn).findall("svg:polyline", NAMESPACE)
    return [
        [
            (float(x), float(y))
            for x, y in (point.split(",") for point in line.attrib["points"].split())
        ]
        for line in lines
    ]


def test_points_are_to_scale() -> None:
    drawn = chart("a & b", "n", [Line("<one>", ((4.0, 0.0), (7.0, 2.0), (13.0, 4.0)))])
    ((first, second, third),) = _points(drawn)
    assert second[0] - first[0] == (third[0] - second[0]) / 2
    grid = [
        float(line.attrib["y1"])
        for line in ElementTree.fromstring(drawn).findall("svg:line[@class='grid']", NAMESPACE)
    ]
    # of 0, 1, 2, 3 and 4
    assert [first[1], second[1], third[1]] == [grid[0], grid[2], grid[4]]
    assert 0 < grid[4] < grid[0] < HEIGHT


def test_a_model_is_dashed_and_has_a_name_of_its_own() -> None:
    points = ((1.0, 0.3), (2.0, 0.7))
    drawn = chart("t", "n", [Line("measured", points), Line("model", points, is_model=True)])
    assert drawn.count("stroke-dasharray") == 2
    assert ">measured<" in drawn
    assert ">model<" in drawn


def test_the_scale_ends_at_a_round_value_above_the_highest() -> None:
    for highest, top in ((0.03, "0.04"), (3.2, "4"), (10.0, "10"), (61.0, "80")):
        assert f">{top}</text>" in chart("t", "n", [Line("a", ((1.0, highest), (2.0, 0.0)))])
