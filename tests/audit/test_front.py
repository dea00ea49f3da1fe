"""The whole audit: planted faults are found together, and clean sets, the demo set among them, fail nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robustbench_df.audit.finding import Audit
from robustbench_df.audit.front import audit_images
from robustbench_df.data.demo import demo_set
from robustbench_df.data.imageset import ImageSet, image_set_from_arrays
from robustbench_df.errors import RunError
from robustbench_df.inference import Verdicts, write_forms
from tests.audit.runs import distinct_set, write_run
from tests.conftest import learnable_set


@pytest.fixture(scope="module")
def clean() -> ImageSet:
    pool = distinct_set()
    return image_set_from_arrays(pool.data, pool.labels, given=["train" if k % 5 else "test" for k in range(len(pool))])


def test_the_demo_set_fails_nothing() -> None:
    found = audit_images(demo_set())
    assert found.of("fail") == ()
    assert found.images == 2400
    assert Audit.from_json(found.to_json()).counts() == found.counts()


def test_a_clean_set_fails_nothing_and_every_id_is_its_own(clean: ImageSet) -> None:
    found = audit_images(clean)
    assert found.of("fail") == ()
    ids = [finding.id for finding in found.findings]
    assert len(set(ids)) == len(ids)
    assert {"duplicates-exact", "label-conflicts", "shortcuts-pixels", "shortcuts-classifier", "label-noise"} <= set(
        ids
    )
    assert not any(name.startswith(("run-", "predictions-")) for name in ids)


def test_planted_faults_are_found_in_one_go() -> None:
    pool = learnable_set(1600)
    data, labels = pool.data.copy(), pool.labels.copy()
    data[1200:1220], labels[1200:1220] = data[:20], labels[:20]  # test images that are train images
    flipped = np.random.default_rng(0).choice(np.arange(20, 1200), 48, replace=False)
    labels[flipped] = 1 - labels[flipped]
    labels[1580:1600] = 1 - labels[1560:1580]
    data[1580:1600] = data[1560:1580]  # the same pictures, real and fake
    found = audit_images(image_set_from_arrays(data, labels, given=["train"] * 1200 + ["test"] * 400))
    assert found["duplicates-across-splits"].severity == "fail"
    assert found["duplicates-across-splits"].figures["test_exact"] == 20
    assert found["label-conflicts"].severity == "fail"
    assert found["label-noise"].severity == "warn"
    named = set(found["label-noise"].images)
    assert sum(str(pool.ids[k]) in named for k in [*flipped, *range(1560, 1600)]) >= 45


def test_an_inverted_copy_of_a_set_is_recognised(clean: ImageSet) -> None:
    inverted = image_set_from_arrays(clean.data[:60], 1 - clean.labels[:60], origin="inverted")
    found = audit_images(clean, inverted, fast=True)
    assert found.against == "inverted"
    assert found["label-polarity"].figures["verdict"] == "inverted"
    assert found["duplicates-against"].severity == "fail"


def test_fast_leaves_out_what_fits_a_classifier(clean: ImageSet) -> None:
    said: list[str] = []
    ids = {finding.id for finding in audit_images(clean, fast=True, progress=said.append).findings}
    assert {"duplicates-across-splits", "label-conflicts", "shortcuts-files", "shortcuts-pixels"} <= ids
    assert not ids & {"label-noise", "shortcuts-classifier"}
    assert len(said) >= 3


def test_a_run_and_a_submission_are_looked_at_too(tmp_path: Path) -> None:
    images = learnable_set(240)
    run = write_run(tmp_path / "run", images)
    p = np.where(images.labels == 1, 0.9, 0.2)
    write_forms(Verdicts(tuple(images.ids), p, (p >= 0.5).astype(np.int8)), tmp_path, ("csv",))
    found = audit_images(images, run=run, predictions=tmp_path / "predictions.csv", fast=True)
    assert found["run-copies"].severity == "pass"
    assert found["run-near-copies"].severity == "pass"
    assert found["predictions-polarity"].severity == "pass"
    with pytest.raises(RunError, match="other images"):
        audit_images(learnable_set(240, seed=3), run=run)


def test_unlabelled_images_are_no_reason_to_stop() -> None:
    pool = learnable_set(60)
    found = audit_images(image_set_from_arrays(pool.data, np.full(60, -1)))
    assert found.of("fail") == ()
    assert found["shortcuts-pixels"].severity == "not run"
    assert found["label-noise"].severity == "not run"


def test_the_audit_never_imports_torch() -> None:
    code = (
        "import sys; from robustbench_df.audit.front import audit_images;"
        "from robustbench_df.data.demo import demo_set;"
        "audit_images(demo_set(count=200)); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
