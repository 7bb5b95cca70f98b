"""Guards of the apply script, the append function, the loop and the drain, each with what is left when it is gone."""

from __future__ import annotations

from typing import Final, NamedTuple

APPLY: Final = "projections/apply.lua"
APPEND: Final = "commands/sql/append_events.sql"
LOOP: Final = "projections/catch_up.py"
DRAIN: Final = "projections/drain.py"

# The tests that must notice, those that are quick first; pytest stops at the first that fails.
TESTS: Final = {
    APPLY: ("tests/projections/test_apply.py", "tests/projections/test_catch_up.py"),
    APPEND: (
        "tests/commands/test_append.py",
        "tests/commands/test_lock_first.py",
        "tests/commands/test_answers.py",
        "tests/commands/test_erasure.py",
        "tests/commands/test_following_limit.py",
        "tests/commands/test_committer.py",
        "tests/commands/test_interleavings.py",
    ),
    LOOP: (
        "tests/projections/test_catch_up.py",
        "tests/projections/test_parking.py",
        "tests/projections/test_catch_up_faults.py",
        "tests/projections/test_unparking.py",
        "tests/projections/test_drain.py",
        "tests/projections/test_building.py",
    ),
    DRAIN: ("tests/projections/test_drain.py",),
}


class Mutant(NamedTuple):
    """A change of one place in one file, by which one guard goes."""

    file: str
    guard: str
    old: str
    new: str


_LOST = """            if checkpoint is None:
                raise ViewLost(f"lane {lane} of generation {self.view.generation} is lost")
            self._times"""

MUTANTS: Final = (
    Mutant(APPLY, "LOST", "if not at[1] then", "if false then"),
    Mutant(APPLY, "FENCED", "if tonumber(argv[3]) < tonumber(at[2]) then", "if false then"),
    Mutant(APPLY, "FOREIGN", "if argv[4] ~= at[3] then", "if false then"),
    Mutant(APPLY, "HELD", "if at[4] then", "if false then"),
    Mutant(APPLY, "a hold ends at its deadline", "> now[1] * 1000 + math.floor(now[2] / 1000) then", "> 0 then"),
    Mutant(APPLY, "AHEAD", "if position > expected then", "if false then"),
    Mutant(APPLY, "REWOUND", "if position < expected then", "if false then"),
    Mutant(APPLY, "a name of another's is not deleted", "if call('GET', key) == arguments[1] then", "if true then"),
    Mutant(APPLY, "the position is written", "'position', argv[2], 'fence'", "'fence'"),
    Mutant(APPLY, "the fence is written", ", 'fence', argv[3])", ")"),
    Mutant(APPLY, "no time is noted where there is none", "if argv[5] ~= '0' then", "if true then"),
    Mutant(
        APPLY,
        "the position is written last",
        "for k, operation in",
        "call('HSET', keys[1], 'position', argv[2])\nfor k, operation in",
    ),
    Mutant(APPEND, "the lock", "    PERFORM pg_advisory_xact_lock(log_lock());\n    base", "    base"),
    Mutant(
        APPEND,
        "the lock comes before the time",
        "    PERFORM pg_advisory_xact_lock(log_lock());\n    base := next_recorded_at();",
        "    base := next_recorded_at();\n    PERFORM pg_advisory_xact_lock(log_lock());",
    ),
    Mutant(APPEND, "times rise after the last event's", "base := next_recorded_at();", "base := clock_timestamp();"),
    Mutant(
        APPEND,
        "times rise within a batch",
        "base + (o.ord - 1) * interval '1 microsecond', o.data, o.command_id",
        "base, o.data, o.command_id",
    ),
    Mutant(
        APPEND,
        "nothing about who is erased",
        "WHERE NOT EXISTS (SELECT FROM erasures x WHERE x.number IN (i.subject, i.object))",
        "WHERE true",
    ),
    Mutant(
        APPEND,
        "no second event for a command's key",
        "AND (i.command_id IS NULL\n                   "
        "OR NOT EXISTS (SELECT FROM command_answers a WHERE a.command_id = i.command_id))",
        "",
    ),
    Mutant(APPEND, "a version that is taken is left out", "ON CONFLICT (subject, object, version) DO NOTHING", ""),
    Mutant(APPEND, "the order of the arrays", "ORDER BY i.ord\n", "ORDER BY i.ord DESC\n"),
    Mutant(APPEND, "only commands with a key have answers", "WHERE i.command_id IS NOT NULL", ""),
    Mutant(
        APPEND,
        "the lock of an answer without event",
        "    PERFORM pg_advisory_xact_lock(log_lock());\n    INSERT",
        "    INSERT",
    ),
    Mutant(APPEND, "no more follows than allowed", "AND NOT i.ord = ANY(too_many || later)", ""),
    Mutant(APPEND, "nor together in one batch", "ANY(too_many || later)", "ANY(too_many)"),
    Mutant(
        APPEND, "each of a batch counts for himself", "row_number() OVER (PARTITION BY i.subject", "row_number() OVER ("
    ),
    Mutant(APPEND, "only a follow is too many", "WHERE i.type = 'UserFollowed') f", "WHERE true) f"),
    Mutant(
        APPEND,
        "who may come later is not refused",
        "FILTER (WHERE f.following >= following_max), '{}')",
        "FILTER (WHERE true), '{}')",
    ),
    Mutant(APPEND, "counts are made where there are none", "        PERFORM count_follows(subjects);\n", ""),
    Mutant(
        APPEND,
        "counts that nobody keeps are forgotten",
        "        PERFORM forget_follow_counts(subjects);",
        "        NULL;",
    ),
    Mutant(
        APPEND,
        "counts go with the events",
        "        WHERE following_max IS NOT NULL AND c.number = n.subject",
        "        WHERE false AND c.number = n.subject",
    ),
    Mutant(APPEND, "an end gives a place back", "WHEN 'UserUnfollowed' THEN -1 ELSE", "ELSE"),
    Mutant(APPEND, "the first answer stays", "    ON CONFLICT DO NOTHING;", "    ;"),
    Mutant(
        LOOP,
        "load: a lost lane",
        _LOST,
        "            if checkpoint is None:\n                continue\n            self._times",
    ),
    Mutant(LOOP, "load: another log", "if not await is_of(self._engine, found, self._epoch):", "if False:"),
    Mutant(LOOP, "load: what is parked", "        await self.refresh_parked()\n        refused", "        refused"),
    Mutant(
        LOOP,
        "load: our fence is made known",
        "refused = await self._apply({lane: LaneBatch() for lane in self.fences}, self.stored)",
        "refused: list[int] = []",
    ),
    Mutant(LOOP, "load: a lane that takes nothing", "        if refused:\n", "        if False:\n"),
    Mutant(LOOP, "step: what must wait", "clear = await self._aside.sort_out(events)", "clear = events"),
    Mutant(
        LOOP,
        "step: a lane that lost its tail stays behind",
        "if lane not in folded.lanes and position < end:",
        "if position < end:",
    ),
    Mutant(
        LOOP,
        "step: a lane that is ahead stays there",
        "if lane not in folded.lanes and position < end:",
        "if lane not in folded.lanes:",
    ),
    Mutant(LOOP, "step: refused batches are taken apart", "await self._isolate(lane, clear, end)", "pass"),
    Mutant(
        LOOP,
        "check: a lost lane",
        "if checkpoint is None or checkpoint.epoch != self._epoch:",
        "if checkpoint is None:\n                continue\n            if checkpoint.epoch != self._epoch:",
    ),
    Mutant(
        LOOP,
        "check: another log",
        "if checkpoint is None or checkpoint.epoch != self._epoch:",
        "if checkpoint is None:",
    ),
    Mutant(LOOP, "check: another owner", "if checkpoint.fence > self.fences[lane]:", "if False:"),
    Mutant(LOOP, "check: a lost tail", "if checkpoint.position != self.stored[lane]:", "if False:"),
    Mutant(
        LOOP,
        "read: only from where we stand",
        "if ahead is not None and ahead[0] == after:",
        "if ahead is not None:",
    ),
    Mutant(
        LOOP, "read: what came after reading ahead", "if not batch.events:  # nothing", "if ahead is None:  # nothing"
    ),
    Mutant(
        LOOP,
        "step: a fold for lanes that stand elsewhere",
        "if clear is not events or set(self.reached.values()) != {before}:",
        "if clear is not events:",
    ),
    Mutant(LOOP, "step: a fold with what must wait", "if clear is not events or set(", "if set("),
    Mutant(LOOP, "fold: given-up names", "if names]\n", "if not names]\n"),
    Mutant(
        LOOP,
        "fold: what a lane has is left out",
        "fold(events, self.view, self.reached)",
        "fold(events, self.view, dict.fromkeys(self.reached, 0))",
    ),
    Mutant(LOOP, "apply: faults of the server", "                raise outcome\n", "                continue\n"),
    Mutant(LOOP, "apply: wait for a held lane", 'if outcome != b"HELD":', "if True:"),
    Mutant(LOOP, "apply: no time of another event", "if end > self.stored[lane] else 0", ""),
    Mutant(
        LOOP,
        "FENCED",
        '            case "FENCED":\n                raise Fenced(f"lane {lane} has another owner")',
        '            case "FENCED":\n                pass',
    ),
    Mutant(
        LOOP,
        "LOST and FOREIGN",
        '                raise ViewLost(f"lane {lane} of generation {self.view.generation} is {outcome}")',
        "                pass",
    ),
    Mutant(
        LOOP,
        "AHEAD and REWOUND go on from where the lane stands",
        "        self._stand(lane, position)\n        self.written",
        '        if outcome == "OK":\n            self._stand(lane, position)\n        self.written',
    ),
    Mutant(LOOP, "what he has parked who brought a lane on", "        if self._overtaken:\n", "        if False:\n"),
    Mutant(LOOP, "isolate: park", "await self._aside.park(culprits(self.view, refused, events))", "pass"),
    Mutant(LOOP, "isolate: the pair waits", "rest = await self._aside.in_the_clear(events)", "rest = events"),
    Mutant(LOOP, "isolate: too much is refused", "if len(refused) > PARKED_MAX:", "if False:"),
    Mutant(
        LOOP,
        "isolate: nothing at all is taken",
        "if await self._apply({lane: LaneBatch()}, {lane: self.stored[lane]}):",
        "if False:",
    ),
    Mutant(
        LOOP,
        "isolate: what is left must be taken",
        "if await self._apply({lane: batch}, {lane: end}):",
        "if not await self._apply({lane: batch}, {lane: end}) and False:",
    ),
    Mutant(LOOP, "is of this log: every lane is there", "if len(there) < len(found) or any(", "if any("),
    Mutant(
        LOOP,
        "is of this log: its epoch",
        "if len(there) < len(found) or any(checkpoint.epoch != epoch for checkpoint in there):",
        "if len(there) < len(found):",
    ),
    Mutant(
        LOOP,
        "is of this log: its times",
        "return not stamps or await log.recorded_at(engine, stamps) == stamps",
        "return True",
    ),
    Mutant(
        DRAIN, "tell: not of a server that was away", "if seen and not self._is_doubtful() and time", "if seen and time"
    ),
    Mutant(DRAIN, "a server that was away is looked at", ">= IDLE_S or self._is_doubtful():", ">= IDLE_S:"),
    Mutant(DRAIN, "what was found lost is mended at once", "elif not behind:", "if not behind:"),
    Mutant(DRAIN, "who wakes for nothing new is told", "                if asked:  #", "                if False:  #"),
    Mutant(DRAIN, "another view is not told of", "        return seen is not False", "        return True"),
)
