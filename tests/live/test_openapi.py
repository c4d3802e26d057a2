"""The running daemon against its own openapi.json: schemathesis calls every operation, with what the schema allows and
with what it forbids, and checks that each answer is one that the schema announces.

Needs $DISTILLD_BIN (the built daemon); skips without it.  The daemon runs on a free port with a data directory of its
own, a small data set, a model trained in it and one finished run, so that successes are met as well as refusals.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

BINARY = os.environ.get("DISTILLD_BIN")
pytestmark = pytest.mark.skipif(not BINARY, reason="DISTILLD_BIN is not set")

EXAMPLES = int(os.environ.get("DISTILLD_OPENAPI_EXAMPLES", "12"))
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,missing_required_header,unsupported_method,"
    "allow_header_conformance"
)
TEACHER = {
    "task": "finetune", "dataset": "topics", "layers": 1, "heads": 2, "hidden_size": 16, "intermediate_size": 32,
    "epochs": 2, "batch_size": 16, "max_length": 16, "vocab_size": 200, "save_as": "teacher", "name": "teacher",
}


class Daemon:
    def __init__(self, data_dir):
        self.process = subprocess.Popen(
            [BINARY, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(data_dir), "--workers", "1",
             "--model-root", str(data_dir)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        self.output = ""
        self.url = None
        threading.Thread(target=self._read, daemon=True).start()
        self._wait(lambda: self.url and self.get("/readyz"), "the daemon to be ready")

    def _read(self):
        for line in self.process.stdout:
            self.output += line
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found and self.url is None:
                self.url = found[0]

    def _wait(self, condition, what, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the daemon ended:\n{self.output}"
            try:
                if condition():
                    return
            except urllib.error.URLError:
                pass
            time.sleep(0.05)
        pytest.fail(f"waited {seconds} s for {what}\n{self.output}")

    def call(self, path, data=None, headers=None):
        request = urllib.request.Request(self.url + path, data=data, headers=headers or {})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def get(self, path):
        return self.call(path)

    def post(self, path, body):
        return self.call(path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def upload(self, name, text):
        part = '--bb\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
        form = part.format("name", "", name) + part.format("train", '; filename="t.tsv"', text) + "--bb--\r\n"
        return self.call("/api/v1/datasets", form.encode(), {"Content-Type": "multipart/form-data; boundary=bb"})

    def finished(self, number):
        def done():
            status = self.get(f"/api/v1/experiments/{number}")["status"]
            assert status not in ("failed", "cancelled"), self.output
            return status == "finished"
        self._wait(done, f"experiment {number}")

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    running = Daemon(tmp_path_factory.mktemp("openapi"))
    rows = "".join(f"word{i % 7} common{i % 3} 中文\t{'ab'[i % 2]}\n" for i in range(80))
    running.upload("topics", rows)
    first = running.post("/api/v1/experiments", TEACHER)
    running.finished(first["id"])
    second = running.post("/api/v1/experiments", {"dataset": "topics", "teacher": "teacher", "layers": 1, "heads": 2,
                                                  "epochs": 1, "batch_size": 16, "max_length": 16})
    running.finished(second["id"])
    yield running
    code = running.stop()
    assert code == 0, f"exit {code}\n{running.output[-4000:]}"


def test_the_document_is_valid(daemon):
    validator = pytest.importorskip("jsonschema_rs")
    document = daemon.get("/api/v1/openapi.json")
    for name, schema in document["components"]["schemas"].items():
        assert validator.meta.is_valid(schema), name
    assert "/api/v1/experiments" in document["paths"]
    assert "/api/v1/experiments/{id}/epochs/{epoch}/report" in document["paths"]


def test_schemathesis(daemon, tmp_path):
    tool = shutil.which("schemathesis", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if tool is None:
        pytest.skip("schemathesis is not installed")
    done = subprocess.run(
        [tool, "run", f"{daemon.url}/api/v1/openapi.json", "--checks", CHECKS, "--max-examples", str(EXAMPLES),
         "--seed", "1", "--phases", "examples,coverage,fuzzing", "--exclude-path-regex", "/events$",
         "--request-timeout", "60", "--continue-on-failure", "--suppress-health-check", "all", "--no-color"],
        cwd=tmp_path, capture_output=True, text=True, timeout=1500)
    assert daemon.process.poll() is None, f"the daemon died:\n{daemon.output[-4000:]}"
    assert done.returncode == 0, done.stdout[-30000:] + done.stderr[-2000:]
