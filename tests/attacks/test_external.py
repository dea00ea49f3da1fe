"""External detectors: a function, and a service on this machine that errs in every way a service can."""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robustbench_df.attacks import external
from robustbench_df.attacks.external import external_detector
from robustbench_df.attacks.runner import run_attack
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.errors import ModelError, RdfError, RunError, UsageError
from tests.attacks.detectors import Linear, images, labels_of

X = images(6)
LINEAR = Linear()


def true_p(x: Tensor) -> Tensor:
    with torch.no_grad():
        logits = LINEAR(x)
    return torch.sigmoid(logits[:, 1] - logits[:, 0])


class Service:
    """Answers like ``LINEAR``, unless the next planned reply is something else: a status, bytes, or a function of p."""

    def __init__(self) -> None:
        self.plan: list[object] = []
        self.sizes: list[int] = []

    def reply(self, body: bytes) -> tuple[int, bytes]:
        asked = json.loads(body)
        assert asked["dtype"] == "float32"
        pixels = np.frombuffer(base64.b64decode(asked["data"]), "<f4").reshape(asked["shape"])
        self.sizes.append(len(pixels))
        p = true_p(torch.tensor(pixels)).tolist()
        planned = self.plan.pop(0) if self.plan else None
        if isinstance(planned, int):
            return planned, b"no"
        if isinstance(planned, bytes):
            return 200, planned
        return 200, json.dumps(planned(p) if callable(planned) else {"probability": p}).encode()


@contextmanager
def serving(service: Service) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = service.reply(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/predict"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Service, str]]:
    monkeypatch.setattr(external, "BACKOFF", 0.01)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # must not come between us and this machine
    planned = Service()
    with serving(planned) as address:
        yield planned, address


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable ``mydetector.py`` in the current directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mydetector.py"
    path.write_text(
        "import numpy as np, torch\n"
        "def as_array(x):\n"
        "    assert x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1\n"
        "    return x.mean((1, 2, 3))\n"
        "def as_list(x): return as_array(x).tolist()\n"
        "def as_tensor(x): return torch.tensor(as_array(x), requires_grad=True)[:, None]\n"
        "def broken(x): raise KeyError('weights')\n"
        "def words(x): return ['fake'] * len(x)\n"
        "def logits(x): return [3.5] * len(x)\n"
        "NUMBER = 3\n"
    )
    yield path
    sys.modules.pop("mydetector", None)


def p_of(logits: Tensor) -> Tensor:
    assert logits.shape[1] == 2
    assert not logits.requires_grad
    return torch.softmax(logits, 1)[:, 1]


@pytest.mark.parametrize("name", ["as_array", "as_list", "as_tensor"])
def test_a_function_of_the_current_directory(module: Path, name: str) -> None:
    before = list(sys.path)
    detector = external_detector(f"python:mydetector:{name}")
    assert sys.path == before
    assert torch.allclose(p_of(detector(X)), X.mean((1, 2, 3)), atol=1e-6)
    assert (detector.asked, detector.served) == (6, 0)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("python:mydetector", "python:MODULE:FUNCTION"),
        ("python:nowhere:f", "no module 'nowhere'"),
        ("python:mydetector:absent", "no function 'absent'"),
        ("python:mydetector:NUMBER", "no function 'NUMBER'"),
        ("ftp://host/x", "no address"),
        ("http://", "no address"),
        ("http://host:port/", "no address"),
    ],
)
def test_addresses_that_lead_nowhere(module: Path, address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        external_detector(address)
    assert "\n" not in str(caught.value)


def test_modules_that_fail(module: Path) -> None:
    for text, message in (("import absent_thing", "needs 'absent_thing'"), ("1 / 0", "ZeroDivisionError")):
        module.write_text(text)
        with pytest.raises(ModelError, match=message):
            external_detector("python:mydetector:f")


@pytest.mark.parametrize(
    ("name", "message"), [("broken", "KeyError: 'weights'"), ("words", "else than numbers"), ("logits", "answered 3.5")]
)
def test_functions_that_fail(module: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        external_detector(f"python:mydetector:{name}")(X)


def test_a_service_answers_like_the_detector_behind_it(service: tuple[Service, str]) -> None:
    planned, address = service
    planned.plan = [None, lambda p: p]  # the two forms of an answer
    detector = external_detector(address)
    for _ in range(2):
        assert torch.allclose(p_of(detector(X)), true_p(X), atol=1e-6)
    assert detector(X[:0]).shape == (0, 2)
    assert planned.sizes == [6, 6], "without a log nothing is kept"


@pytest.mark.parametrize("failures", [[500, 500], [429], [503, 500, 429]])
def test_a_busy_service_is_asked_again(service: tuple[Service, str], failures: list[object]) -> None:
    planned, address = service
    planned.plan = list(failures)
    assert torch.allclose(p_of(external_detector(address)(X)), true_p(X), atol=1e-6)
    assert len(planned.sizes) == len(failures) + 1


def test_a_service_that_stays_busy_or_is_not_there_ends_in_one_line(service: tuple[Service, str]) -> None:
    planned, address = service
    planned.plan = [500] * 3
    with pytest.raises(ModelError, match=r"no answer in 3 tries .*HTTP 500") as caught:
        external_detector(address, retries=2)(X)
    assert "\n" not in str(caught.value)
    assert len(planned.sizes) == 3
    with pytest.raises(ModelError, match="no answer in 2 tries"):
        external_detector("http://127.0.0.1:9/predict", retries=1)(X)


def test_a_timeout_counts_as_busy(service: tuple[Service, str]) -> None:
    planned, address = service
    planned.plan = [lambda p: time.sleep(0.5) or p]
    assert torch.allclose(p_of(external_detector(address, timeout=0.2)(X)), true_p(X), atol=1e-6)
    assert len(planned.sizes) == 2


@pytest.mark.parametrize(
    ("planned_reply", "message"),
    [
        (lambda p: p[:-1], r"shape \(5,\) for 6 images"),
        (lambda p: {"probability": [*p, 0.5]}, r"shape \(7,\) for 6 images"),
        (lambda p: [*p[:2], float("nan"), *p[3:]], "NaN for image 2 of 6"),
        (lambda p: [None, *p[1:]], "NaN for image 0 of 6"),
        (lambda p: [*p[:5], 1.5], "1.5, which is no probability"),
        (lambda p: [*p[:5], -0.2], "-0.2, which is no probability"),
        (lambda p: ["fake", *p[1:]], "else than numbers"),
        (lambda p: {"score": p}, "without the key 'probability', only score"),
        (b"<html>", "else than JSON"),
        (404, "refused the images: HTTP 404"),
    ],
)
def test_a_wrong_answer_is_refused_at_once(service: tuple[Service, str], planned_reply, message: str) -> None:
    planned, address = service
    planned.plan = [planned_reply]
    with pytest.raises(ModelError, match=message) as caught:
        external_detector(address)(X)
    assert "\n" not in str(caught.value)
    assert len(planned.sizes) == 1


def test_what_is_in_the_log_is_not_asked_again(service: tuple[Service, str], tmp_path: Path) -> None:
    planned, address = service
    log = tmp_path / "new" / "answers.jsonl"
    first = external_detector(address, log=log)
    before = first(X[:4])
    doubled = first(torch.cat([X[:4], X[4:5], X[4:5]]))
    assert planned.sizes == [4, 1]
    assert (first.asked, first.served) == (5, 5)
    assert torch.equal(doubled[:4], before)
    again = external_detector(address, log=log)
    assert torch.equal(again(X[:4]), before)
    assert planned.sizes == [4, 1]
    assert (again.asked, again.served) == (0, 4)
    other = external_detector(f"{address}?v=2", log=log)
    other(X[:4])
    assert other.asked == 4, "another address is another detector"


def test_a_killed_attack_asks_only_what_is_missing(service: tuple[Service, str], tmp_path: Path) -> None:
    """The service dies in the middle; the log's last line is half-written, as after kill -9."""
    planned, address = service
    log = tmp_path / "answers.jsonl"
    y, spec = labels_of(LINEAR, X), AttackSpec(name="noise", eps=0.05, steps=12)
    whole = run_attack(external_detector(address), X, y, spec)
    needed = sum(planned.sizes)
    planned.sizes.clear()
    planned.plan = [None] * 5 + [404]
    with pytest.raises(ModelError):
        run_attack(external_detector(address, log=log), X, y, spec)
    known = sum(planned.sizes[:5])
    raw = log.read_bytes()
    assert raw.count(b"\n") == known
    log.write_bytes(raw[:-30])
    planned.plan.clear()
    planned.sizes.clear()
    detector = external_detector(address, log=log)
    resumed = run_attack(detector, X, y, spec)
    assert detector.asked == sum(planned.sizes) == needed - (known - 1)
    assert detector.served == known - 1
    assert torch.equal(resumed.x_adv, whole.x_adv)
    assert torch.equal(resumed.logits, whole.logits)
    assert log.read_bytes().count(b"\n") == needed, "the cut line was replaced, not glued to the next"


@pytest.mark.parametrize("line", ["nonsense", '{"image": "00"}', '{"image": "00", "fake": 7}', "[1]"])
def test_a_log_damaged_before_its_end_is_refused(tmp_path: Path, line: str) -> None:
    log = tmp_path / "answers.jsonl"
    log.write_text(f'{{"image": "aa", "fake": 0.5}}\n{line}\n{{"image": "bb", "fake": 0.5}}\n')
    with pytest.raises(RunError, match=r"line 2 of '.*answers\.jsonl'"):
        external_detector("http://127.0.0.1:9/", log=log)


def test_a_log_that_cannot_be_kept_is_refused(module: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        external_detector("python:mydetector:as_list", log=tmp_path)
    detector = external_detector("python:mydetector:as_list", log=tmp_path / "folder" / "answers.jsonl")
    (tmp_path / "folder").write_text("in the way")
    with pytest.raises(RunError, match="cannot be written"):
        detector(X)


def test_requests_keep_the_rate(service: tuple[Service, str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, address = service
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(external.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(external.time, "sleep", sleep)
    detector = external_detector(address, rate=4)
    for _ in range(5):
        detector(X)
    assert sum(slept) == pytest.approx(4 / 4)


def test_the_pause_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(external.time, "sleep", slept.append)
    with pytest.raises(ModelError):
        external_detector("http://127.0.0.1:9/", retries=3)(X)
    assert slept == [0.5, 1.0, 2.0]


def test_large_batches_are_divided(service: tuple[Service, str], monkeypatch: pytest.MonkeyPatch) -> None:
    planned, address = service
    monkeypatch.setattr(external, "MOST_BYTES", 4 * X[0].numel() * 4)
    assert torch.allclose(p_of(external_detector(address)(X)), true_p(X), atol=1e-6)
    assert planned.sizes == [4, 2]


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"rate": -1.0}, {"retries": -1}, {"timeout": 0.0}])
def test_settings_that_make_no_sense(options: dict[str, float]) -> None:
    with pytest.raises(RdfError):
        external_detector("http://127.0.0.1:9/", **options)
