"""Runs ``distillkit`` in forks of one process, which pay for their own work but not for imports.

It reads one job a line, JSON ``{"arguments": [...], "processes": 1, "setup": "..."}``, where
``setup`` is Python code to run when the toy plugin is loaded. It runs ``distillkit`` with the
arguments in that many processes, which know of each other as under torchrun, and answers
``{"codes": [...], "outputs": [...]}``: each process's exit code, negative for a signal, and what
it wrote.
"""

import json
import os
import socket
import sys
import tempfile
import traceback

import datasets  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

import distillkit.runs.evaluate
import distillkit.runs.run  # noqa: F401
from distillkit.cli.main import main


def run_job(job: dict) -> dict:
    """Fork the processes of a job and wait for them."""
    count = job["processes"]
    port = find_free_port()
    outputs = [tempfile.TemporaryFile() for _ in range(count)]  # noqa: SIM115
    children = []
    for rank, output in enumerate(outputs):
        environment = {"FIRST": job["setup"]}
        if count > 1:
            environment |= distributed_environment(rank, count, port)
        pid = os.fork()
        if pid == 0:
            run_child(job["arguments"], environment, output.fileno())
        children.append(pid)
    codes = []
    for pid in children:
        _, status = os.waitpid(pid, 0)
        codes.append(os.waitstatus_to_exitcode(status))
    texts = []
    for output in outputs:
        output.seek(0)
        texts.append(output.read().decode())
        output.close()
    return {"codes": codes, "outputs": texts}


def find_free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def distributed_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def run_child(arguments: list[str], environment: dict[str, str], output: int) -> None:
    """Run ``distillkit`` and end this process."""
    os.environ |= environment
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["distillkit", *arguments]
    code = 0
    try:
        main()
    except SystemExit as e:
        code = e.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: the parent's cleanup is not this process's business.
    os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run_job(json.loads(line))), flush=True)
