"""Names of files from ids, prompts, templates, metadata and the hub: inside their folder, distinct, and portable."""

from __future__ import annotations

import itertools
import random
import re
import unicodedata
from typing import TYPE_CHECKING

import pytest
from hostile import OBEYED, Desk, Hub, png, reply
from ledgers import MODEL, Book

from oxenbatch.jobs import Row
from oxenbatch.names import inside, safe_stem, stem_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANY = 50_000
LONGEST = 200  # bytes of a name with everything that may be put behind its stem
BEHIND = "-10000.webp.part"
HOSTILE: dict[str, str] = {
    "traversal": "../../etc/passwd",
    "traversal on Windows": "..\\..\\boot.ini",
    "up": "..",
    "here": ".",
    "dots": "...",
    "absolute": "/etc/passwd",
    "home": "~/.ssh/id_rsa",
    "UNC": "\\\\server\\share\\x",
    "a drive": "C:\\x",
    "a drive's own folder": "C:x",
    "a stream": "x::$DATA",
    "NUL": "a\0b",
    "a line": "a\nb",
    "a return": "a\rb",
    "an escape": "\x1b[2Ja",
    "a C1 control": "\x9b31ma",
    "bidi": "gnp.\u202eexe",
    "isolates": "\u2066a\u2069",
    "zero width": "a\u200b\u200d\ufeffb",
    "a soft hyphen": "a\u00adb",
    "a tag character": "a\U000e0041b",
    "half a character": "a\ud800b",
    "not a character": "a\uffffb",
    "private use": "a\ue000b",
    "256 bytes": "a" * 256,
    "256 wide bytes": "😀" * 64,
    "4096 bytes": "/".join("a" * 20 for _ in range(200)),
    "a dash": "-rf",
    "a flag": "--help",
    "a dot file": ".bashrc",
    "a space": " a ",
    "a final dot": "a.",
    "a wildcard": "*?",
    "a pipe": "a|b",
    "a quote": "a\"'b",
    "a dollar": "$(touch pwned)",
    "a backtick": "`touch pwned`",
    "a semicolon": "a; touch pwned",
    "a percent": "%2e%2e%2f",
    "CON": "CON",
    "con.txt": "con.txt",
    "COM1": "com1",
    "COM¹": "COM¹",
    "NUL with a space": "nul .x",
    "LPT9": "LPT9.tar.gz",
    "the ledger": "ledger.db",
    "its log": "ledger.db-wal",
    "the view": "metadata.jsonl",
    "the lock": "RUN.LOCK",
    "the reserve": ".reserve",
    "a part": "x.part",
    "full width slash": "a／b",
    "division slash": "a∕b",
    "one dot leader": "․․/x",
    "combining marks": "a" + "\u0301" * 300,
    "only marks": "\u0301\u0302",
    "an emoji family": "👨‍👩‍👧‍👦" * 20,
    "nothing": "",
    "blank": "   ",
    "Arabic": "مرحبا",
    "Thai": "สวัสดีชาวโลก",
    "a variation": "a\ufe0fb",
    "an HTML tag": "<img src=x onerror=alert(1)>",
    "a formula": "=cmd|'/C calc'!A0",
}


def folded(name: str) -> str:
    """What a file system that ignores case and normal forms takes the name for."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def check(name: str, root: Path) -> None:
    """The name is one safe part of a path."""
    folder, _, name = name.rpartition("/")  # a thousand files and more are spread over folders of ours
    assert re.fullmatch(r"(\d{4,})?", folder)
    whole = name + BEHIND
    assert len(whole.encode()) <= LONGEST, name
    assert inside(root, whole).parent == root
    assert not set(name) & set('/\\:*?"<>|\0'), name
    assert not OBEYED.search(name), name
    assert name == unicodedata.normalize("NFC", name)
    assert name[0] not in "-.~ ", name
    assert name[-1] not in ". ", name
    assert not re.match(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", unicodedata.normalize("NFKC", name), re.IGNORECASE), (
        name
    )
    assert not name.casefold().startswith(("metadata.jsonl", "ledger.db", "run.lock")), name
    assert not name.casefold().endswith(".part"), name


@pytest.mark.parametrize("what", HOSTILE)
def test_an_id_becomes_one_safe_part_of_a_path(tmp_path: Path, what: str) -> None:
    check(safe_stem(HOSTILE[what]), tmp_path)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_prompt_becomes_one_safe_part_of_a_path(tmp_path: Path, what: str) -> None:
    check(stem_for(None, HOSTILE[what], "r1:" + "3f9c2a1b" * 8), tmp_path)


def hostile_rows(count: int) -> Iterator[Row]:
    """Rows whose ids and prompts are made to meet: twins by case, by normal form, by what cannot be seen."""
    dice = random.Random(7)
    seeds = [text for text in HOSTILE.values() if text.strip() and "\ud800" not in text and "\0" not in text]
    letters = ["é", "e\u0301", "É", "ß", "ss", "SS", "ſ", "ı", "i", "I", "İ", "K", "K", "Å", "Å", "a", "A", "ﬁ", "fi",
               "\u200b", ".", "-", " ", "/", "\\", "😀", "\u202e", "\u0301", "ά", "ᾴ", "Σ", "ς", "σ"]  # fmt: skip
    seen: set[str] = set()
    for number in itertools.count(1):
        text = "".join(dice.choices(letters, k=dice.randint(1, 6)))
        text = text if dice.random() < 0.6 else dice.choice(seeds) + text
        given = dice.random() < 0.7 and text.strip() and text not in seen
        seen.add(text)
        parameters = {"prompt": text if text.strip() else "x"}
        yield Row(model=MODEL, parameters=parameters, id=text if given else None, number=number, samples=1 + number % 2)
        if number == count:
            return


def names_given(path: Path, rows: list[Row]) -> dict[tuple[str, int], str]:
    """The name of each sample, by its job's key and its number."""
    book = Book(path)
    try:
        book.stage(*rows)
        query = "select j.key, s.number, s.name from samples s join jobs j on j.id = s.job_id"
        return {(key, number): name for key, number, name in book.all(query)}
    finally:
        book.close()


def test_50000_hostile_names_are_inside_distinct_short_and_stable(tmp_path: Path) -> None:
    rows = list(hostile_rows(MANY * 2 // 3 + 10))

    names = names_given(tmp_path / "one.db", rows)

    assert len(names) >= MANY
    assert len({folded(name) for name in names.values()}) == len(names)
    for name in names.values():
        check(name, tmp_path)
    assert names_given(tmp_path / "two.db", rows) == names


def test_a_manifest_that_grows_changes_no_name(tmp_path: Path) -> None:
    rows = list(hostile_rows(2_000))
    book = Book(tmp_path / "ledger.db")
    query = "select j.key, s.number, s.name from samples s join jobs j on j.id = s.job_id"

    book.stage(*rows[::2], fingerprint="a")
    before = set(book.all(query))
    book.stage(*reversed(rows), fingerprint="b")

    assert before <= set(book.all(query))
    book.close()


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "", "a\\b", "a:b", "a\0b", "a\nb", "\ud800"]
)
def test_a_stored_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="folder"):
        inside(tmp_path, name)


def test_names_from_every_source_come_to_lie_in_the_folder(tmp_path: Path) -> None:
    """Ids, prompts, template values and metadata of a real run; and a hub that names its files as it likes."""
    with Hub() as hub:
        desk = Desk(tmp_path, hub)
        hub.lies["GET /files/ID"] = reply(
            png(), kind="image/png", content_disposition="attachment; filename=/etc/passwd", location="/etc/passwd"
        )
        rows = (
            "variables: {up: ['../../up', '/abs', 'CON', '-rf', '\"\"', '\\\\x']}\n"
            "prompts:\n- {id: '../../evil', prompt: a}\n- {id: CON, prompt: b}\n- {id: con, prompt: b2}\n"
            "- {id: '.bashrc', prompt: c}\n- {id: 'x/{up}', prompt: '{up}', metadata: {name: '../../{up}'}}\n"
            "- '../../{up}'\n- {id: 'É', prompt: d}\n- {id: \"E\\u0301\", prompt: e}\n"
        )

        done = desk.run(rows=rows, name="m.yaml")

        assert done.code == 0, done.said
        results = desk.results()
        assert len(results) == 6 + 6 + 6
        assert {path.parent for path in results} == {tmp_path / "out/m"}
        for path in results:
            check(path.stem, tmp_path / "out/m")
        assert len({folded(path.name) for path in results}) == len(results)
