"""A diagram is whole SVG, keeps the order of time, and shows strangers' text harmlessly."""

import itertools
import time
import xml.etree.ElementTree as ElementTree

import msgspec
import pytest

from common.diagram.diagram_marks import mark_of
from common.diagram.diagram_rows import ROWS_MAX, rows_of
from common.diagram.diagram_style import NEEDLESS, name_of
from common.diagram.message_diagram import (
    ARROWS_MAX,
    PAUSE_HEIGHT,
    TEXT_HEIGHT,
    Arrow,
    Bar,
    Diagram,
    Fold,
    Mark,
    Note,
    clock_text,
    draw,
    kinds_in,
)
from pbft.quorums import quorums_for
from scripts.folders import ROOT

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


def hovered(root: ElementTree.Element) -> list[ElementTree.Element]:
    """The groups that say something on hovering; those of the legend do not."""
    return [group for group in root.iter(f"{SVG}g") if group.find(f"{SVG}title") is not None]


def arrow_lines(root: ElementTree.Element) -> list[ElementTree.Element]:
    found = [group.find(f"{SVG}line") for group in hovered(root)]
    return [line for line in found if line is not None]


def test_an_empty_diagram_has_its_lanes() -> None:
    assert texts(drawn()) == list(LANES)
    roles = {"r0": "primary of view 0"}
    assert "primary of view 0" in texts(drawn(roles=roles))


def test_an_arrow_goes_from_lane_to_lane_and_tells_all_on_hovering() -> None:
    root = drawn(arrows=(arrow(0.0, 0.01),))
    (line,) = arrow_lines(root)
    assert float(line.get("x1") or 0) < float(line.get("x2") or 0)
    assert float(line.get("y1") or 0) < float(line.get("y2") or 0)
    assert "PREPARE r0 \u2192 r1\nview=0" in titles(root)


def test_later_is_lower_and_no_pause_makes_a_hole() -> None:
    times = (0.0, 0.000001, 0.001, 0.1, 3600.0, 3600.001)
    root = drawn(marks=tuple(Mark(lane="r0", at=at, text=str(at)) for at in times))
    signs = [e for group in hovered(root) for e in group.iter(f"{SVG}circle")]
    heights = [float(e.get("cy") or 0) for e in signs]
    gaps = [after - before for before, after in itertools.pairwise(heights)]
    assert all(0 < gap <= PAUSE_HEIGHT for gap in gaps)
    assert gaps[2] > gaps[1]
    assert "\u22ee 60 min later" in texts(root)


def test_texts_of_many_moments_find_their_places_in_linear_work() -> None:
    """No time is asserted but for what would be wrong by orders (one by one: minutes)."""
    marks = tuple(Mark(lane="r0", at=i * 1e-6, text=f"word {i}") for i in range(8000))
    began_at = time.process_time()
    root = drawn(marks=marks)
    assert time.process_time() - began_at < 60
    of_marks = (e for e in root.iter(f"{SVG}text") if e.get("class") == "small")
    heights = sorted(int(e.get("y") or 0) for e in of_marks)
    assert len(heights) == len(marks)
    assert all(after - before >= TEXT_HEIGHT for before, after in itertools.pairwise(heights))


def test_lost_refused_needless_and_forged_are_told_apart() -> None:
    needless = "a body that nothing here waits for"
    root = drawn(
        arrows=(
            arrow(0.0, None),
            arrow(0.1, 0.2, refused="bad signature"),
            arrow(0.2, 0.3, refused=needless),
            msgspec.structs.replace(arrow(0.3, 0.4), is_forged=True),
        )
    )
    classes = [line.get("class") for line in arrow_lines(root)]
    assert classes == [
        "arrow k-prepare lost",
        "arrow k-wrong",
        "arrow k-other",
        "arrow k-prepare forged",
    ]
    assert "lost on the way" in titles(root)[1]
    assert "refused: bad signature" in titles(root)[2]
    assert "a lie, or an old message again" in titles(root)[4]
    assert {"\u2715 bad signature", f"\u2715 {needless}"} <= set(texts(root)), (
        "seen, not only hovered"
    )
    legend = {"\u2715 refused", "\u2715 not needed any more", "lost on the way"}
    assert legend <= set(texts(root))
    assert not legend & set(texts(drawn(arrows=(arrow(0.0, 0.1),)))), "only what is there"


@pytest.mark.parametrize("reason", sorted(NEEDLESS))
def test_what_is_called_needless_is_what_the_protocol_says(reason: str) -> None:
    assert any(f'"{reason}"' in file.read_text() for file in (ROOT / "pbft").glob("*.py"))


def test_a_reason_is_not_repeated_at_each_of_many_arrows() -> None:
    flood = tuple(arrow(n / 1e6, n / 1e6 + 1e-7, refused="bad signature") for n in range(6))
    said = texts(drawn(arrows=flood)).count("\u2715 bad signature")
    assert 1 <= said < len(flood)


def test_marks_of_one_moment_are_written_together() -> None:
    marks = tuple(Mark(lane="r0", at=1.0, text=f"prepared {n}") for n in (1, 2))
    assert "prepared 1, 2" in texts(drawn(marks=marks))
    words = (*marks, Mark(lane="r0", at=1.0, text="starts again"))
    assert "prepared 1, 2, starts again" in texts(drawn(marks=words))


def test_no_text_of_a_lane_lies_on_another() -> None:
    kinds = ("prepared", "executed", "entered", "wrong", "told")
    root = drawn(marks=tuple(Mark(lane="r0", at=1.0, text=kind, kind=kind) for kind in kinds))
    heights = sorted(float(e.get("y") or 0) for e in root.iter(f"{SVG}text") if e.text in kinds)
    assert len(heights) == len(kinds)
    assert all(after - before >= TEXT_HEIGHT for before, after in itertools.pairwise(heights))


def test_a_fold_says_what_is_not_drawn() -> None:
    arrows = (arrow(0.0, 0.1), arrow(1.0, 1.1), arrow(2.0, 2.1))
    fold = Fold(began=0.5, ended=1.5, text="one more like it")
    root = drawn(arrows=arrows, folds=(fold,))
    assert len(arrow_lines(root)) == 2
    assert "\u22ee one more like it" in texts(root)


def test_each_burst_of_messages_is_named_once_and_lanes_again_further_down() -> None:
    phases = tuple(
        arrow(n / 10 + i / 1000, n / 10 + i / 1000 + 0.01, kind=kind)
        for n in range(20)
        for i, kind in enumerate(("Prepare", "Commit"))
    )
    said = texts(drawn(arrows=phases))
    # once in the legend, and at the right
    assert said.count("PREPARE") > 2
    assert said.count("r0") > 1


def test_a_picture_is_also_rows_of_words() -> None:
    diagram = Diagram(
        title="t",
        lanes=LANES,
        arrows=(arrow(1.0, 1.1), arrow(1.0, 1.2, target="client"), arrow(2.0, 2.1, refused="bad")),
        marks=(Mark(lane="r1", at=1.5, text="prepared 1", more="why"),),
        bars=(Bar(lane="r0", began=0.5, ended=3.0, text="builds"),),
        notes=(Note(at=0.0, text="it begins"),),
    )
    rows, total = rows_of(diagram)
    assert total == len(rows) == 6
    assert [(row.when, row.who, row.what, row.more, row.is_wrong) for row in rows] == [
        ("0.0 ms", "", "it begins", "", False),
        ("500.0 ms", "r0", "builds: begins", "", False),
        ("1.000 s", "r0 \u2192 r1, client", "PREPARE", "view=0", False),
        ("1.500 s", "r1", "prepared 1", "why", False),
        ("2.000 s", "r0 \u2192 r1", "PREPARE", "refused: bad; view=0", True),
        ("3.000 s", "r0", "builds: ends", "", False),
    ]
    many = tuple(Note(at=float(n), text="x") for n in range(ROWS_MAX + 5))
    rows, total = rows_of(Diagram(title="t", lanes=LANES, notes=many))
    assert (len(rows), total) == (ROWS_MAX, ROWS_MAX + 5)


@pytest.mark.parametrize(
    ("event", "details", "text", "kind"),
    [
        ("prepared", {"sequence": 3}, "prepared 3", "prepared"),
        ("executed", {"sequence": 3}, "executed 3", "executed"),
        ("accepted", {}, "believes 2 equal REPLYs", "accepted"),
        ("view_change", {"view": 1, "reason": "timeout"}, "leaves for view 1", "left"),
        ("new_view", {"view": 1}, "enters view 1 as its primary", "entered"),
        ("new_view", {"view": 2}, "enters view 2", "entered"),
        ("equivocation", {"replica": 0}, "proof against r0", "wrong"),
        ("equivocation", {"replica": 9}, "proof against replica 9", "wrong"),
        ("stable", {"sequence": 4}, "stable checkpoint 4", "told"),
        ("started", {}, "starts again", "told"),
    ],
)
def test_what_a_replica_tells_has_a_mark(
    event: str, details: dict[str, str | int | None], text: str, kind: str
) -> None:
    mark = mark_of(
        "r1", 1.0, event, details=details, replicas=("r0", "r1", "r2", "r3"), quorums=quorums_for(4)
    )
    assert mark is not None
    assert (mark.lane, mark.text, mark.kind) == ("r1", text, kind)
    assert (
        mark_of("r1", 1.0, "nothing", details={}, replicas=("r0",), quorums=quorums_for(1)) is None
    )


def test_names_are_the_papers() -> None:
    names = [
        name_of(kind) for kind in ("PrePrepare", "ViewChange", "Replies", "Ballot", "FetchBody")
    ]
    assert names == ["PRE-PREPARE", "VIEW-CHANGE", "REPLY", "ballot", "FETCH-BODY"]


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


def test_what_xml_cannot_hold_does_not_spoil_the_file() -> None:
    bad = "a\x00b\x1bc\ufffed\ud800e"
    root = drawn(arrows=(arrow(0.0, 0.1, text=bad, kind=bad, refused=bad),))
    assert any("a\ufffdb\ufffdc\ufffdd\ufffde" in title for title in titles(root))


def test_a_flood_does_not_make_the_page_endless() -> None:
    root = drawn(arrows=tuple(arrow(n / 1000, n / 1000 + 0.01) for n in range(ARROWS_MAX + 500)))
    assert len(titles(root)) == ARROWS_MAX + 1
    assert "500 more messages are not drawn" in texts(root)


def test_who_has_no_lane_is_left_out() -> None:
    assert len(titles(drawn(arrows=(arrow(0.0, 0.1, target="nobody"),)))) == 1


def test_the_legend_and_the_clock() -> None:
    diagram = Diagram(title="t", lanes=LANES, arrows=(arrow(0, 1), arrow(0, 1, kind="What")))
    assert kinds_in(diagram) == {"Prepare": "PREPARE", "What": "WHAT"}
    assert (clock_text(0.0123), clock_text(2.5)) == ("12.3 ms", "2.500 s")
