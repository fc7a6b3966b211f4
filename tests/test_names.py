"""Names are safe on every system, distinct where their texts are, and never leave their folder."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxenbatch.jobs import short_key
from oxenbatch.names import STEM_BYTES, collision_key, inside, safe_stem, slug, stem_for

HOSTILE = [
    "", " ", ".", "..", "...", "-", "-rf", "~root", ".hidden", "a.", "a ", "a. .", "../../etc/passwd",
    "/etc/passwd", "C:\\x", "C:x", "\\\\server\\share", "a/b", "a\\b", "a\0b", "a\nb", "a\tb", "a\x7fb", "a:b",
    "a?b*c", 'a"b<c>|d', "．．／", "a／b", "a＼b", "a：b", "…", "⒈", "℀", "aux", "aux.png", "AUX.tar.gz",
    "con", "Con ", "CON .txt", "nul", "PRN", "com1", "COM¹", "com¹.x", "LPT9", "lpt0", "CONIN$", "ｃｏｎ",
    "metadata.jsonl", "METADATA.JSONL", "ledger.db", "ledger.db-wal", "ledger.db-shm", "run.lock", "x.part",
    "X.PART", ".part", "metadata\u200b.jsonl", "metadata．jsonl", "🎉", "👨\u200d👩\u200d👧", "❤\ufe0f",
    "gnp\u202eexe.png", "a\u2066b", "a\u200bb", "a\ufeffb", "a\u00adb", "\u3164", "\u115f", "a\u034fb", "É",
    "E\u0301", "\u0301", "\u212b", "straße", "STRASSE", "İ", "i\u0307", "ı", "ﬁ", "≮", "<\u0338", "\ud800",
    "a\udfffb", "\ue000", "\uffff", "\U0010ffff", "\u2028", "\u00a0", "x" * 10_000, "é" * 10_000,
    "🎉" * 10_000, "e\u0301" * 10_000, "../" * 10_000, "\u200b" * 10_000, "a" + "\u0301" * 10_000, "a-b",
]  # fmt: skip
TEXT = (
    st.text(st.characters(), max_size=60) | st.sampled_from(HOSTILE) | st.text("a./\\-: ~\u0301\u200b9f", max_size=12)
)


def _is_safe(stem: str) -> bool:
    """The rules of three systems once more, in other words than the module's."""
    windows = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*]')
    plain = unicodedata.normalize("NFKC", stem)
    device = plain.split(".")[0].rstrip(" ").upper()
    devices = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {f"{d}{n}" for d in ("COM", "LPT") for n in range(10)}
    return (
        bool(stem)
        and not windows.search(plain)
        and not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in stem)
        and stem[0] not in ".-~ "
        and stem[-1] not in ". "
        and device not in devices
        and stem == unicodedata.normalize("NFC", stem)
        and not collision_key(stem).startswith(("metadata.jsonl", "ledger.db", "run.lock"))
        and not collision_key(stem).endswith(".part")
    )


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_hostile_id_becomes_a_safe_name(text: str) -> None:
    stem = safe_stem(text)

    assert _is_safe(stem)
    assert len(stem.encode()) <= STEM_BYTES


@given(TEXT)
def test_any_text_becomes_a_safe_name(text: str) -> None:
    assert _is_safe(safe_stem(text))
    assert len(safe_stem(text, 40).encode()) <= 40


@given(st.lists(TEXT, min_size=2, max_size=6, unique=True))
def test_distinct_texts_stay_distinct(texts: list[str]) -> None:
    assert len({safe_stem(text) for text in texts}) == len(texts)


def test_hostile_texts_stay_distinct_from_each_other_and_from_their_own_names() -> None:
    texts = {*HOSTILE, *map(safe_stem, HOSTILE)}

    assert len({safe_stem(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    "text",
    [
        "hero",
        "Hero",
        "row-1",
        "v1.2",
        "a b",
        "shot-20261122",
        "été",
        "日本語",
        "a_b",
        "x" * STEM_BYTES,
        "🎉 party",
        "0001",
    ],
)
def test_a_good_id_is_its_own_name(text: str) -> None:
    assert safe_stem(text) == text


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("../../etc/passwd", "etc-passwd-"),
        ("a/b", "a-b-"),
        ("aux.png", "_aux.png-"),
        ("E\u0301", "É-"),
        ("C:\\x", "C--x-"),
    ],
)
def test_a_changed_id_can_still_be_recognised(text: str, begins: str) -> None:
    assert re.fullmatch(re.escape(begins) + "[0-9a-f]{8}", safe_stem(text))


def test_the_longest_name_with_everything_that_is_put_on_it_fits_a_file_system() -> None:
    for text in HOSTILE:
        for stem in (safe_stem(text), stem_for(None, text, "key")):
            name = f".{stem}-10000.webp.part"
            assert len(name.encode()) <= 255
            assert len(unicodedata.normalize("NFD", name).encode("utf-16-le")) // 2 <= 255  # HFS+ counts these


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A sunset timelapse over the ocean", "a-sunset-timelapse-over-the-ocean"),
        ("A dog's life, 100% real!", "a-dogs-life-100-real"),
        ("  --- ", ""),
        ("🎉🎉", ""),
        ("Éte\u0301", "été"),
        ("नमस्ते दुनिया", "नमस्ते-दुनिया"),
        ("日本語 テスト", "日本語-テスト"),
        ("snake_case/path", "snake-case-path"),
        ("a\u0000b\u202ec", "a-bc"),
        ("word " * 100, "-".join(["word"] * 12)),
        ("x" * 100, "x" * 60),
    ],
)
def test_a_slug_is_the_words_of_the_prompt(prompt: str, expected: str) -> None:
    assert slug(prompt) == expected


@given(TEXT, st.integers(1, 80))
def test_a_slug_is_words_in_lower_case_within_its_limit(text: str, limit: int) -> None:
    found = slug(text, limit)

    assert len(found) <= limit
    assert found == unicodedata.normalize("NFC", found)
    assert all(c == "-" or unicodedata.category(c)[0] in "LMN" for c in found)
    assert not found.startswith("-")
    assert not found.endswith("-")
    assert "--" not in found


@given(TEXT, TEXT)
def test_a_name_made_of_a_prompt_is_safe_and_carries_its_key(prompt: str, key: str) -> None:
    stem = stem_for(None, prompt, key)

    assert _is_safe(stem)
    assert stem.endswith(short_key(key))
    assert len(stem.encode()) <= STEM_BYTES


def test_a_row_is_named_by_its_id_or_else_by_its_prompt_and_key() -> None:
    assert stem_for("hero", "A red cube", "id:hero") == "hero"
    assert stem_for(None, "A red cube", "r1:x#1") == f"a-red-cube-{short_key('r1:x#1')}"
    assert stem_for(None, "", "r1:x#1") == short_key("r1:x#1")


def test_an_id_that_reads_like_a_prompts_name_is_not_taken_for_it() -> None:
    key = next(f"r1:{n}#1" for n in range(99) if not short_key(f"r1:{n}#1").isdigit())
    stem = stem_for(None, "A red cube", key)

    assert stem_for(stem, "", f"id:{stem}") != stem


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hero.png", "hero.PNG"), ("É", "E\u0301"), ("é", "E\u0301"), ("straße", "STRASSE"), ("İ", "i\u0307"),
        ("ı", "I"), ("ſ", "S"), ("ﬁ", "FI"), ("Σ", "ς"), ("K", "\u212a"), ("a\u200bb", "ab"),
        ("\u1fb7", "\u0391\u0342\u0399"),
    ],
)  # fmt: skip
def test_names_that_are_one_file_somewhere_collide(one: str, other: str) -> None:
    assert collision_key(one) == collision_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("a-b", "a_b"), ("e", "é"), ("x²", "x2"), ("ab", "a b"), ("a.png", "a.jpg")]
)
def test_names_that_are_two_files_everywhere_do_not_collide(one: str, other: str) -> None:
    assert collision_key(one) != collision_key(other)


def test_no_spelling_of_a_single_character_escapes_its_collision_key() -> None:
    for char in map(chr, range(0x110000)):
        spellings = {char.upper(), char.lower(), char.title(), char.casefold(), unicodedata.normalize("NFD", char)}
        if spellings != {char}:
            key = collision_key(char)
            assert {collision_key(spelling) for spelling in {*spellings, key}} == {key}, ascii(char)


@given(TEXT)
def test_a_collision_key_does_not_depend_on_normal_form_or_case(text: str) -> None:
    key = collision_key(text)
    for form in ("NFC", "NFD"):
        assert collision_key(unicodedata.normalize(form, text)) == key
    assert collision_key(key) == key
    assert collision_key(text.casefold()) == key


def test_a_stored_name_is_found_inside_the_folder(tmp_path: Path) -> None:
    assert inside(tmp_path, "x.png") == tmp_path / "x.png"
    assert inside(tmp_path, "0001/x.png") == tmp_path / "0001" / "x.png"


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "/etc/passwd", "../x.png", "0001/../../x", "a//b", "a/", "./x", "C:x", "C:\\x",
        "a\\..\\b", "a\0b", "x:y", "\ud800",
    ],
    ids=ascii,
)  # fmt: skip
def test_a_stored_name_that_is_no_name_inside_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside the folder"):
        inside(tmp_path, name)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "batch"
    root.mkdir()
    (root / "0001").symlink_to(tmp_path)
    (root / "x.png").symlink_to(tmp_path / "secret")
    (root / "round").symlink_to(root / "round")
    for name in ("0001/x.png", "x.png", "round/x.png"):
        with pytest.raises(ValueError, match="folder"):
            inside(root, name)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_folder_that_is_reached_through_a_link_works(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    assert inside(tmp_path / "link", "x.png") == tmp_path / "link" / "x.png"


@given(st.lists(TEXT, min_size=1, max_size=3))
def test_no_name_leads_out_of_the_folder(parts: list[str]) -> None:
    root = Path(os.sep) / "nowhere" / "batch"
    try:
        path = inside(root, "/".join(parts))
    except ValueError:
        return
    assert os.path.normpath(path).startswith(f"{root}{os.sep}")


@given(TEXT)
def test_every_name_that_we_give_is_one_that_we_accept(text: str) -> None:
    inside(Path(os.sep) / "nowhere", f"0001/{safe_stem(text)}-2.png")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A train at dawn", "a-trains-at-dawn"),
        ("test", "tests"),
        ("Unit Test, dev; eval", "unit-tests-devs-evals"),
        ("12train 4val2 x", "12trains-4vals2-x"),
        ("trained validations contest", "trained-validations-contest"),
    ],
)
def test_no_word_of_a_prompt_is_taken_for_a_split(text: str, name: str) -> None:
    """`datasets` takes these words between hyphens or digits for splits, and drops files that have none."""
    assert slug(text) == name
