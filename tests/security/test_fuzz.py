"""The parsers, fed with anything: a short run of what `make fuzz` does for as long as it is told."""

from __future__ import annotations

import json
from pathlib import Path

import fuzz
import pytest
from hostile import UNTRUSTED, png

ID = "0b1c2d3e-0000-4000-8000-000000000001"
ROW = {"generation_id": ID, "status": "succeeded", "result_url": "https://x/y", "cost": "0.04", "enqueued_at": 1.5,
       "model_name": "m", "prompt": "x", "images": [{"url": "https://x/z"}], "error_message": UNTRUSTED}  # fmt: skip
DATA = Path(__file__).parent.parent / "data"
CORPUS: dict[str, list[bytes]] = {
    "manifest": [
        b"\0name: a\nmatrix: {seed: [1, 2]}\nvariables: {p: [a, b]}\nprompts:\n- '{p}'\n- {id: x, prompt: y}\n",
        b'\1id,prompt,seed,meta.x\na,"b\nc",1,2\n',
        b'\2prompt\tseed\n"a"\t1\n"b\tc\n',
        b'\3{"prompt": "x", "seed": 1}\n"y"\n',
        b'\4{"name": "a", "prompts": ["x", {"prompt": "y", "samples": 2}]}',
        b"\5a red cube\r\na blue one\n",
        b"\0- {prompt: x, a: &a [*a]}\n- !!python/name:os.system x\n",
    ],
    "hub_json": [
        json.dumps({"generations": [ROW, ROW], "count": 2, "page_number": 1, "total_pages": 3}).encode(),
        json.dumps({"error": {"type": "x", "title": UNTRUSTED, "detail": "Insufficient credits"}}).encode(),
        json.dumps({"status": "error", "status_message": "unauthenticated"}).encode(),
        b'{"generations": [], "error": "invalid \\ud800"}',
        b'{"generations": [{"generation_id": NaN, "cost": 1e999, "enqueued_at": 1e400}]}',
    ],
    "events": [
        b"\x80event: media_generation_completed\ndata: " + json.dumps(ROW | {"url": "https://x/y"}).encode() + b"\n\n",
        b"\x40: keep-alive\r\n\r\nevent: media_generation_completed\rdata: {}\r\r",
        b"\x20id: 1\n\nevent: other\ndata: a\xe2\x80\xa8b\n\n",
        b"\x10data: \xf0\x9f\x98\x80\n\n\xef\xbb\xbfdata: x\n\n",
    ],
    "name": [
        *(text.encode() for text in ("../../x", "É CON.txt", "nul .", "\u202e👨\u200d👩", "a" * 300, "ledger.db")),
        b"\xff\xfe\x00",
    ],
    "media": [png(), png(64, 64), (DATA / "x264-fragmented.mp4").read_bytes()[:4000],
              b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\1D\0;", b"\xff\xd8\xff\xda\0\2\0\xff\xd9",
              b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0/\0\0\0\0" + bytes(9), b"\x1a\x45\xdf\xa3\x80", b"II*\0"],
    "address": [b"https://user:word@[::1]:443/a?b#c", b"//evil.example", b"Fri, 31 Dec 9999 23:59:59 GMT", b"999999999",
                "https://①②⑦.⓪.⓪.①/".encode(), b"https://\xff/"],
}  # fmt: skip


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_whatever_a_parser_is_fed_with_it_answers_or_refuses(target: str) -> None:
    for seed in CORPUS[target]:
        fuzz.TARGETS[target](seed)
        for cut in range(min(len(seed), 200)):
            fuzz.TARGETS[target](seed[:cut])

    fuzz.with_hypothesis(fuzz.TARGETS[target], CORPUS[target], 150)
