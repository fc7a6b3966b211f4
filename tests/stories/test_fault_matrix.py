"""Every operation meets every fault that applies to it: how it ends, what it costs, and what the run says.

One batch of four rows (one of them with two samples, so five files), one run of it. A fault strikes twice unless its
cell says otherwise; `times=null` is for ever. Where a list is what breaks, events are silent and one answer is lost,
so that the lists are all there is.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from world import World, rows, scratch, with_file

from oxenbatch.plan import Limits
from oxenbatch.sandbox.mishaps import KINDS
from oxenbatch.wire import InputPlace

STORE, POST, LIST, ONE, HISTORY, EVENTS, FILE = (
    "PUT /repos/file",
    "POST /ai/queue",
    "GET /ai/queue",
    "GET /ai/queue/ID",
    "GET /ai/generations",
    "GET /events",
    "GET /files/ID",
)
OPERATIONS = {
    "store": STORE,
    "post": POST,
    "list": LIST,
    "get": ONE,
    "history": HISTORY,
    "events": EVENTS,
    "file": FILE,
}
Cell = tuple[dict[str, int], int, int, int]


def read(words: str) -> dict[str, Any]:
    """The fault that a cell's words describe: its name, and `option=value` as JSON, else as text."""
    do, *options = words.split("  ", maxsplit=1)[0].split(" ")
    fault: dict[str, Any] = {"do": do, "times": 2}
    for option in options:
        name, _, value = option.partition("=")
        try:
            fault[name] = json.loads(value)
        except ValueError:
            fault[name] = value.replace("_", " ")
    return fault


def play(operation: str, words: str) -> Cell:
    """What one run makes of it, by the ledger and by the hub's own record; nothing is ever paid twice."""
    fault = read(words)
    fault |= {"on": OPERATIONS[operation]} if operation in OPERATIONS else {}
    # Where events are heard, the lists have little to say; and one lost answer has the history looked through.
    beside = (
        [{"do": "silent_events"}, {"do": "lose_answer", "times": 1}] if operation in ("list", "get", "history") else []
    )
    batch = [replace(row, samples=2 if row.number == 2 else 1) for row in rows(4)]
    limits = Limits(concurrency=4, settle_s=20.0, max_outage_s=600.0)
    with scratch() as folder:
        stores: dict[str, Any] = {}
        if operation == "store":
            stores = {"inputs": InputPlace("ox", "refs"), "inputs_root": folder}
            batch = [with_file(row, folder) for row in batch]
        world = World(folder / "out", batch, faults=[fault, *beside], limits=limits, seed="matrix", **stores)
        summary = world.run(within_s=24 * 3600.0)
        assert summary is not None
        assert not world.paid() - world.wanted(), "paid twice"
        world.assert_limits(beside=summary.held)
        world.assert_files()
        if not world.states().keys() & {"held", "uncertain"}:
            world.assert_known()
        attempts = world.query("select max(attempts) from samples")[0][0]
        states = world.states()
        if active := states.pop("queued", 0) + states.pop("processing", 0):  # how far the hub is with it is its affair
            states["active"] = active
        return dict(states), world.posts(), attempts, summary.exit_code


# P: POSTs at the hub; A: attempts used, the most of any row.
# fmt: off
MATRIX = [
    # operation  fault                                               the five files                     P  A  exit
    ("store",     "die",                                               "5 downloaded",                    4, 1, 0),
    ("store",     "lose_answer",                                       "5 downloaded",                    4, 1, 0),
    ("store",     "hang seconds=130",                                  "5 downloaded",                    4, 1, 0),
    ("store",     "rate_limit",                                        "5 downloaded",                    4, 1, 0),
    ("store",     "server_error",                                      "5 downloaded",                    4, 1, 0),
    ("store",     "server_error times=null",                           "5 pending",                       0, 0, 69),
    ("store",     "proxy_page",                                        "5 downloaded",                    4, 1, 0),
    ("store",     "redirect",                                          "5 downloaded",                    4, 1, 0),
    ("store",     "broken_json",                                       "5 downloaded",                    4, 1, 0),
    ("store",     "words status=409",                                  "5 downloaded",                    4, 1, 0),
    ("store",     "words status=422 times=null",                       "5 pending",                       0, 0, 65),
    ("store",     "refuse_key status=403",                             "5 downloaded",                    4, 1, 0),
    ("store",     "refuse_key status=403 times=null",                  "5 pending",                       0, 0, 77),
    ("store",     "no_repository times=null",                          "5 pending",                       0, 0, 65),
    ("store",     "small_store bytes=10 times=null",                   "5 pending",                       0, 0, 65),
    ("post",      "die",                                               "5 downloaded",                    6, 1, 0),
    ("post",      "die landed=true",                                   "5 downloaded",                    4, 1, 0),
    ("post",      "lose_answer",                                       "5 downloaded",                    4, 1, 0),
    ("post",      "hang seconds=10",                                   "5 downloaded",                    6, 1, 0),
    ("post",      "hang landed=true",                                  "5 downloaded",                    4, 1, 0),
    ("post",      "rate_limit",                                        "5 downloaded",                    6, 1, 0),
    ("post",      "rate_limit form=date seconds=60",                   "5 downloaded",                    6, 1, 0),
    ("post",      "rate_limit form=none",                              "5 downloaded",                    6, 1, 0),
    ("post",      "server_error",                                      "5 downloaded",                    6, 1, 0),
    ("post",      "server_error landed=true status=500",               "5 downloaded",                    4, 1, 0),
    ("post",      "server_error html=true status=502",                 "5 downloaded",                    6, 1, 0),
    ("post",      "server_error html=true landed=true status=504",     "5 downloaded",                    4, 1, 0),
    ("post",      "proxy_page",                                        "5 downloaded",                    6, 1, 0),
    ("post",      "proxy_page landed=true status=404",                 "5 downloaded",                    4, 1, 0),
    ("post",      "refuse_key",                                        "4 pending 1 active",              3, 1, 77),
    ("post",      "refuse_key status=403",                             "4 pending 1 active",              3, 1, 77),
    ("post",      "no_credits",                                        "1 downloaded 4 pending",          3, 1, 5),
    ("post",      "no_credits status=400",                             "1 downloaded 4 pending",          3, 1, 5),
    ("post",      "no_credits status=403",                             "1 downloaded 4 pending",          3, 1, 5),
    ("post",      "empty_answer",                                      "2 downloaded 3 failed",           4, 1, 3),
    ("post",      "empty_answer words=Insufficient_credits",           "1 downloaded 4 pending",          3, 1, 5),
    ("post",      "redirect",                                          "5 downloaded",                    6, 1, 0),
    ("post",      "redirect landed=true status=302",                   "5 downloaded",                    4, 1, 0),
    ("post",      "words",                                             "2 downloaded 3 failed",           4, 1, 3),
    ("post",      "words status=409",                                  "5 downloaded",                    6, 1, 0),
    ("post",      "words status=422",                                  "2 downloaded 3 failed",           4, 1, 3),
    ("post",      "words status=503",                                  "5 downloaded",                    6, 1, 0),
    ("post",      "words status=200",                                  "5 downloaded",                    6, 1, 0),
    ("post",      "broken_json",                                       "5 downloaded",                    4, 1, 0),
    ("post",      "too_few",                                           "5 downloaded",                    4, 1, 0),
    ("post",      "too_many",                                          "5 downloaded",                    4, 1, 0),
    ("post",      "not_uuids",                                         "5 downloaded",                    4, 1, 0),
    ("post",      "cut_body",                                          "5 downloaded",                    4, 1, 0),
    ("post",      "cut_body length=false",                             "5 downloaded",                    4, 1, 0),
    ("post",      "stall",                                             "5 downloaded",                    4, 1, 0),
    ("post",      "wrong_length",                                      "5 downloaded",                    4, 1, 0),
    ("post",      "wrong_length by=-20",                               "5 downloaded",                    4, 1, 0),
    ("post",      "no_length",                                         "5 downloaded",                    4, 1, 0),
    ("post",      "empty_body",                                        "5 downloaded",                    4, 1, 0),
    ("post",      "wrong_type",                                        "5 downloaded",                    4, 1, 0),
    ("post",      "slow_answer",                                       "5 downloaded",                    4, 1, 0),
    ("post",      "slow_answer seconds=31",                            "5 downloaded",                    4, 1, 0),
    ("post",      "late_insertion",                                    "5 downloaded",                    4, 1, 0),
    ("post",      "late_insertion seconds=19",                         "5 downloaded",                    4, 1, 0),
    ("post",      "server_error times=null",                           "4 pending 1 uncertain",           21, 1, 69),
    ("list",      "die",                                               "5 downloaded",                    4, 1, 0),
    ("list",      "hang",                                              "5 downloaded",                    4, 1, 0),
    ("list",      "rate_limit",                                        "5 downloaded",                    4, 1, 0),
    ("list",      "rate_limit form=none times=10",                     "5 downloaded",                    4, 1, 0),
    ("list",      "server_error",                                      "5 downloaded",                    4, 1, 0),
    ("list",      "server_error html=true status=502",                 "5 downloaded",                    4, 1, 0),
    ("list",      "proxy_page",                                        "5 downloaded",                    4, 1, 0),
    ("list",      "refuse_key",                                        "5 pending",                       0, 0, 77),
    ("list",      "refuse_key status=403",                             "5 pending",                       0, 0, 77),
    ("list",      "redirect",                                          "5 downloaded",                    4, 1, 0),
    ("list",      "broken_json",                                       "5 downloaded",                    4, 1, 0),
    ("list",      "cut_body",                                          "5 downloaded",                    4, 1, 0),
    ("list",      "cut_body length=false",                             "5 downloaded",                    4, 1, 0),
    ("list",      "stall",                                             "5 downloaded",                    4, 1, 0),
    ("list",      "empty_body",                                        "5 downloaded",                    4, 1, 0),
    ("list",      "wrong_type",                                        "5 downloaded",                    4, 1, 0),
    ("list",      "slow_answer seconds=20",                            "5 downloaded",                    4, 1, 0),
    ("list",      "slow_answer seconds=31",                            "5 downloaded",                    4, 1, 0),
    ("list",      "list_lag seconds=8 times=null",                     "5 downloaded",                    4, 1, 0),
    ("list",      "server_error times=null",                           "5 pending",                       0, 0, 69),
    ("get",       "die",                                               "5 downloaded",                    4, 1, 0),
    ("get",       "hang",                                              "5 downloaded",                    4, 1, 0),
    ("get",       "rate_limit",                                        "5 downloaded",                    4, 1, 0),
    ("get",       "server_error",                                      "5 downloaded",                    4, 1, 0),
    ("get",       "proxy_page status=404",                             "5 downloaded",                    4, 1, 0),
    ("get",       "refuse_key",                                        "5 downloaded",                    4, 1, 0),
    ("get",       "broken_json",                                       "5 downloaded",                    4, 1, 0),
    ("get",       "empty_body",                                        "5 downloaded",                    4, 1, 0),
    ("get",       "slow_answer seconds=20",                            "5 downloaded",                    4, 1, 0),
    ("get",       "unknown_id seconds=30",                             "5 downloaded",                    4, 1, 0),
    ("get",       "unknown_id seconds=500",                            "5 downloaded",                    4, 1, 0),
    ("get",       "forget_ended",                                      "5 downloaded",                    4, 1, 0),
    ("get",       "server_error times=null",                           "5 downloaded",                    4, 1, 0),
    ("history",   "die",                                               "5 downloaded",                    4, 1, 0),
    ("history",   "hang",                                              "5 downloaded",                    4, 1, 0),
    ("history",   "rate_limit",                                        "5 downloaded",                    4, 1, 0),
    ("history",   "server_error",                                      "5 downloaded",                    4, 1, 0),
    ("history",   "proxy_page",                                        "5 downloaded",                    4, 1, 0),
    ("history",   "redirect",                                          "5 downloaded",                    4, 1, 0),
    ("history",   "broken_json",                                       "5 downloaded",                    4, 1, 0),
    ("history",   "cut_body",                                          "5 downloaded",                    4, 1, 0),
    ("history",   "empty_body",                                        "5 downloaded",                    4, 1, 0),
    ("history",   "slow_answer seconds=20",                            "5 downloaded",                    4, 1, 0),
    ("history",   "list_lag seconds=8",                                "5 downloaded",                    4, 1, 0),
    ("history",   "no_echo",                                           "4 downloaded 1 held",             4, 1, 4),
    ("history",   "echo_defaults",                                     "5 downloaded",                    4, 1, 0),
    ("history",   "server_error times=null",                           "4 downloaded 1 uncertain",        4, 1, 69),
    ("history",   "refuse_key",                                        "5 downloaded",                    4, 1, 0),
    ("events",    "die",                                               "5 downloaded",                    4, 1, 0),
    ("events",    "hang",                                              "5 downloaded",                    4, 1, 0),
    ("events",    "rate_limit",                                        "5 downloaded",                    4, 1, 0),
    ("events",    "server_error",                                      "5 downloaded",                    4, 1, 0),
    ("events",    "server_error times=null",                           "5 downloaded",                    4, 1, 0),
    ("events",    "proxy_page",                                        "5 downloaded",                    4, 1, 0),
    ("events",    "refuse_key",                                        "5 downloaded",                    4, 1, 0),
    ("events",    "redirect",                                          "5 downloaded",                    4, 1, 0),
    ("events",    "slow_answer seconds=20",                            "5 downloaded",                    4, 1, 0),
    ("events",    "wrong_type",                                        "5 downloaded",                    4, 1, 0),
    ("events",    "silent_events times=null",                          "5 downloaded",                    4, 1, 0),
    ("events",    "cut_events seconds=1 times=null",                   "5 downloaded",                    4, 1, 0),
    ("events",    "cut_events seconds=10",                             "5 downloaded",                    4, 1, 0),
    ("event",     "lose_event",                                        "5 downloaded",                    4, 1, 0),
    ("event",     "lose_event times=null",                             "5 downloaded",                    4, 1, 0),
    ("file",      "die",                                               "5 downloaded",                    4, 1, 0),
    ("file",      "hang",                                              "5 downloaded",                    4, 1, 0),
    ("file",      "rate_limit",                                        "5 downloaded",                    4, 1, 0),
    ("file",      "server_error",                                      "5 downloaded",                    4, 1, 0),
    ("file",      "server_error times=7",                              "5 downloaded",                    4, 1, 0),
    ("file",      "server_error times=null",                           "5 unfetchable",                   4, 1, 3),
    ("file",      "proxy_page",                                        "5 downloaded",                    4, 1, 0),
    ("file",      "refuse_key",                                        "5 downloaded",                    4, 1, 0),
    ("file",      "refuse_key status=403",                             "5 downloaded",                    4, 1, 0),
    ("file",      "redirect",                                          "5 downloaded",                    4, 1, 0),
    ("file",      "redirect to={base}{path}",                          "5 downloaded",                    4, 1, 0),
    ("file",      "redirect times=null",                               "5 unfetchable",                   4, 1, 3),
    ("file",      "expired_address",                                   "5 downloaded",                    4, 1, 0),
    ("file",      "expired_address times=null",                        "5 unfetchable",                   4, 1, 3),
    ("file",      "cut_body",                                          "5 downloaded",                    4, 1, 0),
    ("file",      "cut_body length=false",                             "5 downloaded",                    4, 1, 0),
    ("file",      "cut_body share=0",                                  "5 downloaded",                    4, 1, 0),
    ("file",      "stall",                                             "5 downloaded",                    4, 1, 0),
    ("file",      "wrong_length",                                      "5 downloaded",                    4, 1, 0),
    ("file",      "wrong_length by=-20",                               "5 downloaded",                    4, 1, 0),
    ("file",      "no_length times=null",                              "5 downloaded",                    4, 1, 0),
    ("file",      "oversize",                                          "5 downloaded",                    4, 1, 0),
    ("file",      "empty_body",                                        "5 downloaded",                    4, 1, 0),
    ("file",      "empty_body times=null",                             "5 unfetchable",                   4, 1, 3),
    ("file",      "wrong_type",                                        "5 downloaded",                    4, 1, 0),
    ("file",      "wrong_type content_type=image/png",                 "5 downloaded",                    4, 1, 0),
    ("file",      "slow_answer seconds=20",                            "5 downloaded",                    4, 1, 0),
    ("file",      "slow_answer seconds=31",                            "5 downloaded",                    4, 1, 0),
    ("file",      "no_range times=null",                               "5 downloaded",                    4, 1, 0),
    ("generation","fail",                                              "5 downloaded",                    6, 2, 0),
    ("generation","fail words=rejected_by_the_content_policy",         "3 downloaded 2 failed",           4, 1, 3),
    ("generation","fail words=insufficient_credits",                   "2 downloaded 3 pending",          3, 1, 5),
    ("generation","fail words=unauthenticated",                        "2 pending 3 active",                3, 1, 77),
    ("generation","cancel",                                            "3 downloaded 2 cancelled",        4, 1, 3),
    ("generation","slow_work factor=20",                               "5 downloaded",                    4, 1, 0),
    ("generation","slow_work factor=200",                              "5 downloaded",                    6, 2, 0),
    ("generation","fail times=null",                                   "5 failed",                        14, 3, 3),
    ("result",    "own_host times=null",                               "5 downloaded",                    4, 1, 0),
    ("result",    "nested_url times=null",                             "5 downloaded",                    4, 1, 0),
]
# fmt: on


@pytest.mark.parametrize(
    ("operation", "words", "files", "posts", "attempts", "code"),
    MATRIX,
    ids=[f"{operation}: {words}" for operation, words, *_ in MATRIX],
)
def test_the_run_ends_as_its_cell_says(
    operation: str, words: str, files: str, posts: int, attempts: int, code: int
) -> None:
    numbers = files.split()[::2]
    states = dict(zip(files.split()[1::2], map(int, numbers), strict=True))

    assert play(operation, words) == (states, posts, attempts, code)


def test_no_kind_of_fault_is_missing_from_the_table() -> None:
    assert {read(words)["do"] for _, words, *_ in MATRIX} == set(KINDS)
