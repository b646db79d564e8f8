"""``pgfleet schedules`` and ``pgfleet events``: what they make, show and refuse, and with which exit code."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pgfleet import firing, schedules
from pgfleet.schedules import Schedule, Trigger
from tests.support.cli import Run, answered
from tests.support.database import Database
from tests.support.fleet import WORKER, Connection, column, register, task, value


@pytest.fixture
def conn(database: Database) -> Connection:
    """A fleet of one worker that serves the type `job`."""
    conn = database.connect()
    register(conn)
    conn.execute("select register_type('job')")
    return conn


def listed(run: Run, *options: str) -> list[dict[str, str]]:
    head, *lines = run("schedules", "list", *options).stdout.splitlines()
    return [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]


def test_a_schedule_is_made_with_all_that_can_be_said_of_it(run: Run, conn: Connection) -> None:
    said = run(
        "schedules", "add", "nightly", "--type", "job", "--data", '{"a": 1}', "--every", "1h", "--fixed-delay",
        "--cron", "0 2 * * *", "--tz", "Europe/Stockholm", "--event", "library.imported", "--at", "2999-01-01T00:00:00+00:00",
        "--after", "10m", "--overlap", "queue", "--catch-up", "all", "--catch-up-limit", "7", "--priority", "5",
        "--max-retries", "3", "--retry-delay", "1m", "--timeout", "90s", "--node", "server-7", "--group", "sync",
        "--description", "By night.", "--user", "4", "--json",
    )  # fmt: skip
    row = answered(said)
    wanted = {
        "put": "created", "storage": "Storage", "type": "job", "data": '{"a": 1}', "overlap": "queue", "catch_up": "all",
        "catch_up_limit": 7, "priority": 5, "max_retries": 3, "retry_delay": 60.0, "timeout": 90.0, "node": "server-7",
        "group": "sync", "description": "By night.", "created_by": 4, "time_zone": "Europe/Stockholm", "enabled": True,
    }  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted
    triggers = [{k: v for k, v in one.items() if k not in ("due_at",)} for one in row["triggers"]]
    at = triggers[4].pop("at")
    assert triggers == [
        {"kind": "interval", "every": 3600.0, "fixed_delay": True},
        {"kind": "cron", "cron": "0 2 * * *"},
        {"kind": "event", "event": "library.imported"},
        {"kind": "once", "at": "2999-01-01T00:00:00+00:00"},
        {"kind": "once", "after": 600.0},
    ]
    assert at < row["triggers"][0]["due_at"]


def test_the_list_tells_how_each_does(run: Run, conn: Connection) -> None:
    assert run("schedules", "add", "hourly", "--type", "job", "--every", "90m").stdout.startswith(
        "Schedule hourly is created, due 2"
    )
    assert run("schedules", "add", "by hand", "--type", "job", "--disabled").stdout == "Schedule by hand is created.\n"
    id = int(run("schedules", "trigger", "by hand").stdout)
    conn.execute("select * from claim_tasks(%s, '{job}', 1)", [WORKER])
    conn.execute("select fail_task(%s, %s, 1, 'broke', 'trace', give_up => true)", [WORKER, id])
    by_hand, hourly = listed(run)
    names = ("name", "enabled", "last_status", "successes", "failures", "storage", "stale")
    assert [by_hand[name] for name in names] == ["by hand", "no", "failure", "0", "1", "Storage", "no"]
    assert [hourly[name] for name in names] == ["hourly", "yes", "", "0", "0", "Storage", "no"]
    assert (hourly["triggers"], hourly["next_due"] != "", by_hand["next_due"]) == ("every 90m", True, "")
    assert [row["name"] for row in listed(run, "--disabled")] == ["by hand"]
    assert [row["name"] for row in listed(run, "--limit", "1", "--offset", "1")] == ["hourly"]
    page = answered(run("schedules", "list", "--json"))
    assert (page["pageSize"], page["totalSize"], page["stopped"]) == (50, 2, False)
    (shown,) = answered(run("schedules", "runs", "by hand", "--json"))["list"]
    assert (shown["id"], shown["status"], shown["error"]) == (id, "failure", "broke")


def test_what_code_no_longer_declares_is_stale(run: Run, conn: Connection) -> None:
    schedules.put_all(conn, [Schedule(name, "job", declared=True) for name in ("kept", "dropped")])
    schedules.declare(conn, WORKER, names=["kept"])
    assert {row["name"]: row["stale"] for row in listed(run)} == {"kept": "no", "dropped": "yes"}
    assert [row["name"] for row in listed(run, "--stale")] == ["dropped"]


def test_a_schedule_of_a_workers_memory_is_shown_and_is_out_of_reach(run: Run, conn: Connection) -> None:
    kept = {"name": "cache", "type": "cache", "enabled": True, "triggers": [{"kind": "interval", "every": 300}]}
    schedules.declare(conn, WORKER, in_memory=[kept])
    (row,) = listed(run)
    assert (row["name"], row["storage"], row["triggers"]) == ("cache", "Memory", "every 5m")
    (shown,) = answered(run("schedules", "show", "cache", "--json"))
    assert (shown["worker"], shown["triggers"]) == (WORKER, kept["triggers"])
    schedules.put(conn, Schedule("a", "job"))
    for options, names in (((), ["a", "cache"]), (("--offset", "1"), ["cache"]), (("--type", "cache"), ["cache"])):
        page = answered(run("schedules", "list", "--json", *options))
        assert [one["name"] for one in page["list"]] == names
        assert page["totalSize"] == (1 if "--type" in options else 2)
    for verb in ("trigger", "disable", "remove", "runs"):
        refused = run("schedules", verb, "cache")
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert 'Schedule "cache" is kept in the memory of a worker' in refused.stderr
        assert WORKER in refused.stderr


def test_add_says_the_same_twice_and_changes_only_where_asked(run: Run, conn: Connection) -> None:
    add = ("schedules", "add", "sync", "--type", "job")
    assert answered(run(*add, "--every", "1h", "--json"))["put"] == "created"
    assert answered(run(*add, "--every", "1h", "--json"))["put"] == "unchanged"
    refused = run(*add, "--every", "2h")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert 'Error: A schedule is called "sync" already, and is another.\nHint: Look at it: pgfleet' in refused.stderr
    assert value(conn, "select extract(epoch from every) from triggers") == 3600
    assert answered(run(*add, "--every", "2h", "--replace", "--json"))["put"] == "changed"
    assert value(conn, "select extract(epoch from every) from triggers") == 7200


def test_data_can_come_from_stdin(run: Run, conn: Connection) -> None:
    row = answered(run("schedules", "add", "x", "--type", "job", "--data", "-", "--json", stdin="line\nline"))
    assert row["data"] == "line\nline"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--type", "nonesuch"], 1, 'Error: Unknown task type "nonesuch".'),
        ([], 2, "Missing option '--type'"),
        (["--type", "job", "--every", "often"], 2, "'often': expected a duration such as"),
        (["--type", "job", "--every", "0s"], 1, "every"),
        (["--type", "job", "--cron", "61 * * * *"], 1, 'Error: Cron expression "61 * * * *" is not valid'),
        (["--type", "job", "--cron", "@hourly", "--tz", "Mars/Olympus"], 1, 'No time zone is called "Mars/Olympus"'),
        (["--type", "job", "--at", "tomorrow"], 2, "'tomorrow' is no time"),
        (["--type", "job", "--fixed-delay"], 2, "--fixed-delay says how --every counts"),
        (["--type", "job", "--node", "n", "--all-nodes"], 2, "exclude each other"),
        (["--type", "job", "--overlap", "pile"], 2, "'pile' is not one of"),
        (["--type", "job", "--user", "type=int"], 2, "Invalid value for '--user'"),
        (["--type", "job", "--user", "-1"], 2, "-1 is not in the range"),
        (["--type", "job", "--user", str(2**63)], 2, "is not in the range"),
        (["--type", "job", "--retry-delay", "400d"], 1, "retry_delay must be from 0 to 365 days"),
        (["--type", "job", "--timeout", "0s"], 1, "timeout must be from 1 millisecond"),
        (["--type", "job", "--group", "\udcff"], 2, 'Error: Not UTF-8: "\\udcff".'),
    ],
)
def test_what_a_schedule_can_not_be_is_refused(
    run: Run, conn: Connection, options: list[str], code: int, said: str
) -> None:
    result = run("schedules", "add", "x", *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert value(conn, "select count(*) from schedules") == 0


@pytest.mark.parametrize("words", [("list",), ("runs", "x")])
def test_a_page_that_no_list_can_have_is_refused(run: Run, conn: Connection, words: tuple[str, ...]) -> None:
    schedules.put(conn, Schedule("x", "job"))
    assert run("schedules", *words, "--offset", str(2**63 - 1)).exit_code == 0
    for option, given in (("--offset", str(2**63)), ("--offset", "-1"), ("--limit", "0"), ("--limit", "ten")):
        result = run("schedules", *words, option, given)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"Invalid value for '{option}'" in result.stderr


def test_a_run_by_hand_is_refused_while_one_is_unfinished(run: Run, conn: Connection) -> None:
    schedules.put(conn, Schedule("sync", "job"))
    id = answered(run("schedules", "trigger", "sync", "--json"))["task_id"]
    assert task(conn, id)["schedule"] == "sync"
    refused = run("schedules", "trigger", "sync")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert 'Error: Schedule "sync" has a run that is not finished.' in refused.stderr
    assert 'pgfleet schedules runs "sync"' in refused.stderr


@pytest.mark.parametrize("verb", ["show", "remove", "enable", "disable", "trigger", "runs"])
def test_an_unknown_schedule_names_the_next_command(run: Run, conn: Connection, verb: str) -> None:
    result = run("schedules", verb, "nonesuch")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        'Error: No schedule is called "nonesuch".\nHint: See which exist: pgfleet schedules list.\n'
    )


def test_several_are_disabled_enabled_and_removed_all_or_none(run: Run, conn: Connection) -> None:
    schedules.put_all(conn, [Schedule(name, "job", (Trigger.on("e"),)) for name in "abc"])
    enabled = "select name from schedules where enabled order by name"
    assert run("schedules", "disable", "a", "b").stdout == "Schedule a is disabled.\nSchedule b is disabled.\n"
    assert column(conn, enabled) == ["c"]
    assert run("schedules", "enable", "a", "nonesuch").exit_code == 1
    assert column(conn, enabled) == ["c"]
    assert answered(run("schedules", "enable", "a", "--json")) == [{"name": "a", "status": "enabled"}]
    assert column(conn, enabled) == ["a", "c"]
    assert run("schedules", "remove", "a", "b").exit_code == 0
    assert column(conn, "select name from schedules") == ["c"]


def test_an_event_makes_its_tasks_with_its_payload(run: Run, conn: Connection) -> None:
    schedules.put(conn, Schedule("import", "job", (Trigger.on("library.imported"),)))
    assert run("events", "emit", "library.imported", "--payload", '{"books": 3}').stdout == "1\n"
    (row,) = schedules.runs(conn, "import").rows
    assert row["data"] == '{"event": {"name": "library.imported", "payload": {"books": 3}}}'
    nobody = run("events", "emit", "elsewhere")
    assert (nobody.exit_code, nobody.stdout) == (0, "0\n")
    assert "No enabled schedule waits for elsewhere." in nobody.stderr
    refused = run("events", "emit", "library.imported", "--payload", "{")
    assert (refused.exit_code, "expected JSON" in refused.stderr) == (2, True)


def test_stop_is_remembered_and_start_brings_the_events_that_were_held(run: Run, conn: Connection) -> None:
    schedules.put(conn, Schedule("import", "job", (Trigger.on("e"), Trigger.once(after=timedelta(0)))))
    assert answered(run("schedules", "stop", "--json")) == {"stopped": True}
    assert firing.fire(conn).tasks == []
    result = run("schedules", "list")
    assert "All firing is stopped. Let it go on: pgfleet schedules start." in result.stderr
    assert answered(run("events", "emit", "e", "--json")) == {"tasks": 0, "held": True}
    assert answered(run("schedules", "start", "--json")) == {"stopped": False, "tasks": 1}
    assert run("schedules", "list").stderr == ""


def test_a_fired_run_is_listed_with_its_due_time(run: Run, conn: Connection) -> None:
    schedules.put(conn, Schedule("soon", "job", (Trigger.once(after=timedelta(0)),)))
    (id,) = firing.fire(conn).tasks
    head, line = run("schedules", "runs", "soon").stdout.splitlines()
    row: dict[str, Any] = dict(zip(head.split("\t"), line.split("\t"), strict=True))
    assert (row["id"], row["status"], row["due_at"] != "") == (str(id), "fresh", True)
    (shown,) = listed(run)
    assert ("(done)" in shown["triggers"], shown["running"]) == (True, "1")
