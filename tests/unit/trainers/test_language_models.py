"""Models and tokenizers as notebooks hold them, against transformers, PEFT and groat's own sampler."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from toy_trainers import toy_options, toy_trainer
from transformers import AutoModelForCausalLM as TheirModel
from transformers import AutoTokenizer as TheirTokenizer
from transformers import TextStreamer

from groat.testing import tiny_model, toy_rows, vowel_share
from groat.trainers.grpo import GRPOTrainer
from groat.trainers.models.auto import AutoModelForCausalLM, AutoTokenizer
from groat.trainers.models.fast_language_model import FastLanguageModel, PatchFastRL, is_bfloat16_supported
from groat.trainers.models.language_model import LanguageModel
from groat.trainers.models.sampling_params import SamplingParams
from groat.trainers.models.text_tokenizer import TextTokenizer
from groat.trainers.peft import LoraConfig
from groat.types import UserError

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Vowels, please!"}]
GREEDY = SamplingParams(temperature=0.0, max_tokens=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), seed=1)


@pytest.fixture
def loaded(folder: Path) -> tuple[LanguageModel, TextTokenizer]:
    return FastLanguageModel.from_pretrained(str(folder), max_seq_length=128, load_in_4bit=False)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return TheirModel.from_pretrained(folder, dtype=torch.float32)


def trained(folder: Path, run: Path, **loading: Any) -> GRPOTrainer:
    """A notebook's model after two steps that have moved its weights a lot."""
    model, tokenizer = FastLanguageModel.from_pretrained(str(folder), **{"load_in_4bit": False} | loading)
    model = FastLanguageModel.get_peft_model(model, r=4, lora_alpha=8)
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[vowel_share],
        args=toy_options(run, max_steps=2),
        train_dataset=toy_rows(8),
    )
    trainer.train()
    assert trainer.model is model
    return trainer


@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_chat_templates_are_rendered_and_encoded_as_by_transformers(folder: Path, add_generation_prompt: bool):
    ours, others = AutoTokenizer.from_pretrained(folder), TheirTokenizer.from_pretrained(folder)
    options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt}
    text = ours.apply_chat_template(CHAT, tokenize=False, **options)
    assert text == others.apply_chat_template(CHAT, tokenize=False, **options)
    assert text.endswith("assistant\n") == add_generation_prompt
    ids = others.apply_chat_template(CHAT, return_dict=False, **options)
    assert ours.apply_chat_template(CHAT, **options) == ids
    tensor = ours.apply_chat_template(CHAT, return_tensors="pt", **options)
    assert tensor.tolist() == [ids]
    both = ours.apply_chat_template([CHAT, CHAT[1:]], tokenize=False, **options)
    assert both == others.apply_chat_template([CHAT, CHAT[1:]], tokenize=False, **options)


def test_texts_are_encoded_padded_and_decoded_as_by_transformers(folder: Path):
    ours, others = AutoTokenizer.from_pretrained(folder), TheirTokenizer.from_pretrained(folder, padding_side="left")
    others.pad_token = others.eos_token
    texts = ["one", "twenty<|im_end|>"]
    found, expected = (tokenizer(texts, padding=True, return_tensors="pt") for tokenizer in (ours, others))
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()
    assert found.attention_mask.tolist() == expected.attention_mask.tolist() == [[0] * 4 + [1] * 3, [1] * 7]
    assert ours("one")["input_ids"] == others("one")["input_ids"]
    for skip in (True, False):
        rows = found["input_ids"]
        assert ours.batch_decode(rows, skip_special_tokens=skip) == others.batch_decode(rows, skip_special_tokens=skip)
    for name in ("eos_token", "eos_token_id", "bos_token", "bos_token_id", "pad_token_id"):
        assert getattr(ours, name) == getattr(others, name), name
    assert len(ours) == len(others)


def test_texts_of_different_lengths_make_no_tensor_without_padding(folder: Path):
    with pytest.raises(UserError, match="pass padding=True"):
        AutoTokenizer.from_pretrained(folder)(["a", "bc"], return_tensors="pt")
    with pytest.raises(UserError, match="return_tensors is 'np'"):
        AutoTokenizer.from_pretrained(folder)("a", return_tensors="np")
    with pytest.raises(UserError, match="apply_chat_template was given enable_thinking=True"):
        AutoTokenizer.from_pretrained(folder).apply_chat_template(CHAT, enable_thinking=True)


def test_what_is_sent_to_a_gpu_stays_here(folder: Path, loaded: tuple[LanguageModel, TextTokenizer]):
    model, tokenizer = loaded
    inputs = tokenizer("a", return_tensors="pt").to("cuda")
    assert inputs.input_ids.device.type == "cpu"
    assert tokenizer.apply_chat_template(CHAT, return_tensors="pt").to("cuda").device.type == "cpu"
    assert model.to("cuda") is model.eval() is model.train() is model
    assert model.device.type == "cpu"


def test_a_chat_template_set_on_the_tokenizer_is_trained_with(folder: Path, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model, tokenizer = FastLanguageModel.from_pretrained(str(folder), load_in_4bit=False)
    tokenizer.chat_template = "{% for message in messages %}<{{ message['content'] }}>{% endfor %}="
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == "<Be brief.><Vowels, please!>="
    trainer = GRPOTrainer(model, vowel_share, toy_options(tmp_path / "run", max_steps=1), toy_rows(4), None, tokenizer)
    trainer.train()
    # groat renders with the template of the run's config; so does the model after training.
    assert Path(str(trainer.config.model.chat_template)).read_text() == tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = TheirTokenizer.from_pretrained(tmp_path / "saved")
    assert saved.apply_chat_template(CHAT, tokenize=False) == "<Be brief.><Vowels, please!>="


def test_greedy_generation_is_that_of_transformers(loaded: tuple[LanguageModel, TextTokenizer], theirs: Any):
    model, tokenizer = loaded
    text = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer([text, "short"], padding=True, return_tensors="pt")
    ours = model.generate(**inputs, max_new_tokens=8, use_cache=True)
    expected = theirs.generate(
        **{name: torch.tensor(value.tolist()) for name, value in inputs.items()},
        max_new_tokens=8,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
    assert ours.tolist() == expected.tolist()
    output = model.fast_generate([text, "short"], SamplingParams(temperature=0, max_tokens=8))
    width = inputs.input_ids.shape[1]
    for one, row in zip(output, expected.tolist(), strict=True):
        ids = one.outputs[0].token_ids
        assert list(ids) == row[width : width + len(ids)]
        assert len(ids) == 8 or ids[-1] == tokenizer.eos_token_id
    assert [one.prompt for one in output] == [text, "short"]
    assert list(output[1].prompt_token_ids) == tokenizer.encode("short")


def test_an_output_has_the_shape_of_vllms(loaded: tuple[LanguageModel, TextTokenizer]):
    model, tokenizer = loaded
    params = SamplingParams(n=3, temperature=1.0, top_p=0.95, top_k=-1, max_tokens=5, seed=3)
    [output] = model.fast_generate("Hello", sampling_params=params, lora_request=None)
    assert [one.index for one in output.outputs] == [0, 1, 2]
    assert output.finished
    for one in output.outputs:
        kept = one.token_ids[:-1] if one.finish_reason == "stop" else one.token_ids
        assert one.text == tokenizer.decode(list(kept), skip_special_tokens=True)
        assert one.finish_reason == ("length" if len(one.token_ids) == 5 else "stop")
        assert one.cumulative_logprob < 0
    assert model.fast_generate(["Hello"], params)[0].outputs == output.outputs
    ids = model.fast_generate([tokenizer.encode("Hello")], params)[0]
    assert (ids.outputs, ids.prompt) == (output.outputs, None)


def test_a_seedless_call_draws_anew_and_the_same_script_draws_the_same(folder: Path):
    params = SamplingParams(temperature=1.0, max_tokens=12)
    drawn = []
    for _ in range(2):
        model, _ = FastLanguageModel.from_pretrained(str(folder), load_in_4bit=False, random_state=5)
        drawn.append([model.fast_generate("Hello", params)[0].outputs[0].token_ids for _ in range(2)])
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]


def test_a_completion_ends_where_max_seq_length_does_whatever_its_neighbours(loaded: tuple[Any, TextTokenizer]):
    model, _ = loaded
    params = SamplingParams(temperature=0, max_tokens=1000, ignore_eos=False)
    long, short = "a" * 120, "b" * 100
    together = model.fast_generate([long, short, long], params)
    alone = [model.fast_generate(text, params)[0] for text in (long, short)]
    ids = [one.outputs[0].token_ids for one in alone]
    assert [one.outputs[0].token_ids for one in together] == [ids[0], ids[1], ids[0]]
    assert (len(ids[0]), alone[0].outputs[0].finish_reason) == (8, "length")
    assert 8 < len(ids[1]) <= 28
    with pytest.raises(UserError, match="prompt 0 has 128 tokens, of 128 that prompt and completion may have"):
        model.fast_generate("a" * 128, params)


def test_stop_strings_end_a_text_before_or_behind_them(loaded: tuple[LanguageModel, TextTokenizer]):
    model, tokenizer = loaded
    whole = model.fast_generate("Hello", SamplingParams(temperature=0, max_tokens=8))[0].outputs[0]
    stop = tokenizer.decode(whole.token_ids[3])
    start = whole.text.index(stop)
    without = model.fast_generate("Hello", SamplingParams(temperature=0, max_tokens=8, stop=stop))[0].outputs[0]
    behind = SamplingParams(temperature=0, max_tokens=8, stop=[stop], include_stop_str_in_output=True)
    assert without.text == whole.text[:start]
    assert model.fast_generate("Hello", behind)[0].outputs[0].text == whole.text[: start + len(stop)]


def test_what_sampling_params_cannot_do_is_refused_by_name():
    with pytest.raises(UserError, match=r"SamplingParams: frequency_penalty is 0\.5: repetition_penalty is"):
        SamplingParams(frequency_penalty=0.5)
    with pytest.raises(TypeError, match="max_token"):
        SamplingParams(max_token=3)  # pyright: ignore


def test_generate_draws_only_where_it_is_asked_to(loaded: tuple[LanguageModel, TextTokenizer]):
    model, tokenizer = loaded
    inputs = tokenizer("Hello", return_tensors="pt")
    greedy = model.generate(**inputs, max_new_tokens=6).tolist()
    assert model.generate(inputs=inputs.input_ids, max_length=11).tolist() == greedy
    assert model.generate(**inputs, max_new_tokens=6, do_sample=False, temperature=2.0).tolist() == greedy
    drawn = model.generate(**inputs, max_new_tokens=6, temperature=1.5, min_p=0.01, num_return_sequences=4)
    assert drawn.shape[0] == 4
    assert len(set(map(tuple, drawn.tolist()))) > 1
    with pytest.raises(UserError, match="generate was given num_beams=2; groat knows do_sample, max_length"):
        model.generate(**inputs, num_beams=2)


def test_a_streamer_is_given_every_token(loaded: tuple[LanguageModel, TextTokenizer], folder: Path, capsys: Any):
    model, tokenizer = loaded
    inputs = tokenizer("Hello", return_tensors="pt")
    streamer = TextStreamer(TheirTokenizer.from_pretrained(folder), skip_prompt=True)
    out = model.generate(**inputs, max_new_tokens=6, streamer=streamer)
    assert capsys.readouterr().out == tokenizer.decode(out[0][5:]) + "\n"


def test_a_trained_model_generates_with_its_adapter_as_peft_does(folder: Path, tmp_path: Path, theirs: Any):
    model = trained(folder, tmp_path / "run").model
    model.save_lora(tmp_path / "lora")
    with_adapter = PeftModel.from_pretrained(theirs, tmp_path / "lora")
    inputs = AutoTokenizer.from_pretrained(folder)("Vowels, please!", return_tensors="pt")
    plain = {name: torch.tensor(value.tolist()) for name, value in inputs.items()}
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 258}
    expected = with_adapter.generate(**plain, **options).tolist()
    assert model.generate(**inputs, **options).tolist() == expected
    with with_adapter.disable_adapter():
        reference = with_adapter.generate(**plain, **options).tolist()
    with_adapter.unload()
    assert expected != reference
    # fast_generate asks for the adapter by name, as Unsloth does.
    params = SamplingParams(temperature=0, max_tokens=12)
    lora = model.load_lora(tmp_path / "lora")
    asked = model.fast_generate("Vowels, please!", params, lora_request=lora)[0]
    assert list(asked.outputs[0].token_ids) == expected[0][15:]
    assert list(model.fast_generate("Vowels, please!", params)[0].outputs[0].token_ids) == reference[0][15:]


def test_a_model_loaded_in_4_bits_is_trained_and_asked_in_4_bits(folder: Path, tmp_path: Path):
    trainer = trained(folder, tmp_path / "run", load_in_4bit=True)
    assert trainer.config.memory.storage == "nf4"
    # The same as a model that is loaded in 4 bits and given the same adapter.
    trainer.save_model(tmp_path / "adapter")
    other, _ = FastLanguageModel.from_pretrained(str(folder), load_in_4bit=True)
    request = other.load_lora(tmp_path / "adapter")
    ids = torch.tensor([list(range(65, 85))])
    drawn = other.fast_generate([ids[0].tolist()], SamplingParams(temperature=0, max_tokens=10), lora_request=request)
    assert trainer.model.generate(ids, max_new_tokens=10)[0][20:].tolist() == list(drawn[0].outputs[0].token_ids)


def test_the_folder_of_an_adapter_names_its_model(folder: Path, tmp_path: Path):
    first = trained(folder, tmp_path / "run").model
    first.save_pretrained(tmp_path / "lora")
    again, tokenizer = FastLanguageModel.from_pretrained(str(tmp_path / "lora"), load_in_4bit=False)
    inputs = tokenizer("Hello", return_tensors="pt")
    assert again.name_or_path == str(folder)
    assert again.generate(**inputs, max_new_tokens=8).tolist() == first.generate(**inputs, max_new_tokens=8).tolist()


def test_weights_are_let_go_of_when_training_begins(folder: Path, tmp_path: Path):
    model, _ = FastLanguageModel.from_pretrained(str(folder), load_in_4bit=False)
    model.fast_generate("Hello", GREEDY)
    held: list[bool] = []

    class Look:
        def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
            held.append(model.holds_weights)

    options = toy_options(tmp_path / "run", max_steps=1)
    trainer = GRPOTrainer(model, vowel_share, options, toy_rows(4), callbacks=[Look()])
    assert model.holds_weights
    trainer.train()
    assert held == [False]
    assert not model.holds_weights
    model.fast_generate("Hello", GREEDY)
    trainer.evaluate(toy_rows(2))
    assert not model.holds_weights


def test_a_script_for_trl_gives_the_trainer_a_model_and_a_peft_config(folder: Path, tmp_path: Path):
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.bfloat16, device_map="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    options = toy_options(tmp_path / "run", max_steps=1)
    lora = LoraConfig(r=4, lora_alpha=8)
    trainer = GRPOTrainer(model, vowel_share, options, toy_rows(4), processing_class=tokenizer, peft_config=lora)
    assert (trainer.config.lora.r, trainer.config.memory.storage) == (4, None)
    trainer.train()
    assert model.is_trained
    # A trainer that is given a name makes the same model for it.
    by_name = toy_trainer(tmp_path, "other", max_steps=1)
    by_name.train()
    assert by_name.model.generate(torch.tensor([[65, 66]]), max_new_tokens=3).shape == (1, 5)


def test_one_adapter_is_described_once_and_trained_once(folder: Path, tmp_path: Path):
    trainer = trained(folder, tmp_path / "run")
    options = toy_options(tmp_path / "again")
    with pytest.raises(UserError, match="the model has a trained adapter already"):
        GRPOTrainer(trainer.model, vowel_share, options, toy_rows(4))
    with pytest.raises(UserError, match="has a trained adapter: to train another one, load the model again"):
        FastLanguageModel.get_peft_model(trainer.model)
    model, _ = FastLanguageModel.from_pretrained(str(folder))
    FastLanguageModel.get_peft_model(model, r=4)
    with pytest.raises(UserError, match="leave one of them out"):
        GRPOTrainer(model, vowel_share, options, toy_rows(4), peft_config=LoraConfig())
    other = TextTokenizer(str(folder))
    other.name_or_path = "x"
    with pytest.raises(UserError, match="the tokenizer of 'x', the model"):
        GRPOTrainer(model, vowel_share, options, toy_rows(4), processing_class=other)


def test_what_is_not_there_to_be_saved_or_sent_is_refused_by_name(loaded: tuple[LanguageModel, Any], tmp_path: Path):
    model, _ = loaded
    with pytest.raises(UserError, match="save_lora needs an adapter"):
        model.save_lora(tmp_path / "a")
    with pytest.raises(UserError, match="save_lora needs an adapter, and this model has none"):
        model.save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match="save_method is 'merged_4bit': groat saves merged_16bit and lora"):
        model.save_pretrained_merged(tmp_path / "a", save_method="merged_4bit")
    with pytest.raises(UserError, match="save_pretrained_gguf: groat does not write GGUF yet"):
        model.save_pretrained_gguf(tmp_path / "a", quantization_method="q4_k_m")
    with pytest.raises(UserError, match="push_to_hub: groat uploads nothing"):
        model.push_to_hub_merged("me/mine", save_method="merged_16bit")
    assert not (tmp_path / "a").exists()


def test_options_are_noted_or_refused_by_name(folder: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "groat"):
        FastLanguageModel.from_pretrained(str(folder), fast_inference=True, gpu_memory_utilization=0.6, dtype=None)
    assert "- gpu_memory_utilization=0.6: groat samples with the weights it trains" in caplog.text
    assert "fast_inference" not in caplog.text
    with pytest.raises(UserError, match="full_finetuning is True: groat trains LoRA adapters"):
        FastLanguageModel.from_pretrained(str(folder), full_finetuning=True)
    with pytest.raises(UserError, match="max_seq_len is no option that groat knows"):
        FastLanguageModel.from_pretrained(str(folder), max_seq_len=5)
    with pytest.raises(UserError, match=r"there is no folder or \.gguf file"):
        FastLanguageModel.from_pretrained("no-such-model")
    model, _ = FastLanguageModel.from_pretrained(str(folder))
    with pytest.raises(UserError, match="target_modules: down_proj"):
        FastLanguageModel.get_peft_model(model, target_modules=["q_proj"])
    with pytest.raises(UserError, match="loftq_config is"):
        FastLanguageModel.get_peft_model(model, loftq_config={"bits": 4})
    with pytest.raises(UserError, match=r"quantization_config is 'x': state GRPOConfig\.budget"):
        AutoModelForCausalLM.from_pretrained(folder, quantization_config="x")
    assert not is_bfloat16_supported()
    assert PatchFastRL("GRPO", FastLanguageModel) is None
    assert FastLanguageModel.for_inference(model) is FastLanguageModel.for_training(model) is model
