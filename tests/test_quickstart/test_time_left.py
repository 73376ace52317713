# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The time left that the quickstart prints, against a simulated clock.

The recorded run is that of docs/benchmarks/symbols.md: 709 s on two idle
cores, with the data set already drawn. Its stages are divided evenly into the
units that their logs count.
"""

import random

import pytest

from dito.reports.quickstart import REPORT_COST, Plan
from dito.reports.steps import Cost, TimeLeft

# Seconds of each stage, seconds before its first unit and after its last
# one, and how many units its log says.
RECORD = dict(
    data=(40, 3, 1, 25),
    zero_shot=(17, 9, 0, 12),
    rep=(276, 10, 2, 50),
    naming=(23, 10, 3, 19),
    dito=(346, 11, 2, 50),
    evaluation=(63, 10, 10, 19),
)
REPORT = 7.0


def ends_of_units(jitter):
    """Seconds since the start at which each stage's units and it end."""
    rng, now, stages = random.Random(0), 0.0, {}
    for name, (total, startup, tail, number) in RECORD.items():
        lengths = [rng.uniform(1 - jitter, 1 + jitter) for _ in range(number)]
        factor = (total - startup - tail) / number
        units, end = [], now + startup
        for length in lengths:
            end += factor * length
            units.append(end)
        now = end + tail
        stages[name] = (units, now)
    return stages, now + REPORT


def simulate(tmp_path, speed, drawn=False, jitter=0.0):
    """Estimates at each second of a run on a machine of another speed.

    Args:
        tmp_path (Path): Any folder.
        speed (callable): From a second of the recorded run to one of this
            run, and the recorded length, to this run's time.
        drawn (bool): Whether the data set is there already.
        jitter (float): By how much a unit may be shorter or longer.

    Returns:
        list[tuple[int, float, float]]: Second, estimate, truth.
    """
    stages, length = ends_of_units(jitter)
    skipped = stages['data'][1] if drawn else 0.0
    length -= skipped
    steps = [
        s
        for s in Plan(tmp_path, 450, 200).stages()
        if not (drawn and s.name == 'data')
    ]
    time_left, now, found = TimeLeft(), 0, []
    begin = 0.0
    for number, step in enumerate(steps):
        units, end = stages[step.name]
        units = [speed(t - skipped, length) for t in units]
        end = speed(end - skipped, length)
        later = REPORT_COST + sum(s.cost.total for s in steps[number + 1 :])
        time_left.begin(begin, step.cost)
        while now < end:
            share = sum(t <= now for t in units) / len(units)
            found.append(
                (
                    now,
                    time_left.left(now, share, later),
                    speed(length, length) - now,
                )
            )
            now += 1
        time_left.end(end)
        begin = end
    return found


MACHINES = dict(
    recorded=lambda t, length: t,
    three_times_slower=lambda t, length: 3 * t,
    three_times_faster=lambda t, length: t / 3,
    half_speed_after_the_middle=lambda t, length: (
        t if t < length / 2 else 2 * t - length / 2
    ),
)


@pytest.mark.parametrize('jitter', [0.0, 0.3])
@pytest.mark.parametrize('drawn', [False, True])
@pytest.mark.parametrize('name', MACHINES)
def test_within_a_factor_of_one_and_a_half(tmp_path, name, drawn, jitter):
    """From the first minute until the last; see ``in_words`` for that one."""
    found = simulate(tmp_path, MACHINES[name], drawn, jitter)
    minutes = [
        row
        for row in found
        if row[0] >= 60 and row[0] % 60 == 0 and row[2] >= 60
    ]
    if name.startswith('half'):
        # That it will slow down nobody can know; two minutes to notice.
        middle = next(t for t, _, _ in found if t >= found[-1][0] / 3)
        minutes = [row for row in minutes if row[0] >= middle + 120]
    assert len(minutes) >= 2
    for second, estimate, truth in minutes:
        assert 1 / 1.5 <= estimate / truth <= 1.5, (
            f'{second} s: {estimate:.0f} s, truly {truth:.0f} s'
        )


def test_before_it_slows_down_it_knows_the_old_speed(tmp_path):
    """A guard of the test above: the estimates do follow the clock."""
    found = simulate(tmp_path, MACHINES['half_speed_after_the_middle'])
    second, estimate, truth = found[300]
    assert second == 300 and estimate / truth < 0.6
    slow = simulate(tmp_path, MACHINES['three_times_slower'])
    assert slow[0][1] < 0.4 * slow[0][2]


def test_pace_of_two_steps_by_hand():
    time_left = TimeLeft(half_life=1e9, prior=1e-9)
    time_left.begin(100.0, Cost(30, startup=10))
    # Nothing is known yet: the pace is 1.
    assert time_left.left(100.0, 0.0, 50) == pytest.approx(80)
    # 40 s for 10 s of start and a tenth of 20 s: a pace of 10 / 3.
    assert time_left.left(140.0, 0.1, 50) == pytest.approx(68 * 10 / 3)
    time_left.end(200.0)
    assert time_left.pace == pytest.approx(100 / 30)


def test_a_late_unit_raises_the_estimate():
    """A step that hangs at one unit does not stay about to end."""
    time_left = TimeLeft()
    time_left.begin(0.0, Cost(40))
    early, late, later = (
        time_left.left(now, 0.0, 100) for now in (30.0, 120.0, 240.0)
    )
    assert early == pytest.approx(110)
    assert 200 < late < later


def test_a_tail_is_due_after_the_last_unit():
    time_left = TimeLeft()
    time_left.begin(0.0, Cost(20, startup=5, tail=5))
    time_left.left(15.0, 1.0, 0)
    assert time_left.left(17.0, 1.0, 0) == pytest.approx(3)
    assert time_left.left(60.0, 1.0, 0) < 5
