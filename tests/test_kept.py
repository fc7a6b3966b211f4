"""What is kept on disk: the catalogue's copy, whole or not at all, and the lock beside a manifest."""

from __future__ import annotations

import copy
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from oxenbatch import kept
from oxenbatch.access import Access, age_in_words
from oxenbatch.catalog import Catalog
from oxenbatch.catalog.lock import Lock
from oxenbatch.errors import ManifestError
from oxenbatch.sandbox.models import CATALOGUE

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "kling-video-v2-6-pro-text-to-video"
ENTRIES: list[dict[str, Any]] = [model.shown() for model in CATALOGUE.values()]
HUB = "https://hub.oxen.ai:443"


def catalog(entries: list[dict[str, Any]] = ENTRIES) -> Catalog:
    return Catalog.from_answer({"data": entries})


def changed(change: Any) -> Catalog:
    """The catalogue after a change of the model's entry."""
    entries = copy.deepcopy(ENTRIES)
    entry = next(one for one in entries if one["id"] == MODEL)
    change(entry)
    return catalog(entries)


def test_a_copy_that_cannot_be_written_leaves_the_one_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kept.save(tmp_path, HUB, {"data": ENTRIES}, now=1.0)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        kept.save(tmp_path, HUB, {"data": []}, now=2.0)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_an_empty_copy_is_none(tmp_path: Path) -> None:
    kept.save(tmp_path, HUB, {"data": []})
    assert kept.load_cached(tmp_path, HUB) is None


def test_each_hub_has_its_own_copy_and_the_stand_in_one_for_each_version() -> None:
    accesses = [Access(HUB, None), Access("http://127.0.0.1:8123", None), Access("http://127.0.0.1:8124", None),
                Access("http://127.0.0.1:8125", None, rehearsal=True), Access("", None, rehearsal=True)]  # fmt: skip
    names = [access.kept_as for access in accesses]
    assert len(set(names)) == 4
    assert names[3] == names[4]
    assert accesses[1].name == accesses[3].name == accesses[4].name


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "just now"), (61, "1 minute ago"), (7300, "2 hours ago"), (90_000, "1 day ago"), (-50, "just now")],
)
def test_an_age_is_told_in_words(seconds: float, words: str) -> None:
    import time

    assert age_in_words(Catalog((), fetched_at=time.time() - seconds)) == words


def test_a_lock_comes_back_as_it_was_written(tmp_path: Path) -> None:
    lock = Lock.of(catalog(), [MODEL, "unknown"], hub=HUB, at="2026-11-22T00:00:00+00:00")
    manifest = tmp_path / "m.yaml"
    assert kept.read_lock(manifest) is None
    path = kept.write_lock(manifest, lock)
    assert path == tmp_path / "m.yaml.lock"
    assert kept.read_lock(manifest) == lock
    assert list(lock.models) == [MODEL]
    assert list(lock.changes(catalog())) == []
    assert [model.id for model in lock.catalog()] == [MODEL]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2, "models": {}}', '{"version": 1}', "\x00"])
def test_a_lock_that_cannot_be_used_says_how_to_mend_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.yaml.lock").write_text(text)
    with pytest.raises(ManifestError, match="check --lock"):
        kept.read_lock(tmp_path / "m.yaml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e["pricing"].update(cost_per_second=0.08), "pricing.cost_per_second was 0.07 and is 0.08"),
        (lambda e: e["pricing"].update(method="per_image"), "pricing.method was 'per_video_output_second' and is"),
        (lambda e: e["request_schema"]["properties"].pop("cfg_scale"), "parameters.cfg_scale is gone"),
        (lambda e: e["request_schema"]["properties"].update(title={}), "parameters.title is new"),
        (lambda e: e["request_schema"]["properties"]["duration"].update(enum=[5, 10, 15]),
         "parameters.duration.enum was [5, 10] and is [5, 10, 15]"),
        (lambda e: e["request_schema"].update(required=["prompt", "seed"]), "parameters.required was ['prompt']"),
        (lambda e: e.update(request_schema=None), "parameters was"),
    ],
)  # fmt: skip
def test_another_price_or_parameter_is_named(change: Any, words: str) -> None:
    lock = Lock.of(catalog(), [MODEL], hub=HUB, at="then")
    ((model, told),) = lock.changes(changed(change))
    assert model == MODEL
    assert told.startswith(words.replace("'prompt'", '"prompt"'))


def test_a_label_is_no_change() -> None:
    def relabel(entry: dict[str, Any]) -> None:
        entry["summary"] = "better"
        entry["request_schema"]["properties"]["duration"] |= {"title": "Length", "x-order": 9, "description": "in s"}

    assert list(Lock.of(catalog(), [MODEL], hub=HUB, at="then").changes(changed(relabel))) == []


def test_a_locked_run_is_refused_without_its_lock_with_another_hub_s_and_with_a_model_too_many() -> None:
    lock = Lock.of(catalog(), [MODEL], hub=HUB, at="then")
    assert kept.broken(lock, catalog(), HUB, "m.yaml") == []
    assert "has no lock" in str(kept.broken(None, catalog(), HUB, "m.yaml")[0])
    assert "was locked for" in str(kept.broken(lock, catalog(), "stand-in on this machine", "m.yaml")[0])
    gone = catalog([entry for entry in ENTRIES if entry["id"] != MODEL])
    assert "is not in the hub's catalogue any more" in str(kept.broken(lock, gone, HUB, "m.yaml")[0])
    assert [one.field for one in kept.unlocked(lock, [MODEL, "b"], "m.yaml")] == ["b"]


def test_a_lock_is_read_a_line_at_a_time_by_version_control() -> None:
    text = Lock.of(catalog(), [MODEL], hub=HUB, at="then").to_json()
    assert json.loads(text)["models"][MODEL]["pricing"]["cost_per_second"] == 0.07
    assert max(map(len, text.splitlines())) < 120
