"""Runs the AWS CLI again and again, for walk_test.go.

A call of the CLI spends more than a third of its second on imports. This process has done them, and is forked for each
call: what runs then is the CLI's own main, with arguments, environment, directory and files as if it had been started.

One line of JSON in, {"args": [...], "env": {...}, "dir": path, "out": path, "err": path}; one line out, the exit status.
"""
import importlib
import json
import os
import sys

import awscli.clidriver

for late in ("client", "httpsession"):  # version 2 has a botocore of its own
    importlib.import_module(("awscli." if "awscli.botocore" in sys.modules else "") + "botocore." + late)

KEPT = {"AWS_DATA_PATH": os.environ["AWS_DATA_PATH"]}  # where the import has found the CLI's own models


def call(request):
    os.chdir(request["dir"])
    os.environ.clear()
    os.environ.update(request["env"], **KEPT)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for fd, path in ((1, request["out"]), (2, request["err"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, fd)
        os.close(file)
    sys.argv = ["aws"] + request["args"]
    status = 1
    try:
        status = awscli.clidriver.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def serve():
    print("ready", flush=True)
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            call(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


serve()
