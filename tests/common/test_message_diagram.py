"""A diagram is whole SVG, keeps the order of time, and shows strangers' text harmlessly."""

import itertools
import xml.etree.ElementTree as ElementTree

from common.message_diagram import (
    ARROWS_MAX,
    GAP_HEIGHT_MAX,
    Arrow,
    Bar,
    Diagram,
    Mark,
    Note,
    clock_text,
    draw,
    kinds_in,
)

SVG = "{http://www.w3.org/2000/svg}"
LANES = ("client", "r0", "r1")


def arrow(sent: float, arrived: float | None, **changed: str | None) -> Arrow:
    fields = {"source": "r0", "target": "r1", "kind": "Prepare", "text": "view=0", **changed}
    return Arrow(sent=sent, arrived=arrived, **fields)  # type: ignore[arg-type]


def drawn(**parts: object) -> ElementTree.Element:
    return ElementTree.fromstring(draw(Diagram(title="t", lanes=LANES, **parts)))  # type: ignore[arg-type]


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def titles(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}title")]


def test_an_empty_diagram_has_its_lanes() -> None:
    assert texts(drawn()) == list(LANES)


def test_an_arrow_goes_from_lane_to_lane_and_tells_all_on_hovering() -> None:
    root = drawn(arrows=(arrow(0.0, 0.01),))
    line = next(e for e in root.iter(f"{SVG}line") if e.get("marker-end"))
    assert float(line.get("x1") or 0) < float(line.get("x2") or 0)
    assert float(line.get("y1") or 0) < float(line.get("y2") or 0)
    assert "Prepare r0 \u2192 r1\nview=0" in titles(root)


def test_later_is_lower_and_no_pause_makes_a_hole() -> None:
    times = (0.0, 0.000001, 0.001, 0.1, 3600.0, 3600.001)
    root = drawn(marks=tuple(Mark(lane="r0", at=at, text=str(at)) for at in times))
    heights = [float(e.get("cy") or 0) for e in root.iter(f"{SVG}circle")]
    gaps = [after - before for before, after in itertools.pairwise(heights)]
    assert all(0 < gap <= GAP_HEIGHT_MAX for gap in gaps)
    assert gaps[3] > gaps[2] > gaps[1]


def test_lost_and_refused_are_told_apart() -> None:
    root = drawn(arrows=(arrow(0.0, None), arrow(0.1, 0.2, refused="bad signature")))
    assert "lost on the way" in titles(root)[1]
    assert "refused: bad signature" in titles(root)[2]
    classes = [e.get("class") for e in root.iter(f"{SVG}line") if e.get("marker-end")]
    assert classes == ["lost", "refused"]


def test_marks_of_one_moment_are_written_together() -> None:
    marks = tuple(Mark(lane="r0", at=1.0, text=f"prepared {n}") for n in (1, 2))
    assert "prepared 1, prepared 2" in texts(drawn(marks=marks))


def test_bars_and_notes_are_there() -> None:
    root = drawn(
        bars=(Bar(lane="r1", began=0.0, ended=2.0, text="down"),),
        notes=(Note(at=1.0, text="the network is cut"),),
    )
    assert {"down", "the network is cut"} <= set(texts(root))


def test_text_of_strangers_stays_text() -> None:
    bad = '<script>alert("x")</script>'
    diagram = Diagram(
        title=bad,
        lanes=("r0", "r1", bad),
        arrows=(arrow(0.0, 0.1, text=bad, kind=bad, refused=bad, target=bad),),
        marks=(Mark(lane="r0", at=0.0, text=bad),),
        notes=(Note(at=0.0, text=bad),),
    )
    picture = draw(diagram)
    assert "<script" not in picture
    assert bad in texts(ElementTree.fromstring(picture))


def test_a_flood_does_not_make_the_page_endless() -> None:
    root = drawn(arrows=tuple(arrow(n / 1000, n / 1000 + 0.01) for n in range(ARROWS_MAX + 500)))
    assert len(titles(root)) == ARROWS_MAX + 1


def test_who_has_no_lane_is_left_out() -> None:
    assert len(titles(drawn(arrows=(arrow(0.0, 0.1, target="nobody"),)))) == 1


def test_the_legend_and_the_clock() -> None:
    diagram = Diagram(title="t", lanes=LANES, arrows=(arrow(0, 1), arrow(0, 1, kind="What")))
    assert list(kinds_in(diagram)) == ["Prepare", "What"]
    assert (clock_text(0.0123), clock_text(2.5)) == ("12.3 ms", "2.500 s")
