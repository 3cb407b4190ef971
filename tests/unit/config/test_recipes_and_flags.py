import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from groat.config.algorithms import (
    ALGORITHMS,
    GRPOAlgorithmConfig,
    PPOAlgorithmConfig,
    ReinforceAlgorithmConfig,
    RLOOAlgorithmConfig,
)
from groat.config.load import from_command_line, read_yaml, to_yaml
from groat.config.presets import preset_names, read_preset
from groat.config.tree import (
    EvaluationConfig,
    LoraConfig,
    MemoryConfig,
    ModelConfig,
    RunConfig,
    SamplingConfig,
    TaskConfig,
    TrainingConfig,
)
from groat.types import UserError

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))
BASE = RunConfig()


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        read_yaml(recipe(folder, text))
    assert str(caught.value).startswith(str(folder / "recipe.yaml"))
    return str(caught.value).removeprefix(str(folder / "recipe.yaml"))


# Round trips


AWKWARD = RunConfig(
    seed=2**63 - 1,
    output_dir="runs/ü {name}: #1",
    model=ModelConfig(name="no", chat_template="1e-4"),
    lora=LoraConfig(lora_alpha=1 / 3),
    task=TaskConfig(
        system_prompt="line one\n  two: [3]\n\ttab \x00 \u2028 end ", num_steps=(3, 1), reward_funcs=("a.py:f", "<<")
    ),
    sampling=SamplingConfig(stop=("\n\n", "=", "2026-01-01", "null", "~", "0x10", "1:30", " ")),
    algorithm=GRPOAlgorithmConfig(delta=1e-300, epsilon_high=0.1 + 0.2),
    training=TrainingConfig(learning_rate=1e-6, adam_epsilon=5e-324),
    memory=MemoryConfig(budget="3 GiB"),
)


@pytest.mark.parametrize("config", [BASE, AWKWARD, *map(read_preset, preset_names())])
def test_config_survives_the_round_trip_through_yaml(tmp_path: Path, config: RunConfig):
    assert read_yaml(recipe(tmp_path, to_yaml(config))) == config


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_loads_and_says_more_than_the_defaults(path: Path):
    assert read_yaml(path) != BASE


def test_every_algorithm_has_a_recipe_that_is_measured_on_held_out_problems():
    recipes = [read_yaml(path) for path in RECIPES]
    measured = {recipe.algorithm.kind for recipe in recipes if recipe.evaluation.num_problems >= 200}
    assert measured == set(ALGORITHMS)


def test_arithmetic_recipe_is_the_demo_in_another_folder():
    arithmetic = read_yaml(RECIPES[0])
    assert RECIPES[0].name == "arithmetic.yaml"
    assert dataclasses.replace(arithmetic, output_dir="runs/demo") == read_preset("demo")


def test_empty_recipe_is_all_defaults(tmp_path: Path):
    assert read_yaml(recipe(tmp_path, "# nothing yet\n")) == BASE


# YAML's traps


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "+1e-4", ".0001", "0.1e-3"])
def test_number_with_an_exponent_is_a_number(tmp_path: Path, text: str):
    assert read_yaml(recipe(tmp_path, f"training:\n  learning_rate: {text}\n")).training.learning_rate == 1e-4


def test_whole_number_will_do_for_a_float_but_not_the_other_way_round(tmp_path: Path):
    assert read_yaml(recipe(tmp_path, "lora: {lora_alpha: 8}")).lora.lora_alpha == 8.0
    assert complaint(tmp_path, "lora: {r: 16.0}") == ": lora.r must be a whole number, got 16.0"


def test_date_stays_text(tmp_path: Path):
    assert read_yaml(recipe(tmp_path, "output_dir: 2026-01-01")).output_dir == "2026-01-01"


def test_key_given_twice_is_refused_with_its_place(tmp_path: Path):
    text = "sampling:\n  top_k: 3\n  top_p: 0.9\n  top_k: 5\n"
    assert complaint(tmp_path, text) == ", line 4, column 3: 'top_k' is given twice: keep one of them"


def test_syntax_error_has_line_and_column(tmp_path: Path):
    assert complaint(tmp_path, "sampling:\n  top_k: 3\n top_p: 0.9\n").startswith(", line 3, column 2: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [1, 1]\nb: [*x, *x]", "aliases"),
        ("seed: " + "[" * 10_000, "more than 8 levels"),
        ("seed: 1 #" + "x" * 70_000, "larger than 64 KiB"),
        ("seed: !!python/object/apply:os.system [true]", "tags"),
        ("seed: !!int abc", "tags"),
        ("seed: " + "9" * 5000, "64 bits"),
        ("seed: -0x" + "f" * 5000, "64 bits"),
        ("seed: 0x_", "64 bits"),
        ("<<: {seed: 3}", "<< is not a field"),
        ("? [a]\n: 3", "a key must be the name of a field"),
        ("seed: 1\n---\nseed: 2", "another document"),
        ("seed: \x07", "unacceptable character"),
        ('output_dir: "\\ud800"', "half a character"),
        ("- seed", "the file must hold `name: value` lines"),
        ("seed", "the file must hold `name: value` lines"),
    ],
)
def test_hostile_or_broken_file_ends_in_a_sentence(tmp_path: Path, text: str, said: str):
    problem = complaint(tmp_path, text)
    assert said in problem
    assert len(problem) < 300


def test_file_that_cannot_be_read_says_why(tmp_path: Path):
    with pytest.raises(UserError, match="No such file"):
        read_yaml(tmp_path / "missing.yaml")
    with pytest.raises(UserError, match="directory"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"output_dir: caf\xe9")
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 15\)"):
        read_yaml(tmp_path / "latin.yaml")


# Wrong fields and wrong values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("temperature: 1", "temperature is not a field; did you mean sampling.temperature?"),
        ("sampling: {temprature: 1}", "sampling.temprature is not a field; did you mean sampling.temperature?"),
        ("training: {num_generations: 4}", "did you mean sampling.num_generations?"),
        ("trainig: {max_steps: 4}", "trainig is not a field"),
        ("lora: {alpha: 4}", "did you mean lora.lora_alpha?"),
        ("budget: 3GiB", "did you mean memory.budget?"),
        ("zzz: 1", "zzz is not a field"),
        ("model: foo", "model is a section, not a value: did you mean model.name: 'foo'?"),
        ("lora:\n", "lora is empty: put fields below it, such as lora.r, or take it out"),
        ("sampling: {temperature: true}", "sampling.temperature must be a number, got true"),
        ("sampling: {temperature: '1'}", "sampling.temperature must be a number, got '1'"),
        ("task: {name: no}", "task.name must be text (put it in quotes), got false"),
        ("task: {num_steps: 3}", "task.num_steps must be a list, such as [a, b], got 3"),
        ("task: {num_steps: [1, x]}", "task.num_steps[1] must be a whole number, got 'x'"),
        ("algorithm: {scale_rewards: groups}", "must be one of 'group', 'batch' or 'none', got 'groups'"),
        (
            "algorithm: {kind: ppoo}",
            "algorithm.kind must be one of 'grpo', 'rloo', 'reinforce++', 'online_dpo', 'ppo', got 'ppoo'",
        ),
        ("algorithm: {kind: rloo, beta: x}", "algorithm.beta must be a number, got 'x'"),
        (
            "algorithm: {kind: rloo, delta: 4}",
            "algorithm.delta is an option of grpo, not of rloo: take it out, or choose another algorithm.kind",
        ),
        ("algorithm: {kind: rloo, epsilom: 4}", "algorithm.epsilom is not a field; did you mean algorithm.epsilon?"),
        ("algorithm: {normalize_advantages: true}", "is an option of rloo, not of grpo"),
        ("algorithm: {kind: ppo, beta: 0.1}", "algorithm.beta is an option of grpo and rloo and reinforce++ and"),
        ("algorithm: {kind: ppo, kl_estimator: k2}", "algorithm.kl_estimator must be one of 'k1' or 'k3', got 'k2'"),
        ("algorithm: {kind: ppo, lam: 1.5}", "algorithm.lam must lie between 0 and 1, got 1.5"),
        ("algorithm: {kind: ppo, cliprange_value: 0}", "algorithm.cliprange_value must be above 0, got 0"),
        ("algorithm: {kind: ppo, value_lora_r: 0}", "algorithm.value_lora_r must be at least 1, got 0"),
        (
            "{algorithm: {kind: ppo, num_mini_batches: 3}, rollouts: {num_kept: 2}}",
            "a step learns from 16 completions (training.generation_batch_size, rollouts.num_kept), which must be a "
            "multiple of algorithm.num_mini_batches (3)",
        ),
        ("sampling: {num_generations: 1}", "sampling.num_generations must be at least 2, got 1"),
        (
            "{algorithm: {kind: ppo}, sampling: {num_generations: 1}, rollouts: {max_refills: 1}}",
            "rollouts.max_refills draws groups anew whose rewards are all equal",
        ),
        ("algorithm: 3", "algorithm is a section, not a value: did you mean algorithm.kind: 3?"),
        ("algorithm: {loss_type: luspo}", "set algorithm.importance_sampling_level to sequence"),
        (
            "algorithm: {loss_type: vespo, importance_sampling_level: sequence}",
            "leave algorithm.importance_sampling_level at token",
        ),
        ("algorithm: {loss_type: sapo, delta: 4}", "algorithm.loss_type sapo does not clip: take delta out"),
        ("algorithm: {entropy_coef: 0.1, top_entropy_quantile: 0.2}", "cannot be had together"),
        ("algorithm: {kind: rloo, reward_clip_range: [1, -1]}", "must rise, such as [-1, 1]; got [1, -1]"),
        ("algorithm: {kind: online_dpo, beta: 0}", "algorithm.beta must be above 0, got 0"),
        ("rollouts: {num_kept: 9}", "rollouts.num_kept is 9, but a group has sampling.num_generations 8 completions"),
        ("rollouts: {max_refills: -1}", "rollouts.max_refills must be at least 0, got -1"),
        (
            "task: {overlong_buffer: 513}",
            "task.overlong_buffer (513) must be at most sampling.max_completion_length (512)",
        ),
        ("task: {judge: a.py:f, reward_funcs: [exact_match]}", "task.judge is there in place of task.reward_funcs"),
        ("checks: {policy_canary: 1}", "checks.policy_canary must be true or false, got 1"),
        ("memory: {budget: 3}", "memory.budget must be text (put it in quotes), with its unit: 3GiB, got 3"),
        ("memory: {budget: 3 apples}", "memory.budget: '3 apples' has the unknown unit 'apples'"),
        ("lora: {r: 0}", "lora.r must be at least 1, got 0"),
        ("training: {learning_rate: .nan}", "training.learning_rate must be above 0, got nan"),
        ("sampling: {num_generations: 7}", "training.generation_batch_size (64) must be a multiple of"),
        ("seed: 0.5", "seed must be a whole number, got 0.5"),
    ],
)
def test_wrong_field_is_named_with_its_path_and_the_remedy(tmp_path: Path, text: str, said: str):
    assert said in complaint(tmp_path, text)


def test_max_prompt_length_is_explained(tmp_path: Path):
    assert "groat never cuts a prompt, so leave it out" in complaint(tmp_path, "max_prompt_length: 256")


def test_all_problems_are_listed_at_once(tmp_path: Path):
    text = "temperature: 1\nlora: {r: 0}\nmemory: {budget: 3}\n"
    assert complaint(tmp_path, text).splitlines()[0] == " has 3 problems:"
    assert len(complaint(tmp_path, text).splitlines()) == 4


def test_huge_value_is_shown_cut_short(tmp_path: Path):
    assert len(complaint(tmp_path, "seed: " + "x" * 60_000)) < 200


# The command line


def test_everyday_flags_reach_their_fields():
    flags = (
        "--model m --task t.jsonl --algorithm grpo --budget 3GiB --max-steps 5 --num-generations 4 "
        "--max-completion-length 33 --learning-rate 1e-4 --seed 7 --output-dir out"
    )
    assert from_command_line(flags.split(), BASE) == dataclasses.replace(
        BASE,
        seed=7,
        output_dir="out",
        model=ModelConfig(name="m"),
        task=TaskConfig(name="t.jsonl"),
        sampling=SamplingConfig(num_generations=4, max_completion_length=33),
        training=TrainingConfig(max_steps=5, learning_rate=1e-4),
        memory=MemoryConfig(budget="3GiB"),
    )


@pytest.mark.parametrize("flags", ["--algorithm rloo", "--algorithm.kind=rloo"])
def test_another_algorithm_brings_its_own_flags_and_defaults(flags: str):
    changed = from_command_line([*flags.split(), "--algorithm.reward-clip-range", "-1", "2"], BASE)
    assert changed.algorithm == RLOOAlgorithmConfig(reward_clip_range=(-1, 2))
    assert dataclasses.replace(changed, algorithm=BASE.algorithm) == BASE


def test_ppo_has_its_flags_and_can_do_with_one_completion_a_prompt():
    flags = "--algorithm ppo --algorithm.kl-estimator k3 --algorithm.value-learning-rate 1e-3 --num-generations 1"
    changed = from_command_line(flags.split(), BASE)
    assert changed.algorithm == PPOAlgorithmConfig(kl_estimator="k3", value_learning_rate=1e-3)
    assert changed.prompts_per_step == changed.training.generation_batch_size == 64


def test_the_same_algorithm_keeps_what_the_recipe_says():
    base = RunConfig(algorithm=RLOOAlgorithmConfig(beta=0.3))
    assert from_command_line(["--algorithm", "rloo", "--seed", "3"], base).algorithm.beta == 0.3
    assert from_command_line(["--algorithm", "reinforce++"], base).algorithm == ReinforceAlgorithmConfig()


@pytest.mark.parametrize("flag", ["--sampling.top_k", "--sampling.top-k"])
def test_every_field_has_a_dotted_flag_with_hyphens_or_underscores(flag: str):
    assert from_command_line([flag, "5"], BASE).sampling.top_k == 5


def test_flags_leave_the_rest_of_the_base_alone():
    base = RunConfig(evaluation=EvaluationConfig(num_problems=3), sampling=SamplingConfig(temperature=0.3, min_p=0.1))
    changed = from_command_line(["--sampling.temperature", "0.7"], base)
    assert changed.evaluation == base.evaluation
    assert changed.sampling == SamplingConfig(temperature=0.7, min_p=0.1)


def test_none_and_lists_can_be_written():
    base = RunConfig(memory=MemoryConfig(budget="3GiB"))
    args = ["--budget", "None", "--task.num-steps", "1", "2", "--sampling.stop", "\n", "END"]
    config = from_command_line(args, base)
    assert (config.memory.budget, config.task.num_steps, config.sampling.stop) == (None, (1, 2), ("\n", "END"))


@pytest.mark.parametrize(
    "flag", ["--no-checks.policy-canary", "--no-checks.policy_canary", "--checks.no-policy-canary"]
)
def test_yes_or_no_field_is_turned_off_by_no(flag: str):
    assert not from_command_line([flag], BASE).checks.policy_canary
    assert from_command_line([flag, "--checks.policy-canary"], BASE).checks.policy_canary


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("--temperature 0.7", "--temperature is not a field; did you mean --sampling.temperature?"),
        ("--sampling.temprature=0.7", "did you mean --sampling.temperature?"),
        ("--algorithm rloo --algorithm.delta 4", "--algorithm.delta is an option of grpo, not of rloo"),
        ("--max-prompt-length 5", "groat never cuts a prompt"),
        ("--seed 3 recipe.yaml", "the recipe comes first"),
        ("--checks.policy-canary True", "'True' belongs to no flag"),
    ],
)
def test_unknown_flag_is_answered_with_the_nearest_name(args: str, said: str):
    with pytest.raises(UserError) as caught:
        from_command_line(args.split(), BASE)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("--seed x", "--seed"),
        ("--seed", "--seed"),
        ("--lora.r 0", "lora.r must be at least 1, got 0"),
        ("--budget 3", "'3' has no unit"),
        ("--algorithm nope", "'grpo'"),
        ("--seed -1", "seed must lie between 0 and 2^63 - 1, got -1"),
    ],
)
def test_wrong_value_of_a_flag_exits_with_2_and_a_reason(capsys: pytest.CaptureFixture[str], args: str, said: str):
    with pytest.raises(SystemExit) as caught:
        from_command_line(args.split(), BASE)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_config_starts_without_torch():
    code = "import sys, groat.config.load, groat.config.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
