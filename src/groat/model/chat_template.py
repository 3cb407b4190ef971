"""Chat templates: jinja from a model's files, rendered as transformers renders it, without documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from groat.model.bounded_jinja import BoundedEnvironment, TooMuchError
from groat.types import Message, UserError

PLAIN_TEMPLATE = """\
{% for message in messages -%}
{{ {'system': '', 'user': 'User: ', 'assistant': 'Assistant: '}[message['role']] + message['content'] }}

{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""
"""For models without a template: needs no tokens of its own."""

CHATML_TEMPLATE = """\
{% for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""For models without a template that know ChatML's tokens."""

R1_ZERO_TEMPLATE = """\
{% if messages[0]['role'] != 'system' -%}
A User asks a question, and an Assistant answers it. The Assistant first thinks the question through, step by step, \
and then gives the answer. The thoughts stand between <think> and </think>, the answer stands between <answer> and \
</answer>, like this: <think> thoughts </think> <answer> answer </answer>

{% endif %}{% for message in messages -%}
{{ {'system': '', 'user': 'User: ', 'assistant': 'Assistant: '}[message['role']] + message['content'] }}

{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""
"""For base models: asks in words for thinking before the answer, as DeepSeek-R1-Zero's template does (arXiv:2501.12948,
table 1). A system turn takes the place of its opening."""

TEMPLATES: Mapping[str, str] = {"plain": PLAIN_TEMPLATE, "chatml": CHATML_TEMPLATE, "r1_zero": R1_ZERO_TEMPLATE}
"""By the names that a recipe may give."""

_MOST_SOURCE_CHARACTERS = 2**20


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str, where: str) -> None:
        self.source = source
        self._where = where
        if len(source) > _MOST_SOURCE_CHARACTERS:
            raise UserError(f"{where}: the chat template has {len(source)} characters; it cannot be one.")
        self._environment = BoundedEnvironment()
        try:
            self._template = self._environment.from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError, MemoryError) as error:
            raise UserError(
                f"{where}: the chat template is not valid jinja ({_short(error)}). Correct it, or set "
                "model.chat_template to a file with another one."
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        special_tokens: Mapping[str, str],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = True,
    ) -> str:
        """The conversation as text, up to where the assistant answers, or without that last opening. `tools` are JSON
        schemas of functions."""
        variables = {
            **special_tokens,
            "tools": [dict(tool) for tool in tools] or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._environment.written(self._template, messages=[dict(m) for m in messages], **variables)
        except TooMuchError as error:
            raise UserError(
                f"{self._where}: the chat template {error}, which no chat needs. Use another one."
            ) from error
        except Exception as error:  # a template may fail in any way Python can
            raise UserError(
                f"{self._where}: the chat template refused the chat ({_short(error)}). Its roles were "
                f"{', '.join(m['role'] for m in messages[:8])}: change the prompts, or set model.chat_template."
            ) from error


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
