"""What the sandbox's own process runs: build the box unless bubblewrap has, then start programs when told to.

Run by path with nothing but the standard library: python -s -S -P path/to/inside SETTINGS
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

import files
import kernel
import namespaces
import program
import zygote
from seccomp import seccomp_filter


def main() -> None:
    """SETTINGS is JSON: file numbers of the socket to the trainer and of an open /proc; folders to show, null where
    the box is there already; folders to import from."""
    settings = json.loads(sys.argv[1])
    control, proc = files.keep_only(settings["control"], settings["proc"])
    trainer = socket.socket(fileno=control)
    is_root = os.geteuid() == 0
    try:
        if settings["readable"] is not None:
            namespaces.enter_box(settings["readable"], proc)
        if is_root:
            zygote.become_nobody()
        kernel.die_with_parent(signal.SIGKILL)
        seccomp_filter()  # made once, for all programs
        zygote.prove_confinement(proc)
    except OSError as error:
        trainer.send(json.dumps({"refused": str(error)}).encode())
        os._exit(1)
    sys.path[:] = [*sys.path[1:], *settings["packages"]]
    zygote.serve(trainer, proc)
    program.run()


main()
