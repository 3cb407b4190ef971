import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_rows import HALF_RIGHT, MOSTLY_RIGHT, answer

from groat.tracking.before_after import paired_answers
from groat.tracking.console import LOSS_SENTENCE, Console
from groat.tracking.printable import one_line, printable
from groat.tracking.wording import duration, percent, short_number, shortened

METRICS = {
    "reward": 0.5,
    "reward_std": 0.25,
    "rewards/correct_answer/mean": 0.375,
    "completions/mean_length": 123.4,
    "completions/clipped_ratio": 0.03125,
    "frac_reward_zero_std": 0.25,
    "loss": -0.00012,
    "grad_norm": 0.42,
    "sampling/sampling_logp_difference/max": 2e-5,
}
TIMINGS = {
    "step_time": 30.0,
    "sample_tokens_per_second": 210.0,
    "learn_tokens_per_second": 1234.0,
    "memory_gib": 2.1,
    "peak_gib": 2.62,
}


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_control_characters_are_stripped_from_model_text() -> None:
    assert printable("a\x1b[31mred\x07\x00\x7f\x9b2Jb") == "a[31mred2Jb"
    assert printable("one\r\ntwo\tthree") == "one\ntwo three"
    assert printable("abc\u202edcba\u2066x\u200f") == "abcdcbax"
    assert printable("half\ud800") == "half\ufffd"
    assert printable("naïve 你好 😀 √2") == "naïve 你好 😀 √2"
    assert one_line(" a\n\n b\x1b\tc ") == "a b c"


def test_no_character_that_commands_a_terminal_is_printable() -> None:
    commanding = [chr(code) for code in [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F)]]
    assert [char for char in commanding if printable(char) == char] == ["\n"]


def test_a_megabyte_of_escapes_takes_no_time() -> None:
    assert printable("\x1b[2J" * 250_000) == "[2J" * 250_000


def test_a_step_in_a_log_is_one_line_with_every_figure() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(stream=stream, clock=clock)
    console.start_run(10)
    console.step(1, METRICS, TIMINGS)
    clock.seconds = 40.0
    console.step(2, {**METRICS, "kl": 0.002}, TIMINGS)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Training: steps 1 to 10"
    assert lines[1] == (
        "step 1/10: reward 0.500 ±0.250, correct 37.5%, length 123, clipped 3.1%, zero-std 25.0%, loss -1.2e-04,"
        " grad norm 0.420, memory 2.10/2.62 GiB, logp diff 2.0e-05, sampling 210 tok/s, learning 1.2k tok/s,"
        " took 30 s, ETA 4 min"  # 9 steps of 30 s are 4.5 min
    )
    assert "kl 0.0020" in lines[-1]
    assert lines[-1].endswith("ETA 5 min")  # 8 steps of (30 + 40) / 2 s are 4.7 min


def test_the_loss_is_explained_once_and_only_where_it_is_near_zero() -> None:
    stream = io.StringIO()
    console = Console(stream=stream)
    console.start_run(3)
    for step in (1, 2, 3):
        console.step(step, METRICS, TIMINGS)
    assert " ".join(stream.getvalue().split()).count(LOSS_SENTENCE) == 1
    other = io.StringIO()
    Console(stream=other).step(1, {**METRICS, "loss": 0.7}, TIMINGS)
    assert "by construction" not in other.getvalue()


def test_a_long_phase_tells_its_progress_every_twenty_seconds_in_a_log() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(stream=stream, clock=clock)
    with console.phase("evaluate", 100, "completions") as phase:
        for _ in range(100):
            clock.seconds += 0.5
            phase.advance()
    assert stream.getvalue().splitlines() == [
        "  evaluate: 40/100 completions, ETA 30 s",
        "  evaluate: 80/100 completions, ETA 10 s",
        "evaluate: done in 50 s",
    ]


def test_a_short_phase_inside_a_run_leaves_no_line_in_a_log() -> None:
    stream = io.StringIO()
    console = Console(stream=stream)
    console.start_run(2)
    with console.phase("sample", 2, "completions") as phase:
        phase.advance(2)
    assert stream.getvalue() == "Training: steps 1 to 2\n"


def test_a_quiet_console_tells_warnings_only() -> None:
    stream = io.StringIO()
    console = Console(quiet=True, stream=stream)
    console.start_run(2)
    with console.phase("sample", 2) as phase:
        phase.advance()
    console.step(1, METRICS, TIMINGS)
    console.note("note")
    console.evaluation("Before", HALF_RIGHT)
    console.table_before_after(HALF_RIGHT, MOSTLY_RIGHT, [])
    console.event("canary", "look \x1b[2Jout")
    assert stream.getvalue() == "warning (canary): look [2Jout\n"


def test_the_result_shows_both_accuracies_the_change_and_answers_as_text() -> None:
    stream = io.StringIO()
    pairs = paired_answers([answer("p0", "[red]8[/red]\x1b[2J", False)], [answer("p0", "7", True)])
    Console(stream=stream).table_before_after(HALF_RIGHT, MOSTLY_RIGHT, pairs)
    text = stream.getvalue()
    assert "50.0% [40.0, 60.0]" in text
    assert "75.0% [65.0, 85.0]" in text
    assert "+25.0 points" in text
    assert "[red]8[/red][2J" in text
    assert "\x1b" not in text
    assert "before: wrong" in text
    assert "after: correct" in text


def test_sample_problems_show_what_was_mended_and_what_was_broken() -> None:
    right = {"a": True, "b": True, "c": False, "d": False, "e": False}
    before = [answer(name, "x", correct) for name, correct in right.items()]
    after = [answer(name, "y", name in "adef") for name in "abcdef"]
    chosen = [pair.after.problem_id for pair in paired_answers(before, after, 4)]
    assert chosen == ["d", "b", "c", "a"]


def test_a_stream_that_cannot_hold_a_character_or_has_lost_its_reader_does_not_end_the_run() -> None:
    raw = io.BytesIO()
    ascii_only = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    Console(stream=ascii_only).note("±1")
    assert raw.getvalue() == b"?1\n"
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    console = Console(stream=stream)
    console.start_run(3)
    console.step(1, METRICS, TIMINGS)
    with pytest.raises(BrokenPipeError):
        stream.close()


DEMO = """
from test_console import METRICS, TIMINGS
from groat.tracking.console import Console
console = Console()
console.start_run(2)
try:
    with console.phase("sample", 4, "completions") as phase:
        phase.advance(2)
        print("a reward function prints")
        console.step(1, METRICS, TIMINGS)
        raise ValueError
except ValueError:
    console.note("after the error")
"""


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_lines_fit_the_width_and_an_error_leaves_the_cursor_visible(width: int) -> None:
    output = in_terminal(DEMO, width)
    assert "\x1b[?25l" in output
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    assert "a reward function prints" in output
    assert output.rstrip().endswith("after the error")
    step_lines = [line for line in output.splitlines() if "0.500 ±0.250" in line]
    assert len(step_lines) == 1
    assert ("2.0e-05" in step_lines[0]) == (width == 120)


def test_forced_colour_in_a_pipe_gives_no_control_codes() -> None:
    output = subprocess.run(
        [sys.executable, "-c", DEMO],
        env={**os.environ, "FORCE_COLOR": "1", "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        check=True,
    ).stdout
    assert b"\x1b" not in output
    assert b"step 1/2: reward 0.500" in output


def in_terminal(code: str, width: int) -> str:
    """What the code writes to a terminal of this width."""
    fcntl, pty, termios = pytest.importorskip("fcntl"), pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, bytes([40, 0, width, 0, 0, 0, 0, 0]))
    environment = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "LINES", "NO_COLOR"}}
    environment |= {"TERM": "xterm", "PYTHONUTF8": "1", "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    try:
        while block := os.read(ours, 65536):
            written += block
    except OSError:
        pass  # Linux ends a terminal's stream with an error.
    finally:
        os.close(ours)
    assert process.wait() == 0
    return written.decode()


def test_figures_read_well() -> None:
    assert [duration(seconds) for seconds in (0.04, 8.44, 38.4, 59.9, 720, 11_100, 187_200)] == [
        "0.0 s",
        "8.4 s",
        "38 s",
        "59 s",
        "12 min",
        "3 h 05 min",
        "2 d 4 h",
    ]
    assert [short_number(value) for value in (0, -0.00012, 0.042, 0.42, 4.2, 42, 420, 4200)] == [
        "0",
        "-1.2e-04",
        "0.0420",
        "0.420",
        "4.20",
        "42.0",
        "420",
        "4.2k",
    ]
    assert [percent(share) for share in (0, 0.484, 1, float("nan"))] == ["0%", "48.4%", "100%", "nan"]
    assert shortened("a" * 10 + "b" * 10, 10) == "aaaaaa … 10 characters … bbbb"
