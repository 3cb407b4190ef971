"""The same work for every side: prompts of a known length, sizes that make sense, and a job that survives its file."""

from __future__ import annotations

from pathlib import Path

import pytest
from known_specs import SMOLLM2_135M

from benchmarks.job import GroatSettings, Job
from benchmarks.sides import vllm_environment
from benchmarks.timed_sampler import Drawn
from benchmarks.work import W1, Work, long_questions, prompt_length, short_questions
from groat.model.tokenizer import Tokenizer
from groat.testing import tiny_model
from groat.types import UserError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_folder(tiny_model(tmp_path_factory.mktemp("model")))


def job_of(work: Work) -> Job:
    settings = GroatSettings(model="tiny", storage="int8")
    return Job(work=work, groat=settings, num_measured=2, num_warm_up=1, longest_tokens=192)


def test_w1_is_what_the_peers_know_it_as():
    assert (len(W1.questions), W1.group_size, W1.new_tokens) == (4, 8, 128)
    assert (W1.num_completions, W1.num_new_tokens) == (32, 4096)


@pytest.mark.parametrize("num_tokens", [40, 97, 512])
def test_long_questions_have_exactly_their_tokens_and_differ(tokenizer: Tokenizer, num_tokens: int):
    questions = long_questions(3, num_tokens, tokenizer)
    assert [prompt_length(question, tokenizer) for question in questions] == [num_tokens] * 3
    assert len(set(questions)) == 3
    assert questions == long_questions(3, num_tokens, tokenizer)


def test_a_prompt_shorter_than_its_template_is_refused(tokenizer: Tokenizer):
    with pytest.raises(UserError, match="no prompt of exactly 5 tokens was found; the chat template alone has"):
        long_questions(1, 5, tokenizer)


def test_more_short_questions_than_there_are_is_refused():
    assert short_questions(2) == W1.questions[:2]
    with pytest.raises(UserError, match="5 prompts were asked for, and W1 has 4"):
        short_questions(5)


def test_a_job_is_the_same_when_it_is_read_again(tmp_path: Path):
    job = job_of(W1)
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job


def test_vllm_has_room_for_every_sequence():
    """32 x 192 tokens of 46080 bytes are 0.26 GiB; 256 x 192 are 2.1."""
    assert vllm_environment(job_of(W1), SMOLLM2_135M)["VLLM_CPU_KVCACHE_SPACE"] == "1"
    larger = Work(questions=W1.questions, group_size=64, new_tokens=128)
    assert vllm_environment(job_of(larger), SMOLLM2_135M)["VLLM_CPU_KVCACHE_SPACE"] == "3"


def test_a_decode_step_is_timed_without_the_prompts_and_without_the_last_draw():
    """Four sequences: the second and third mark settle 8 tokens in one second, so a step of 4 takes half of one."""
    drawn = Drawn(seconds=2.2, marks=((1.0, 4), (1.5, 4), (2.0, 4), (2.1, 4)), num_sequences=4)
    assert drawn.num_tokens == 16
    assert drawn.decode_step_seconds == pytest.approx(0.5)
    assert drawn.figures()["rollout_tokens_per_second"] == pytest.approx(16 / 2.2)
    assert Drawn(seconds=1.0, marks=((0.5, 4), (0.9, 4)), num_sequences=4).decode_step_seconds is None
