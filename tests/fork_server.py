"""A process that has imported everything and forks a child for each command line it is given: a life costs its work alone.

It reads one JSON job a line, ``{"arguments": [...], "processes": 1, "first": "python to run as the toy plugin is loaded"}``, runs
``distillkit`` with the arguments in so many processes that know of each other as under torchrun, and answers
``{"codes": [...], "said": [...]}``: exit codes, negative for signals, and what each process wrote.
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

import distillkit.runs.run
from distillkit.cli.main import main


def live(job: dict, environment: dict[str, str], output: int) -> None:
    os.environ |= environment | {"FIRST": job["first"]}
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["distillkit", *job["arguments"]]
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
    os._exit(code)


def bear(job: dict) -> dict:
    count = job["processes"]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    files = [tempfile.TemporaryFile() for _ in range(count)]  # noqa: SIM115
    children = []
    for rank, file in enumerate(files):
        environment = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": count,
            "LOCAL_WORLD_SIZE": count,
        }
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        pid = os.fork()
        if pid == 0:
            live(
                job, {k: str(v) for k, v in environment.items()} if count > 1 else {}, file.fileno()
            )
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    said = []
    for file in files:
        file.seek(0)
        said.append(file.read().decode())
        file.close()
    return {"codes": codes, "said": said}


if __name__ == "__main__":
    assert distillkit.runs.run
    for line in sys.stdin:
        print(json.dumps(bear(json.loads(line))), flush=True)
