"""Running one program, in a process that is confined by now: as a script, as functions to be called, or as a judge.

The program can change everything in this process. Nothing here is believed by anyone: a script's output and the values
that functions return are answers, and what they are worth is found out elsewhere.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import sys
import threading
import traceback
from types import ModuleType
from typing import IO, Any, NoReturn

import judge
import plain_data

REQUEST = 3
"""The file that the program and what to do with it are read from."""


def run() -> NoReturn:
    """Ends as Python's processes do, but leaves it to the kernel to take them apart, which is ten times as fast."""
    exit_code = 1
    try:
        _run_requested()
        exit_code = 0
    except SystemExit as error:
        exit_code = error.code if isinstance(error.code, int) else error.code is not None
    except BaseException:
        traceback.print_exc()
    try:
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.main_thread():
                thread.join()
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(exit_code & 255)


def _run_requested() -> None:
    random.seed(0)  # the same program gets the same answer
    with os.fdopen(REQUEST, encoding="utf-8", errors="surrogatepass") as file:
        request = json.load(file)
    if request["mode"] == "script":
        _module(request["source"])
    elif request["mode"] == "functions":
        _serve_functions(request["source"])
    else:
        judge.judge(request)


def _serve_functions(source: str) -> None:
    calls, answers = judge.channel()
    try:
        program = _module(source)
    except BaseException as error:
        _say(answers, {"error": _described(error)})
        return
    _say(answers, {"functions": [name for name, value in vars(program).items() if callable(value)]})
    for line in calls:
        _say(answers, _answer(program, json.loads(line)))


def _answer(program: ModuleType, call: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments, keywords = plain_data.decode(call["arguments"])
        value = getattr(program, call["name"])(*arguments, **keywords)
        return {"value": plain_data.encode(value)}
    except BaseException as error:
        return {"error": _described(error)}


def _module(source: str) -> ModuleType:
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    exec(compile(source, "program.py", "exec"), module.__dict__)  # noqa: S102 - in the sandbox
    return module


def _described(error: BaseException) -> tuple[str, str]:
    try:
        return type(error).__name__, str(error)[:300]
    except BaseException:
        return "Exception", "an error that cannot be shown"


def _say(answers: IO[str], message: dict[str, Any]) -> None:
    answers.write(f"{json.dumps(message)}\n")
    answers.flush()
