"""When a curve has reached a target, and what two sides' curves come to; all worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.curves import Point, comparison, first_reaching, step_speed
from groat.tracking.rows import Evaluation


def curve(seconds_a_step: float, values: Sequence[float]) -> list[Point]:
    """A point every 4 steps, from the start on."""
    return [
        Point(
            steps=4 * place,
            seconds=4 * place * seconds_a_step,
            figures={
                "avg@4": Evaluation(value, value - 0.05, value + 0.05, 200),
                "greedy": Evaluation(0.9, 0.8, 1, 200),
            },
        )
        for place, value in enumerate(values)
    ]


def test_a_points_seconds_are_those_of_the_steps_before_it():
    seconds = [5.0, 3.0, 2.0, 100.0]
    figures = {"greedy": Evaluation(0.5, 0.4, 0.6, 200)}
    assert Point.after(0, seconds, figures).seconds == 0
    point = Point.after(3, seconds, figures)
    assert (point.steps, point.seconds) == (3, 10.0)
    assert Point.from_json(point.to_json()) == point


def test_the_first_saved_adapter_at_the_target_counts_and_nothing_between_two():
    found = curve(2.0, [0.1, 0.38, 0.40, 0.37, 0.5])
    assert first_reaching(found, "avg@4", 0.40) == found[2]  # at it is enough; a line would have been there earlier
    assert first_reaching(found, "avg@4", 0.39) == found[2]
    assert first_reaching(found, "avg@4", 0.41) == found[4]
    assert first_reaching(found, "avg@4", 0.51) is None
    assert first_reaching(found, "greedy", 0.51) == found[0]


def test_sides_are_compared_by_the_seconds_until_each_got_there():
    curves = {"groat": curve(2.0, [0.07, 0.22, 0.41, 0.55]), "TRL": curve(30.0, [0.07, 0.43, 0.45, 0.47])}
    found = comparison(curves, "avg@4", 0.40)
    # groat after 8 steps of 2 s, TRL already after 4 steps of 30 s: 120 / 16
    assert found["reached"]["groat"] == {"steps": 8, "seconds": 16.0, "value": 0.41}
    assert found["reached"]["TRL"] == {"steps": 4, "seconds": 120.0, "value": 0.43}
    assert found["times_less"] == {"TRL": 7.5}


def test_every_round_figure_that_both_reached_by_training_is_told():
    curves = {"groat": curve(2.0, [0.07, 0.22, 0.41, 0.55]), "TRL": curve(30.0, [0.07, 0.18, 0.26, 0.26])}
    rows = comparison(curves, "avg@4", 0.40)["by_target"]
    # 5% was there before any step; 30% and more TRL never reached
    assert [(row["target"], row["seconds"]["groat"], row["seconds"]["TRL"]) for row in rows] == [
        (0.1, 8.0, 120.0),
        (0.15, 8.0, 120.0),
        (0.2, 8.0, 240.0),
        (0.25, 16.0, 240.0),
    ]
    assert [row["times_less"] for row in rows] == [{"TRL": 15.0}, {"TRL": 15.0}, {"TRL": 30.0}, {"TRL": 15.0}]


def test_there_is_no_ratio_where_a_side_has_not_reached_the_target_or_needed_no_step():
    curves = {"groat": curve(2.0, [0.07, 0.41]), "TRL": curve(30.0, [0.07, 0.18])}
    missed = comparison(curves, "avg@4", 0.40)
    assert missed["reached"]["TRL"] is None
    assert missed["times_less"] == {}
    assert comparison(curves, "avg@4", 0.05)["times_less"] == {}
    assert comparison({"groat": [], "TRL": curve(30.0, [0.5])}, "avg@4", 0.40)["times_less"] == {}


def test_steps_are_compared_over_those_that_both_have_done():
    # 4 + 2 against 40 + 20; groat's third has nothing beside it yet
    assert step_speed({"groat": [4.0, 2.0, 1.0], "TRL": [40.0, 20.0]}) == {"TRL": 10.0}
    assert step_speed({"groat": [4.0], "TRL": []}) == {}
