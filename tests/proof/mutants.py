"""Guards of scripts, SQL functions, projector, loop, evictions and Postgres sessions, with their replacements."""

from __future__ import annotations

from typing import Final, NamedTuple

APPLY: Final = "projections/projector/apply.lua"
APPEND: Final = "commands/db/sql/append_events.sql"
ANSWERS: Final = "commands/idempotency.py"
LOOP: Final = "projections/projector/projector.py"
CALLS: Final = "projections/projector/apply.py"
CLIENT: Final = "projections/client/client.py"
BATCHES: Final = "projections/projector/batches.py"
HISTORY: Final = "projections/projector/history.py"
REFUSED: Final = "projections/projector/refused.py"
WORKER_LOOP: Final = "projections/loop.py"
WATCH: Final = "projections/views/server_watch.py"
EVICTIONS: Final = "projections/rebuild/evictions.py"
BUILD: Final = "projections/rebuild/build.py"
SNAPSHOT: Final = "projections/rebuild/snapshot.py"
SPILL: Final = "projections/rebuild/spill.py"
WHOLE_LISTS: Final = "projections/rebuild/whole_lists.py"
GENERATIONS: Final = "projections/views/generations.py"
OPENING: Final = "commands/db/opening.py"
ADDRESS: Final = "commands/db/address.py"
SESSION: Final = "commands/db/session.py"
POOL: Final = "commands/db/postgres.py"
UNAVAILABLE: Final = "commands/db/unavailable.py"
READER: Final = "queries/reader.py"
TAIL: Final = "api/tail.py"
OWN_WRITES: Final = "api/own_writes.py"
LOOKS: Final = "commands/log/looks.py"
VISIBLE: Final = "api/context.py"
LOOK_UPS: Final = "queries/users.py"
LEASES: Final = "commands/coordination/leases.py"
FREEZES: Final = "projections/views/freezes.py"
FENCE_POINTER: Final = "projections/views/fence_pointer.lua"
UNFREEZE: Final = "projections/views/unfreeze.lua"
RETIRE: Final = "projections/views/retire.lua"
REPAIR: Final = "projections/verify/repair.lua"
FOLD: Final = "projections/projector/fold.py"
PAGE: Final = "queries/page.lua"
RENDERED: Final = "queries/rendered.py"
PROFILE_CACHE: Final = "queries/profile_cache.py"
SWEEPS: Final = "workers/sweeps.py"
PROFILES: Final = "commands/profiles.py"
JOB_QUEUE: Final = "projections/signals/job_queue.py"
SWITCH: Final = "projections/rebuild/switch.py"
HISTORIES: Final = "projections/feeding/histories.py"
READ_WORDS: Final = "projections/projector/read_words.py"
HEAL: Final = "projections/rebuild/heal.py"
KEY_SET: Final = "api/auth/key_set.py"
JWKS: Final = "api/auth/jwks.py"
EVENT_LOG: Final = "commands/log/event_log.py"
DIRECTORY: Final = "commands/directory.py"
ERASURE_FILE: Final = "commands/erasure_file.py"
FEEDERS: Final = "projections/feeding/feeders.py"
ADOPT: Final = "projections/feeding/adopt.py"
SWAP: Final = "projections/views/swap.lua"
IDENTITY: Final = "commands/db/identity.py"
PROGRESS: Final = "projections/signals/progress.py"
LEASE_SHARES: Final = "commands/db/sql/leases.sql"
FEEDER_CHECK: Final = "projections/feeding/feeder_check.py"
LIVE_POINTER: Final = "projections/views/pointer.py"
LEASED: Final = "projections/partition_leases.py"
COMMITTER: Final = "commands/group_commit.py"
RETRY: Final = "projections/verify/retry_parked.py"
MIGRATE: Final = "commands/db/migrate.py"
SCHEMA: Final = "commands/db/schema.py"
SUPERVISE: Final = "workers/supervise.py"
HEALTH: Final = "api/health.py"
KRAKEN: Final = "api/kraken/middleware.py"
JUDGE: Final = "projections/state/judge.py"
OVERVIEW: Final = "commands/coordination/overview.py"
LONG_LISTS: Final = "queries/long_lists.py"
ATTRIBUTES: Final = "queries/attributes.py"
CHANNELS: Final = "queries/channels.py"
APP: Final = "api/app.py"
HEAD: Final = "api/head.py"
TOKENS: Final = "api/auth/tokens.py"
CLAIMS: Final = "api/auth/claims.py"
PROBLEMS: Final = "projections/state/problems.py"
STATE: Final = "projections/state/state.py"
STATE_WATCH: Final = "projections/state/state_watch.py"
VIEW_FACTS: Final = "projections/state/view_facts.py"
STATUS: Final = "cli/status.py"
SERVICE_STATUS: Final = "cli/service_status.py"
SERVICES: Final = "api/services.py"
MIGRATIONS: Final = "commands/db/migrations/env.py"
LOG_LINES: Final = "commands/logs.py"
WAKEUPS: Final = "projections/signals/wakeups.py"
FORWARDED: Final = "api/forwarded.py"
RATE_LIMIT: Final = "api/rate_limit.py"
DOCUMENT_PAGE: Final = "api/document/page.py"
USERS: Final = "commands/users.py"
USER_ROUTES: Final = "api/v1/users.py"
RIGHTS: Final = "commands/db/rights.py"
ONE_READING: Final = "api/one_reading.py"

# File -> the tests of which one must fail, quick ones first; pytest stops at the first that fails.
TESTS: Final = {
    APPLY: ("tests/projections/projector/test_apply.py", "tests/projections/projector/test_projector.py"),
    APPEND: (
        "tests/commands/log/test_append.py",
        "tests/commands/log/test_lock_first.py",
        "tests/commands/test_idempotency.py",
        "tests/commands/test_erasure.py",
        "tests/commands/test_following_limit.py",
        "tests/commands/test_group_commit.py",
        "tests/commands/log/test_interleavings.py",
    ),
    ANSWERS: ("tests/commands/test_idempotency.py", "tests/workers/test_sweeps.py"),
    **dict.fromkeys((DIRECTORY, ERASURE_FILE), ("tests/cli/test_erase.py", "tests/api/v1/test_users.py")),
    COMMITTER: ("tests/commands/test_parked_pairs.py",),
    RETRY: ("tests/projections/verify/test_retry_parked.py", "tests/projections/feeding/test_feeders.py"),
    MIGRATE: ("tests/commands/db/test_migrate.py", "tests/commands/db/test_migrate_locks.py"),
    **dict.fromkeys((SCHEMA, MIGRATIONS), ("tests/commands/db/test_migrate.py",)),
    SUPERVISE: ("tests/workers/test_supervise.py",),
    BATCHES: (
        "tests/projections/projector/test_projector.py",
        "tests/projections/projector/test_users_in_views.py",
    ),
    REFUSED: ("tests/projections/projector/test_parking.py",),
    CALLS: ("tests/projections/projector/test_list_tokens.py", "tests/projections/projector/test_projector.py"),
    CLIENT: ("tests/projections/client/test_client.py",),
    LOOP: (
        "tests/projections/rebuild/test_kept_over_a_switch.py",
        "tests/projections/projector/test_list_tokens.py",
        "tests/projections/projector/test_projector.py",
        "tests/projections/projector/test_parking.py",
        "tests/projections/feeding/test_lost_tail.py",
        "tests/projections/projector/test_projector_faults.py",
        "tests/projections/verify/test_retry_parked.py",
        "tests/projections/test_loop.py",
        "tests/projections/rebuild/test_build.py",
    ),
    HISTORY: (
        "tests/projections/feeding/test_lost_tail.py",
        "tests/projections/projector/test_projector.py",
        "tests/projections/projector/test_parking.py",
        "tests/projections/projector/test_projector_faults.py",
        "tests/projections/verify/test_retry_parked.py",
        "tests/projections/test_loop.py",
        "tests/projections/rebuild/test_build.py",
    ),
    WORKER_LOOP: (
        "tests/projections/test_loop.py",
        "tests/projections/test_take_over.py",
        "tests/projections/feeding/test_feeders.py",
    ),
    LEASED: ("tests/projections/test_take_over.py",),
    IDENTITY: ("tests/commands/db/test_identity.py",),
    LEASE_SHARES: ("tests/projections/feeding/test_two_redis.py",),
    PROGRESS: (
        "tests/api/test_tail.py",
        "tests/projections/signals/test_wakeups.py",
        "tests/projections/rebuild/test_kept_over_a_switch.py",
        "tests/projections/feeding/test_two_redis.py",
    ),
    **dict.fromkeys((FEEDER_CHECK, LIVE_POINTER), ("tests/projections/feeding/test_feeder_check.py",)),
    **dict.fromkeys(
        (FEEDERS, ADOPT, SWAP),
        ("tests/projections/feeding/test_feeders.py", "tests/projections/feeding/test_lost_tail.py"),
    ),
    LEASES: ("tests/commands/coordination/test_lease_watch.py",),
    **dict.fromkeys((FREEZES, FENCE_POINTER, UNFREEZE, RETIRE), ("tests/projections/views/test_freezes.py",)),
    SWITCH: (
        "tests/projections/rebuild/test_kept_over_a_switch.py",
        "tests/projections/rebuild/test_stopped_builder.py",
        "tests/projections/views/test_freezes.py",
        "tests/projections/feeding/test_feeders.py",
        "tests/projections/rebuild/test_snapshot.py",
        "tests/projections/rebuild/test_switch.py",
    ),
    **dict.fromkeys(
        (SNAPSHOT, SPILL, WHOLE_LISTS, GENERATIONS),
        ("tests/projections/rebuild/test_without_snapshot.py", "tests/projections/rebuild/test_snapshot.py"),
    ),
    EVENT_LOG: ("tests/commands/db/test_read_only.py", "tests/commands/test_parked_pairs.py"),
    **dict.fromkeys((SWEEPS, PROFILES), ("tests/workers/test_sweeps.py",)),
    **dict.fromkeys((JOB_QUEUE, WAKEUPS), ("tests/projections/signals/test_wakeups.py",)),
    **dict.fromkeys((HISTORIES, READ_WORDS, HEAL), ("tests/projections/feeding/test_lost_tail.py",)),
    REPAIR: ("tests/projections/verify/test_repair.py",),
    FOLD: ("tests/projections/projector/test_list_tokens.py",),
    **dict.fromkeys((PAGE, RENDERED, PROFILE_CACHE), ("tests/queries/test_copies.py",)),
    BUILD: (
        "tests/projections/rebuild/test_stopped_builder.py",
        "tests/projections/rebuild/test_evictions.py",
        "tests/projections/test_take_over.py",
        "tests/projections/feeding/test_lost_tail.py",
        "tests/projections/rebuild/test_snapshot.py",
    ),
    **dict.fromkeys(
        (SESSION, POOL, UNAVAILABLE),
        (
            "tests/commands/db/test_session.py",
            "tests/commands/db/test_durability.py",
            "tests/commands/db/test_read_only.py",
            "tests/commands/db/test_dead_connections.py",
        ),
    ),
    **dict.fromkeys((WATCH, EVICTIONS), ("tests/projections/rebuild/test_evictions.py",)),
    READER: (
        "tests/queries/test_reader.py",
        "tests/projections/rebuild/test_kept_over_a_switch.py",
        "tests/projections/rebuild/test_evictions.py",
        "tests/api/test_read_your_writes.py",
    ),
    VISIBLE: (
        "tests/api/test_tail.py",
        "tests/api/test_read_your_writes.py",
        "tests/api/v1/test_visibility.py",
    ),
    LOOKS: ("tests/commands/log/test_looks.py",),
    OPENING: ("tests/commands/db/test_opening.py",),
    ADDRESS: ("tests/commands/db/test_address.py", "tests/cli/test_status.py"),
    **dict.fromkeys((KEY_SET, JWKS), ("tests/api/auth/test_algorithms.py", "tests/api/auth/test_jwks.py")),
    **dict.fromkeys((HEALTH, PROBLEMS, STATE_WATCH, VIEW_FACTS, SERVICES), ("tests/api/test_health.py",)),
    **dict.fromkeys((KRAKEN, APP, HEAD), ("tests/api/test_head.py",)),
    **dict.fromkeys((JUDGE, OVERVIEW, STATE, STATUS, SERVICE_STATUS), ("tests/cli/test_status.py",)),
    TOKENS: ("tests/api/auth/test_tokens.py", "tests/api/auth/test_jwks.py"),
    CLAIMS: ("tests/api/auth/test_tokens.py", "tests/api/v1/test_follow.py"),
    LOG_LINES: (
        "tests/commands/test_log_times.py",
        "tests/commands/test_logs.py",
    ),
    FORWARDED: ("tests/api/test_forwarded.py", "tests/api/kraken/test_links.py"),
    RATE_LIMIT: ("tests/api/test_rate_limit.py",),
    DOCUMENT_PAGE: ("tests/api/test_docs.py",),
    **dict.fromkeys((USERS, USER_ROUTES), ("tests/api/v1/test_users.py",)),
    RIGHTS: ("tests/system/test_least_rights.py",),
    ONE_READING: ("tests/system/test_two_readings.py",),
    **dict.fromkeys(
        (LONG_LISTS, ATTRIBUTES, CHANNELS), ("tests/queries/test_long_lists.py", "tests/queries/test_channels.py")
    ),
    **dict.fromkeys((TAIL, OWN_WRITES, LOOK_UPS), ("tests/api/test_tail.py", "tests/api/test_read_your_writes.py")),
}


class Mutant(NamedTuple):
    """A change of one place in one file that removes one guard."""

    file: str
    guard: str
    old: str
    new: str


_MOVE_TOKENS = """if argv[11] then
    call('HSET', keys[1], unpack(argv, 11))
end
"""
_OPERATE = """for k, operation in ipairs(cmsgpack.unpack(argv[7])) do
    local name, key, arguments = operation[1], keys[k + 1], operation[2]
    if name == 'DELEQ' then
        if call('GET', key) == arguments[1] then
            call('DEL', key)
        end
    else
        call(name, key, unpack(arguments))
    end
end
"""
_LOST = """            if checkpoint is None:
                raise ViewLost(self.view, partition)
            self._set_position"""

MUTANTS: Final = (
    Mutant(APPLY, "LOST", "if not at[1] then", "if false then"),
    Mutant(APPLY, "FENCED", "if tonumber(argv[3]) < tonumber(at[2]) then", "if false then"),
    Mutant(APPLY, "OTHER_HISTORY", "at[3] ~= argv[4] and string", "false and string"),
    Mutant(
        APPLY, "OTHER_HISTORY only at the word's own position", "and string.match(at[3], '^%d+') == at[1] then", "then"
    ),
    Mutant(APPLY, "FROZEN", "if at[4] then", "if false then"),
    Mutant(APPLY, "AHEAD", "if position > expected then", "if false then"),
    Mutant(APPLY, "BEHIND", "if position < expected then", "if false then"),
    Mutant(APPLY, "another user's name is not deleted", "if call('GET', key) == arguments[1] then", "if true then"),
    Mutant(APPLY, "the position is written", "'position', argv[2], 'fence'", "'fence'"),
    Mutant(APPLY, "the fence is written", ", 'fence', '0' .. argv[3])", ")"),
    Mutant(APPLY, "the fence says that tokens move", "'0' .. argv[3]", "argv[3]"),
    Mutant(APPLY, "the tokens of touched lists move", "if argv[11] then", "if false then"),
    Mutant(APPLY, "tokens move before the lists do", _MOVE_TOKENS + _OPERATE, _OPERATE + _MOVE_TOKENS),
    Mutant(
        APPLY, "the salt changes after a worker that moves no tokens", "if not string.match(at[2], '^0%d')", "if false"
    ),
    Mutant(APPLY, "no word is written if there is none", "if argv[5] ~= '' then", "if true then"),
    Mutant(
        APPLY,
        "the position is written last",
        "for k, operation in",
        "call('HSET', keys[1], 'position', argv[2])\nfor k, operation in",
    ),
    Mutant(APPLY, "a part comes behind the part before", "if argv[9] ~= ''", "if false"),
    Mutant(BUILD, "a build looks at its partitions at its end", "            await projector.check()\n", ""),
    Mutant(
        SWITCH,
        "no switch to a view that went back",
        "                raise NotSwitched\n            await",
        "                pass\n            await",
    ),
    Mutant(GENERATIONS, "a snapshot belongs to a history", '["upto", end, "rows", end]', '["upto", end]'),
    Mutant(SNAPSHOT, "nothing is parked", "        if projector.sets_aside:", "        if False:"),
    Mutant(SNAPSHOT, "RESTORE is allowed", "        await _require_restore(redis)\n", ""),
    Mutant(SNAPSHOT, "RESTORE is understood", "except (NoSnapshot, ResponseError)", "except NoSnapshot"),
    Mutant(SNAPSHOT, "the log keeps its history while it is read", "if arrays.word != self._word:", "if False:"),
    Mutant(SNAPSHOT, "rows are noted as new as they are", "                self._projector.note_users(folded)\n", ""),
    Mutant(SNAPSHOT, "a list in parts is added to", "is_first=part == 0", "is_first=True"),
    Mutant(SPILL, "every event is read", "        if (values == OTHER_FORM).any():", "        if False:"),
    Mutant(SPILL, "numbers fit", "        if max(subjects.max()", "        if False and max(subjects.max()"),
    Mutant(SPILL, "times fit", "        if scores.max() >=", "        if False and scores.max() >="),
    Mutant(WHOLE_LISTS, "what has ended is left out", ", True) & (scores >= 0)", ", True)"),
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
        "no event of an erased user",
        "WHERE NOT (i.subject = ANY(erased) OR i.object = ANY(erased))",
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
    Mutant(APPEND, "only commands with a key have answers", "WHERE command_ids[n.ord] IS NOT NULL", ""),
    Mutant(
        APPEND,
        "the lock of an answer without event",
        "    PERFORM pg_advisory_xact_lock(log_lock());\n    INSERT",
        "    INSERT",
    ),
    Mutant(ANSWERS, "the answer is stored with the work", "AS uuid) IS NOT NULL)", "AS uuid) IS NOT NULL AND false)"),
    Mutant(
        ANSWERS,
        "a refusal yields to an answer that was stored meanwhile",
        "if await store_answer(connection, key, refusal_to_builtins(refusal)):\n",
        "await store_answer(connection, key, refusal_to_builtins(refusal))\n                if True:\n",
    ),
    Mutant(APPEND, "no more follows than allowed", "AND NOT i.ord = ANY(too_many || later)", ""),
    Mutant(APPEND, "no more in one batch together", "ANY(too_many || later)", "ANY(too_many)"),
    Mutant(
        APPEND, "each user of a batch counts alone", "row_number() OVER (PARTITION BY i.subject", "row_number() OVER ("
    ),
    Mutant(APPEND, "only a follow can be too many", "WHERE i.type = 'UserFollowed') f", "WHERE true) f"),
    Mutant(
        APPEND,
        "a follow that may succeed later is not refused",
        "FILTER (WHERE f.following >= following_max), '{}')",
        "FILTER (WHERE true), '{}')",
    ),
    Mutant(APPEND, "missing counts are made", "        PERFORM count_follows(subjects);\n", ""),
    Mutant(
        APPEND,
        "counts without a limit are deleted",
        "        PERFORM delete_follow_counts(subjects);",
        "        NULL;",
    ),
    Mutant(
        APPEND,
        "counts go with the events",
        "        WHERE following_max IS NOT NULL AND c.number = n.subject",
        "        WHERE false AND c.number = n.subject",
    ),
    Mutant(APPEND, "an unfollow gives a place back", "WHEN 'UserUnfollowed' THEN -1 ELSE", "ELSE"),
    Mutant(APPEND, "the first answer stays", "    ON CONFLICT DO NOTHING;", "    ;"),
    Mutant(
        LOOP,
        "load: a lost partition",
        _LOST,
        "            if checkpoint is None:\n                continue\n            self._set_position",
    ),
    Mutant(
        HISTORY,
        "load: another history",
        "        await self.take_over(words)\n        if",
        "        self._words = await log.words_at(self._engine, [at for at, _ in words])\n        if",
    ),
    Mutant(LOOP, "load: parked pairs", "        await self.refresh_parked()\n        refused", "        refused"),
    Mutant(
        LOOP,
        "load: the fence is written",
        "refused = await self._apply({partition: PartitionBatch() for partition in self.fences}, self.checkpointed)",
        "refused: list[int] = []",
    ),
    Mutant(LOOP, "load: a partition that refuses everything", "        if refused:\n", "        if False:\n"),
    Mutant(
        LOOP,
        "step: events behind parked ones wait",
        "projectable = await self._parked.split(events)",
        "projectable = events",
    ),
    Mutant(
        LOOP,
        "step: a partition that lost its last writes stays behind",
        "if partition not in folded.partitions and position < end:",
        "if position < end:",
    ),
    Mutant(
        LOOP,
        "step: a partition that is ahead stays there",
        "if partition not in folded.partitions and position < end:",
        "if partition not in folded.partitions:",
    ),
    Mutant(LOOP, "step: refused batches are split", "await self._park_refused(partition, projectable, end)", "pass"),
    Mutant(
        LOOP,
        "check: a lost partition",
        "            if checkpoint is None:\n                raise ViewLost(self.view, partition)\n"
        "            if checkpoint.fence",
        "            if checkpoint is None:\n                continue\n            if checkpoint.fence",
    ),
    Mutant(
        LOOP,
        "check: another history",
        "            if partition in moved or not self.history.knows(checkpoint):",
        "            if False:",
    ),
    Mutant(LOOP, "apply: where a partition is ahead, its history", "if any(moved.values()):", "if False:"),
    Mutant(LOOP, "check: another owner", "if checkpoint.fence > self.fences[partition]:", "if False:"),
    Mutant(LOOP, "check: lost last writes", "if checkpoint.position != self.checkpointed[partition]:", "if False:"),
    Mutant(
        BATCHES,
        "read: only from the current position",
        "if ahead is not None and self._ahead_after == after:",
        "if ahead is not None:",
    ),
    Mutant(
        BATCHES, "read: events after those read ahead", "if batch is None or not batch.events:", "if batch is None:"
    ),
    Mutant(
        LOOP,
        "step: no fold for partitions at other positions",
        "if projectable is not events or set(self.read_to.values()) != {before}:",
        "if projectable is not events:",
    ),
    Mutant(LOOP, "step: no fold with events that must wait", "if projectable is not events or set(", "if set("),
    Mutant(BATCHES, "fold: released names", "if names]\n", "if not names]\n"),
    Mutant(
        LOOP,
        "fold: events that a partition has are left out",
        "fold(events, self.view, self.read_to)",
        "fold(events, self.view, dict.fromkeys(self.read_to, 0))",
    ),
    Mutant(CLIENT, "apply: faults of the server", "                    raise error\n", "                    pass\n"),
    Mutant(CALLS, "apply: wait for a frozen partition", 'elif answer[0] == b"FROZEN":', "elif False:"),
    Mutant(
        LOOP,
        "FENCED",
        '            case "FENCED":\n                raise Fenced(',
        '            case "FENCED":\n                print(',
    ),
    Mutant(
        LOOP,
        "LOST",
        "            case _:\n                raise ViewLost(self.view, partition)\n",
        "            case _:\n                return True\n",
    ),
    Mutant(
        LOOP,
        "AHEAD and BEHIND continue from the partition's position",
        "                self._parked_outdated = True\n                return False\n",
        "                return True\n",
    ),
    Mutant(
        LOOP,
        "events parked by another worker",
        "        if self._parked_outdated:\n",
        "        if False:\n",
    ),
    Mutant(LOOP, "isolate: park", "await self._parked.park(rejected_events(self.view, refused, events))", "pass"),
    Mutant(LOOP, "isolate: the pair waits", "rest = await self._parked.projectable(events)", "rest = events"),
    Mutant(REFUSED, "isolate: too many refused events", "if len(refused) > refused_max:", "if False:"),
    Mutant(
        LOOP,
        "isolate: a partition that refuses everything",
        "if await self._apply({partition: PartitionBatch()}, {partition: begin}):",
        "if False:",
    ),
    Mutant(LOOP, "isolate: a partition that moved is read again", "!= begin:  # these", "< 0:  # these"),
    Mutant(
        LOOP,
        "isolate: the rest must be accepted",
        "if await self._apply({partition: batch}, {partition: end}):",
        "if not await self._apply({partition: batch}, {partition: end}) and False:",
    ),
    Mutant(
        HISTORY,
        "step: the log still has what was passed",
        "if held != {(position, word)} or word is None:",
        "if False:",
    ),
    Mutant(
        HISTORY,
        "step: and what the highest partition has passed",
        "held = {(highest, self.word(highest))}",
        "held = {(position, self.word(position))}",
    ),
    Mutant(
        HISTORY,
        "step: and what its rows were read from",
        "        if self._rows_at[0] > highest:\n",
        "        if False:\n",
    ),
    Mutant(
        HISTORY,
        "load: rows that are newer",
        "words = {place for at in found if at is not None for place in at.words}",
        "words = {at.words[0] for at in found if at is not None}",
    ),
    Mutant(LOOP, "check: rows that are newer", "unknown.update(checkpoint.words)", "unknown.add(checkpoint.words[0])"),
    Mutant(HISTORY, "no batch behind another word", "self.word(position) not in (None, word):", "False:"),
    Mutant(HISTORY, "take over: new rows", "max([self._rows_at, *with_word], key=_position)", "self._rows_at"),
    Mutant(HISTORY, "check: rows at the same position", " and at.rows in (None, self._rows_at)", ""),
    Mutant(HISTORY, "apply: how new the rows are", "if self._rows_at[0] > end else", "if False else"),
    Mutant(
        LOOP,
        "step: what is parked is in the log",
        "if projectable is not events:  # in a log",
        "if False:  # in a log",
    ),
    Mutant(BATCHES, "read: one history in a batch", "elif part.word_before != word or", "elif"),
    Mutant(HISTORY, "is of this log: every partition is there", "None not in found.values() and is_same", "is_same"),
    Mutant(HISTORY, "same history: within the log", "position in found and (word is None or", "(word is None or"),
    Mutant(HISTORY, "same history: its words", "found[position] in (None, word))", "True)"),
    Mutant(
        WORKER_LOOP,
        "progress is not published after a disconnect",
        "if is_live and not self._has_disconnected() and time",
        "if is_live and time",
    ),
    Mutant(
        WORKER_LOOP,
        "the partitions are checked after a disconnect",
        ">= self._check_at or self._has_disconnected():",
        ">= self._check_at:",
    ),
    Mutant(WORKER_LOOP, "what was found lost is repaired at once", "elif not behind:", "if not behind:"),
    Mutant(
        WORKER_LOOP,
        "a wake-up without a new event publishes progress",
        "                if was_woken:  #",
        "                if False:  #",
    ),
    Mutant(
        WORKER_LOOP,
        "progress of another view is not published",
        "        return is_live is not False",
        "        return True",
    ),
    Mutant(WATCH, "the policy", "if server is not None and server.policy != NOEVICTION:", "if False:"),
    Mutant(
        WATCH, "the count", "if server is not None and server.evicted_keys != evicted.get(", "if False and (0).get("
    ),
    Mutant(
        EVICTIONS,
        "the pointer is checked each time",
        "                await _clear_live(redis)",
        "                pass",
    ),
    Mutant(EVICTIONS, "every view is invalidated", " for view in stale])", " for view in stale[:0]])"),
    Mutant(
        EVICTIONS,
        "no build under a wrong policy",
        "while wrong_policy(await read_servers(redis)) is not None:",
        "while False:",
    ),
    Mutant(
        BUILD,
        "no build is resumed after an eviction",
        "if is_whole and evicted == evicted_by_run(await read_all_servers(redis)):",
        "if is_whole:",
    ),
    Mutant(BUILD, "a build notes the counts", "word, fence, evicted, (head", "word, fence, None, (head"),
    Mutant(
        LEASES, "a dead owner's number is named", "o.owner = d.owner AND o.renewal = d.renewal", "o.owner = d.owner"
    ),
    Mutant(LEASES, "four looks", "if looks >= LOOKS]", "if looks >= LOOKS - 1]"),
    Mutant(LEASES, "a look with another number is the first", "before.get((row[0], row[1]), 0) + 1", "LOOKS"),
    Mutant(LEASES, "a gap begins the count again", "if self._looked_at - last > self._gap_max_s:", "if False:"),
    Mutant(
        LEASES, "a failed look begins the count again", "before, self._looks = self._looks, {}", "before = self._looks"
    ),
    Mutant(LEASES, "looks are apart", "if self._clock() - self._looked_at < self._look_s:", "if False:"),
    Mutant(
        LEASED,
        "no renewal without an answer of Redis",
        "        await wait_for_answer(self._redis)\n        runs",
        "        runs",
    ),
    Mutant(
        HISTORY,
        "a loss is noticed at the start",
        "if not await self._read_words.begin(",
        "if await self._read_words.begin(",
    ),
    Mutant(
        READ_WORDS,
        "a loss is said once",
        "        self._words = {position: word for",
        "        _ = {position: word for",
    ),
    Mutant(
        HISTORIES,
        "a view that is kept is retired",
        "    await generations.retire(",
        "    0 and await generations.retire(",
    ),
    Mutant(HISTORIES, "a kept view is in the register", "    await set_kept(", "    0 and await set_kept("),
    Mutant(
        FEEDERS,
        "what the views had not applied builds nothing",
        "if lost_after is not None and strange:",
        "if lost_after is not None:",
    ),
    Mutant(
        HISTORIES, "one spoiled partition is lost", "    await generations.invalidate(redis, view, spoiled)", "    pass"
    ),
    Mutant(HEAL, "a build remembers what it has read", "read_words=read_words)", ")"),
    Mutant(
        WORKER_LOOP,
        "only the feeder takes leases",
        "view = await self._require_feeder()",
        "view = await self._pointer.view()",
    ),
    Mutant(FEEDERS, "an emptied Redis is not taken", "record is None and self._was_refused", "False"),
    Mutant(FEEDERS, "unknown views are not taken", "(self._was_refused or self._read_words.is_empty)", "False"),
    Mutant(
        FEEDERS,
        "two feeders are a dispute",
        "            if await read_server_run(self._engine) == self.confirmed_run:",
        "            if False:",
    ),
    Mutant(FEEDERS, "a dispute stops all", "if record.disputed else None", "if False else None"),
    Mutant(FEEDERS, "other feeders are refused", "if not record.database.is_same(database):", "if False:"),
    Mutant(ADOPT, "the feeder before is fenced off", "await leases.advance_fences(", "0 and leases.advance_fences("),
    Mutant(ADOPT, "what was shown is adopted", "if not await swap_record(redis, raw, after):", "if False:"),
    Mutant(SWAP, "only what was read is replaced", "~= ARGV[1]", "== 0"),
    Mutant(SWITCH, "only the feeder switches", "    await require_feeder(engine, redis)\n", ""),
    Mutant(IDENTITY, "an address in common", "return bool(common) and self", "return self"),
    Mutant(IDENTITY, "the same server and database", "return bool(common) and ", "return bool(common) or "),
    Mutant(FEEDER_CHECK, "reads of a copy are refused", "if record.database.origin != own:", "if 0:"),
    Mutant(FEEDER_CHECK, "two Redis are not alone", "if len(fed) > 1:", "if len(fed) > 9:"),
    Mutant(FEEDER_CHECK, "a Redis must be found before", "return self._looked_at if store in", "return 0 if store in"),
    Mutant(FEEDER_CHECK, "a Redis must be fed", "max(self._alone_from, self._fed_from)", "self._alone_from"),
    Mutant(FEEDER_CHECK, "a Redis that is not fed is not read", "if self._fed - {self.store} and", "if 0 and"),
    Mutant(PROGRESS, "reports about another Redis", "if told.store != self._store and told.store and", "if 0 and"),
    Mutant(PROGRESS, "reports from another server", "if told.run != self.server_run and told.run and", "if 0 and"),
    Mutant(BATCHES, "reports name the latest server", "        self.run = batch.run\n", ""),
    Mutant(PROGRESS, "a change that is named once", "told.changed if told.generation ==", "() if told.generation =="),
    Mutant(
        WORKER_LOOP,
        "a message without progress",
        "        elif time.monotonic() >= self._publish_from:",
        "        elif 0:",
    ),
    Mutant(
        TAIL,
        "reports before the first look",
        "        self._progress.clear()\n        self.known",
        "        self.known",
    ),
    Mutant(LOOKS, "a look reads the run", "frozenset(fed), run)", "frozenset(fed), fed)"),
    Mutant(TAIL, "a look is of one server", "batches and found.word not in (None, batches[-1][1])", "False"),
    Mutant(PROGRESS, "words of another server", "self.server_run, self._words = run, {}", "self.server_run = run"),
    Mutant(TAIL, "looks name their server", "        self._progress.use_server(found.run)\n", ""),
    Mutant(SWITCH, "a switch names its server", "None, store, before, word, run)", "None, store, before, word)"),
    Mutant(LEASE_SHARES, "shares are of one Redis", "WHERE projects AND store IN ('', the_store)", "WHERE projects"),
    Mutant(SWEEPS, "another Redis may need it", "if await leases.fed_stores(self._engine) -", "if set() -"),
    Mutant(LIVE_POINTER, "a changed record is looked at", " and self.record == record if", " if"),
    Mutant(LEASED, "dead owners are looked for", "        await self._watch.look()\n", ""),
    Mutant(
        BUILD,
        "no renewal without an answer of Redis",
        "                await wait_for_answer(self._redis)\n                if await",
        "                if await",
    ),
    Mutant(BUILD, "a waiting builder looks", "                await watch.look()\n", ""),
    Mutant(
        BUILD,
        "a waiting builder does not look while Redis is away",
        "                await wait_for_answer(self._redis)\n                await watch",
        "                await watch",
    ),
    Mutant(
        BUILD,
        "a builder fences off the switch of the one before",
        "            highest = await self._redis.run(FENCE_POINTER, [POINTER], [fence])\n",
        "            highest = 0\n",
    ),
    Mutant(BUILD, "fences are higher than the pointer's", "self._engine, highest)", "self._engine, 0)"),
    Mutant(BUILD, "the register leaves a kept view kept", 'not in ("live", "kept"):', '!= "live":'),
    Mutant(HEAL, "a healed view that is kept is not deleted", " and lost.generation not in kept:", ":"),
    Mutant(
        SWITCH,
        "no switch to a view that another build has deleted",
        "            await projector.check()  # if this",
        "            pass  # if this",
    ),
    Mutant(
        SWITCH,
        "no switch from a view that was taken away",
        ", evicted, old, replaced.generation)",
        ", evicted, None, replaced.generation)",
    ),
    Mutant(EVENT_LOG, "no word from a standby", "        if is_standby:\n", "        if False:\n"),
    Mutant(FREEZES, "a freeze ends", "        elif now - since >= self._max_s:", "        elif False:"),
    Mutant(FREEZES, "two seconds", "        elif now - since >= self._max_s:", "        elif True:"),
    Mutant(FREEZES, "of the same token", "        if known != token:\n", '        if known == b"":\n'),
    Mutant(
        FREEZES,
        "the switch is fenced off before the partition moves",
        "        await self._redis.run(FENCE_POINTER, [POINTER], [await leases.next_fence(self._engine)])\n",
        "",
    ),
    Mutant(
        FENCE_POINTER,
        "the fence never falls",
        "if tonumber(fence) >= tonumber(ARGV[1]) then",
        "if false then",
    ),
    Mutant(
        FENCE_POINTER,
        "the pointer keeps its generation",
        "string.gsub(now, '\"fence\":%d+', '\"fence\":' .. ARGV[1], 1)",
        "string.gsub(now, '%d+', ARGV[1])",
    ),
    Mutant(
        UNFREEZE, "another token stays", "if redis.call('HGET', KEYS[1], 'frozen') ~= ARGV[1] then", "if false then"
    ),
    Mutant(
        RETIRE,
        "a view that is used again is not frozen",
        "    redis.call('HDEL', KEYS[1], 'frozen')\n    return",
        "    return",
    ),
    Mutant(RETIRE, "a view that is retired is not frozen", "ARGV[2], 'frozen')", "ARGV[2])"),
    Mutant(REPAIR, "only with its token", "if at[3] ~= ARGV[3] then", "if false then"),
    Mutant(REPAIR, "the salt changes, before the lists do", "redis.call('HSET', KEYS[1], 'salt', ARGV[3])\n", ""),
    Mutant(PAGE, "a copy is confirmed under its token only", "if token == ARGV[5] then", "if ARGV[5] ~= '' then"),
    Mutant(
        PAGE,
        "no copy is confirmed under a worker that moves no tokens",
        "if checkpoint[4] and string.match(checkpoint[3], '^0%d') then",
        "if checkpoint[4] then",
    ),
    Mutant(
        PAGE,
        "no copy is confirmed without a salt",
        "if checkpoint[4] and string",
        "checkpoint[4] = checkpoint[4] or ''\nif string",
    ),
    Mutant(PAGE, "the salt is a part of each token", "token = checkpoint[4] .. ' '", "token = ' '"),
    Mutant(PAGE, "the token is that of the list", "'salt', ARGV[4])", "'salt', 't0')"),
    Mutant(CALLS, "the worker names the tokens of touched lists", "if each.moves_token}", "if False}"),
    Mutant(CALLS, "no two calls have the same token", "token_urlsafe(TOKEN_BYTES)", "str(TOKEN_BYTES)"),
    Mutant(FOLD, "a change of a list moves its token", "moves_token: bool = True", "moves_token: bool = False"),
    Mutant(
        FOLD,
        "a registration moves the token",
        '"HSET", view.logins(own), str(number), profile.login, moves_token=True',
        '"HSET", view.logins(own), str(number), profile.login',
    ),
    Mutant(
        FOLD,
        "an erasure moves the token",
        '"HDEL", view.logins(own), str(number), moves_token=True',
        '"HDEL", view.logins(own), str(number)',
    ),
    Mutant(RENDERED, "of one request", "known.request != request", "False"),
    Mutant(RENDERED, "from the same profiles", "and known.stamps == stamps", ""),
    Mutant(RENDERED, "while no profile has changed", " or not cache.is_unchanged(known.version, members)", ""),
    Mutant(RENDERED, "while no profile has expired", "known.read_at <= cache.oldest() or", ""),
    Mutant(
        RENDERED, "with the changes that its caller has made", "or known.position < min_position.needed(DIRECTORY)", ""
    ),
    Mutant(RENDERED, "not when the answer says its position", "min_position.reports or", ""),
    Mutant(
        RENDERED,
        "judged as other parts are",
        "return min_position.unjudged([(NO_USER, NO_USER, known.position, known.word, True)]) is None",
        "return True",
    ),
    Mutant(
        RENDERED,
        "a change while profiles are read counts",
        "stamps, version, read_at",
        "stamps, cache.version, read_at",
    ),
    Mutant(
        PROFILE_CACHE,
        "a reported change counts",
        "            self._note(member)\n            self.profiles.pop",
        "            self.profiles.pop",
    ),
    Mutant(
        PROFILE_CACHE,
        "a profile that was read anew counts",
        "            if profile is not None:\n                self._note",
        "            if False:\n                self._note",
    ),
    Mutant(PROFILE_CACHE, "so does one that another request has read", "profile = cached or profile  #", "pass  #"),
    Mutant(
        PROFILE_CACHE,
        "a profile read at a lower position counts",
        "if position < profile.position:  # Redis",
        "if False:  # Redis",
    ),
    Mutant(
        PROFILE_CACHE,
        "changes that are not remembered count",
        "(new <= len(self._noted) and ",
        "(",
    ),
    Mutant(
        SWITCH,
        "a try that has broken a freeze is made again",
        "            if freezes.broken != broken:\n                return None\n",
        "",
    ),
    Mutant(ANSWERS, "answers stay until the views have passed", ", 0) <= :passed", ", 0) IS NOT NULL"),
    Mutant(ANSWERS, "also those of changes of users", "CAST(answer ->> 'position' AS bigint)", "NULL"),
    Mutant(ANSWERS, "answers stay for a day", "answered_at < now() - make_interval(hours => :hours)", "true"),
    Mutant(PROFILES, "logins stay until the views have passed", "WHERE position <= :passed AND ", "WHERE "),
    Mutant(PROFILES, "logins stay for a day", " AND released_at < now() - interval '24 hours'", ""),
    Mutant(SWEEPS, "a view that is built counts", 'positions["live"] + positions["building"])', 'positions["live"])'),
    Mutant(SWEEPS, "a kept view counts", 'min([passed, *positions["old"]])', "passed"),
    Mutant(SWEEPS, "a lost view has passed nothing", "append(position or 0)", "append(position or 2**60)"),
    Mutant(JOB_QUEUE, "a rebuild is due at once", "                _defer_until=DUE,\n", ""),
    Mutant(READER, "no untrusted view is read", "        if not self._is_trusted():", "        if False:"),
    Mutant(SESSION, "settings are set", "WHERE CASE WHEN", "WHERE false AND CASE WHEN"),
    Mutant(SESSION, "the encoding", 'if encoding != "UTF8":', "if False:"),
    Mutant(SESSION, "durability", 'if self.durable and "off" in durability:', "if False:"),
    Mutant(SESSION, "a new connection takes writes", 'if self.writes and read_only == "on":', "if False:"),
    Mutant(SESSION, "a lent one still takes them", "return not self.must_write or", "return True or"),
    Mutant(SESSION, "a dead one is not lent", "pgconn.status != ConnStatus.OK or", "False and"),
    Mutant(POOL, "the pool leaves a read-only server", "context.is_disconnect = True", "pass"),
    Mutant(POOL, "a read is repeated once", "if is_last_try or not error", "if not error"),
    Mutant(POOL, "no write is sent twice", "if sqlstate(error) != IDLE_SESSION_ENDED:", "if False:"),
    Mutant(UNAVAILABLE, "a read-only server is unavailable", "if state == READ_ONLY:", "if False:"),
    Mutant(UNAVAILABLE, "so is a full disk", '"53", "57"', '"57"'),
    Mutant(READER, "a part below what it had reached is read again", "if not cached and (", "if False and ("),
    Mutant(
        READER,
        "a part below the caller's position is read again",
        "        for needed, (partition, _, position, *_) in min_position.below(parts):",
        "        for needed, (partition, _, position, *_) in ():",
    ),
    Mutant(
        READER,
        "each part is judged",
        "            while (part := min_position.unjudged(parts)) is not None:",
        "            while False:",
    ),
    Mutant(TAIL, "positions only grow", "            if newest[slot] < position:", "            if True:"),
    Mutant(TAIL, "a look is not too old", "max(came - LOOK_AGE_MAX_S, self._connected_at)", "self._connected_at"),
    Mutant(
        TAIL,
        "a look is from after the connection",
        "max(came - LOOK_AGE_MAX_S, self._connected_at)",
        "came - LOOK_AGE_MAX_S",
    ),
    Mutant(
        TAIL,
        "age counts from the beginning",
        "            self._began, self._failed = began, 0",
        "            self._began, self._failed = self._clock(), 0",
    ),
    Mutant(TAIL, "four looks have failed", "self._failed >= FAILED_LOOKS\n            and", "True\n            and"),
    Mutant(TAIL, "no worker is heard", "self._clock() - heard_at >= SILENT_S", "True"),
    Mutant(
        TAIL, "this process was not cut off alone", "            and heard_at - self._began <= LOOK_AGE_MAX_S\n", ""
    ),
    Mutant(TAIL, "every process has looked", "self._began < committed_at + LOOK_AGE_MAX_S or", "False or"),
    Mutant(TAIL, "the command's word is in the log", "word is None or self._words.at(position) == word", "True"),
    Mutant(TAIL, "older events are read", "        if position < self._since:\n            return False\n", ""),
    Mutant(
        TAIL,
        "no other history's word",
        "        if found not in (None, written):\n            raise ViewUnavailable\n",
        "",
    ),
    Mutant(
        TAIL,
        "no view is ahead of the log",
        "            if not self._is_known(position, word):",
        "            if False:",
    ),
    Mutant(TAIL, "what was lost is not taken for reported", "is_reported = position > self._lost and", "is_reported ="),
    Mutant(TAIL, "a reported position has its word", "(position, read_word(word, position))", "(position, None)"),
    Mutant(PROGRESS, "only what was reported", "return position in self._words and", "return not self._words or"),
    Mutant(
        TAIL,
        "a head below a reported position",
        "max(self.known, reported if reported > self._lost else 0)",
        "self.known",
    ),
    Mutant(TAIL, "what is known is still in the log", "found.word_asked != self._word\n", "False\n"),
    Mutant(TAIL, "what was remembered is dropped", "        self._on_other_history()\n", ""),
    Mutant(OWN_WRITES, "nothing of another history is answered", " and tail.history == self._history", ""),
    Mutant(
        OWN_WRITES,
        "a position beyond the log needs a look from after the request",
        " and self._tail.has_looked_since(self._came)",
        "",
    ),
    Mutant(OPENING, "a connect goes on when a look gives up", "            self._unclaimed.append(opening)\n", ""),
    Mutant(OPENING, "an old connection serves until the next is open", "if self._unclaimed[-1].done():", "if True:"),
    Mutant(OPENING, "an old connection is replaced", "            raise DisconnectionError\n", "            pass\n"),
    Mutant(OPENING, "a connect ends with its engine", "            opening.cancel()\n", ""),
    Mutant(OPENING, "a connection that none has taken is closed", "opening.result().pgconn.finish()", "pass"),
    Mutant(OVERVIEW, "a tool waits for the next host", "if reads_once else 0", "if False else 0"),
    Mutant(ADDRESS, "each host but the last holds up a connect", 'hosts.count(",") * ', ""),
    Mutant(LOOKS, "a standby is no look", "        if is_standby:\n            raise LogUnavailable\n", ""),
    Mutant(LOOKS, "no one waits for what is quiet", "if not quiet and last > at:", "if last > at:"),
    Mutant(
        LOOKS,
        "an actor's reads wait",
        "for actor in (batches[at][3] or ()) if at < len(lasts) else ():",
        "for actor in ():",
    ),
    Mutant(COMMITTER, "no decision over a parked event", "if state.parked is not None and", "if False and"),
    Mutant(
        RETRY, "what a replay would park stays parked", "for recorded in [*events, last]:", "for recorded in [last]:"
    ),
    Mutant(MIGRATE, "an older version changes nothing", "if found is not None and found.is_newer:", "if False:"),
    Mutant(
        SCHEMA,
        "only versions that may run on it",
        "if ours is not None and oldest in REVISIONS:",
        "if ours is not None:",
    ),
    Mutant(
        SUPERVISE,
        "what was cancelled inside is started again",
        "as error:\n            failure = _failure(error)  # also a bug",
        "as error:\n            raise error  # also a bug",
    ),
    Mutant(TAIL, "reports are compared with the log", ")) > self._lost:\n", ")) > 2**63:\n"),
    Mutant(TAIL, "reports of a worker that has not noticed", "            elif strange:\n", "            elif 0:\n"),
    Mutant(PROGRESS, "what was lost is not of this log", "at <= lost if found is None", "False if found is None"),
    Mutant(
        WORKER_LOOP, "workers report the word", "at, store, replaces, word, run)", "at, store, replaces, None, run)"
    ),
    Mutant(PROGRESS, "reports carry the word", "store, replaces, word, run)", "store, replaces, None, run)"),
    Mutant(VISIBLE, "a repeated command is looked at", "command.word is None and position <= tail.known", "True"),
    Mutant(HISTORIES, "a loss is settled with all servers", "if needs_all and away and not strange:", "if 0:"),
    Mutant(VISIBLE, "an unconfirmed command is 503", "        raise Unconfirmed\n", "        pass\n"),
    Mutant(
        DIRECTORY,
        "an erasure is noted first",
        "                await self._erasures.note(ErasedAccount(id_, registered_at))\n",
        "",
    ),
    Mutant(
        ERASURE_FILE, "an erasure that is not noted is refused", "            raise ErasureNotNoted from error\n", ""
    ),
    Mutant(
        ERASURE_FILE,
        "an id registered again is another account",
        " AND u.created_at = n.registered_at",
        "",
    ),
    Mutant(ERASURE_FILE, "a line that was cut off spoils no other", 'b"\\n" + line', 'line + b"\\n"'),
    Mutant(
        LOOK_UPS,
        "a login that was found may have changed hands",
        'kind == "id" and number is not None',
        "number is not None",
    ),
    Mutant(KEY_SET, "a key of the algorithm's own type", "if algorithm in key.algorithms and (", "if ("),
    Mutant(
        KEY_SET,
        "a key's own alg",
        "for algorithm in algorithms if algorithm == jwk.alg)",
        "for algorithm in algorithms)",
    ),
    Mutant(KEY_SET, "a named key is for its name only", "kid is None or key.kid == named", "True"),
    Mutant(KEY_SET, "a key for something else", 'if jwk.use not in (None, "sig") or (', "if False and ("),
    Mutant(KEY_SET, "an RSA key of enough bits", "not RSA_BITS_MIN <= key", "not 0 <= key"),
    Mutant(KEY_SET, "a set in which nothing is usable", "if ignored and not usable:", "if False:"),
    Mutant(KEY_SET, "a set of too many keys", "if len(found.keys) > KEYS_MAX:", "if False:"),
    Mutant(
        JWKS, "a new key without kid is looked for", "(tried and kid in self._set.kids and kid is not None)", "tried"
    ),
    Mutant(HEALTH, "a process without any server is not ready", "not is_cut_off and ", ""),
    Mutant(HEALTH, "a process without a key is not ready", '"stopping", "no_key")', '"stopping")'),
    Mutant(HEALTH, "keys are read again without traffic", "    keys.refresh_soon()", "    keys"),
    Mutant(KRAKEN, "a command by HEAD does nothing", " and was_head(scope)", " and False"),
    Mutant(
        JUDGE, "a worker that stopped is none", "if not any(worker.is_alive for worker in workers)", "if not workers"
    ),
    Mutant(OVERVIEW, "the probe's write is taken back", "await connection.rollback()", "await connection.commit()"),
    Mutant(
        MIGRATE,
        "a lock is waited for a second at most",
        "lock_timeout_ms=MIGRATION_LOCK_TIMEOUT_MS,",
        "lock_timeout_ms=0,",
    ),
    Mutant(MIGRATE, "a lock that is not free is tried again", "if sqlstate(error) not in _LOCK_STATES:", "if True:"),
    Mutant(
        SUPERVISE,
        "the pause is kept whatever happened",
        "reason(failure))\n        await asyncio.sleep(pause_s)",
        "reason(failure))\n            continue\n        await asyncio.sleep(pause_s)",
    ),
    Mutant(
        SUPERVISE,
        "arq starts again after a pause",
        "reason(failure))\n        await asyncio.sleep(pause)",
        "reason(failure))\n        await asyncio.sleep(0)",
    ),
    Mutant(
        LONG_LISTS, "no list waits for a slot for ever", "async with asyncio.timeout(self.limits.wait_s):", "if True:"
    ),
    Mutant(
        LONG_LISTS, "few lists are read at once", "asyncio.Semaphore(self.limits.running_max)", "asyncio.Semaphore(99)"
    ),
    Mutant(LONG_LISTS, "a list is not kept for ever", "self._clock() >= found.made_at + self.limits.kept_s", "False"),
    Mutant(LONG_LISTS, "work is cut into pieces", "if time.monotonic() >= self._due_at:", "if False:"),
    Mutant(
        LONG_LISTS, "a pause lets the server's thread run", "await asyncio.sleep(PAUSE_S)", "await asyncio.sleep(0)"
    ),
    Mutant(
        ATTRIBUTES,
        "a kept list shows what its caller must see",
        "if kept is None or not _shows(query, view, kept):",
        "if kept is None:",
    ),
    Mutant(
        ATTRIBUTES,
        "a kept list whose user's follows changed is read again",
        "or (now.total, now.scores) != (kept.length, [kept.newest])",
        "",
    ),
    Mutant(
        ATTRIBUTES,
        "a list is read once for those who wait",
        "if made is not None and is_new and _shows(query, view, made):",
        "if False:",
    ),
    Mutant(
        ATTRIBUTES,
        "no list beyond the limit",
        "    if total > reader.limits.followed_max:\n        reason",
        "    if False:\n        reason",
    ),
    Mutant(ATTRIBUTES, "a lost partition is no attribute", "if position is None or after is None:", "if False:"),
    Mutant(CHANNELS, "a long page of channels takes a slot", "if len(candidates) > ROWS_AT_ONCE else", "if False else"),
    Mutant(
        SWITCH, "a view that is not of the log is not replaced", "if is_same_log else _NOTHING", "if True else _NOTHING"
    ),
    Mutant(
        SWITCH,
        "profiles that changed at a switch are named",
        "            changed = await changed_since(engine, replaced.position, projector.position)",
        "            changed = []",
    ),
    Mutant(PROGRESS, "only what a generation replaces is kept", "if before and before == replaces:", "if before:"),
    Mutant(READER, "numbers of another log are dropped", "if before != found.replaces:", "if False:"),
    Mutant(LOOP, "changes that were not reported are", "else before.changed.union(since)", "else set(since)"),
    Mutant(
        LOOP, "changes since the last report are reported", "else before.changed.union(since)", "else before.changed"
    ),
    Mutant(LOOP, "partitions of others", "            and self.fences.keys() <= before.fences.keys()\n", ""),
    Mutant(LOOP, "of the replaced view only", "and before.view.generation == replaced", "and replaced"),
    Mutant(APP, "a check of health by OPTIONS", 'as_get(scope) if health.is_health(scope["path"]) else scope', "scope"),
    Mutant(APP, "HEAD is GET without its body", "return as_get(scope), without_body(send)", "return scope, send"),
    Mutant(HEAD, "no body after HEAD", 'message = {**message, "body": b""}', "pass"),
    Mutant(
        KEY_SET, "an unknown kid means the keys without one", "named = kid if kid in self.kids else None", "named = kid"
    ),
    Mutant(KEY_SET, "a token without kid is tried with all", "(kid is None or key.kid == named)", "key.kid == named"),
    Mutant(JWKS, "all keys of one kid are tried", "in enumerate(keys):", "in enumerate([*keys][:1]):"),
    Mutant(JWKS, "a failure is logged once", "if reason != self.facts.failure:", "if True:"),
    Mutant(
        JWKS, "a file that is back is no failure", "        self._failure = self.facts.failure = None", "        pass"
    ),
    Mutant(
        TOKENS,
        "an expired token is not found in the cache",
        "if caller is None or self._now() >= caller.expires_at:",
        "if caller is None:",
    ),
    Mutant(
        TOKENS,
        "nor one of the keys before",
        " or self._keys_version != self.keys.version:\n            return",
        ":\n            return",
    ),
    Mutant(TOKENS, "nor any while keys are due", "if self.keys.is_due() or self", "if self"),
    Mutant(
        TOKENS,
        "a cached token expires",
        "elif self._now() >= caller.expires_at + self._settings.leeway_s:",
        "elif False:",
    ),
    Mutant(TOKENS, "an unset audience is warned of", "if self._settings.audience is None:", "if False:"),
    Mutant(CLAIMS, "leeway of exp", "int(claims.exp) + leeway_s", "int(claims.exp)"),
    Mutant(CLAIMS, "leeway of nbf", "claims.nbf > now + leeway_s", "claims.nbf > now"),
    Mutant(CLAIMS, "leeway of iat", "claims.iat > now + leeway_s", "claims.iat > now"),
    Mutant(CLAIMS, "nbf counts", "if claims.nbf is not None and claims.nbf > now", "if False and claims.nbf > now"),
    Mutant(CLAIMS, "no script as a picture", "avatar_url=_text(_URL, ", "avatar_url=_text(_NAME, "),
    Mutant(CLAIMS, "no control characters in names", " and pattern.search(fit):", ":"),
    Mutant(USERS, "no script as an address", "max_length=2048, pattern=URL_PATTERN, ", "max_length=2048, "),
    Mutant(
        USER_ROUTES,
        "a service makes no person of itself",
        "        await refuse_new_service(services, caller)\n",
        "        pass\n",
    ),
    Mutant(
        MIGRATIONS,
        "a schema says who may run on it",
        '        connection.execute(text(noted), {"oldest": compatible_with})\n',
        "",
    ),
    Mutant(
        SCHEMA,
        "an older schema is refused",
        "if not found.is_newer and found.revision != NEWEST_REVISION:",
        "if False:",
    ),
    Mutant(
        PROGRESS,
        "a newer version may append fields",
        "(msgspec.Struct, array_like=True, gc=False)",
        "(msgspec.Struct, array_like=True, forbid_unknown_fields=True)",
    ),
    Mutant(WAKEUPS, "bad messages are one line", "if kind not in self._unreadable:", "if True:"),
    Mutant(HEALTH, "a process that has not looked is not ready", '_OWN: Final = ("starting", ', "_OWN: Final = ("),
    Mutant(HEALTH, "keys that are not read again", "    elif facts.failure:", "    elif False:"),
    Mutant(HEALTH, "details only where they are asked for", " if services.health_details else None", ""),
    Mutant(
        PROBLEMS,
        "late views refuse nothing",
        'start more if they are busy")',
        'start more if they are busy", ("reads",))',
    ),
    Mutant(PROBLEMS, "a pause refuses nothing", 'when the work is done")', 'when the work is done", ("reads",))'),
    Mutant(VIEW_FACTS, "no server holds the state up", "async with asyncio.timeout(FACTS_TIMEOUT_S):", "if True:"),
    Mutant(
        STATE_WATCH,
        "a failed reading ends nothing",
        "except Exception as error:  #",
        "except ZeroDivisionError as error:  #",
    ),
    Mutant(STATE_WATCH, "a failed reading is a problem", " if one.code != failed.code), failed]", ")]"),
    Mutant(SERVICES, "reads say when a build is over", "    reader.build_left_s = state.build_left_s\n", ""),
    Mutant(READER, "Retry-After is what is left of a build", "left = self.build_left_s()", "left = None"),
    Mutant(
        EVENT_LOG,
        "no decision from an unknown event",
        "if parked is None and isinstance(last.event, Unreadable):",
        "if False:",
    ),
    Mutant(EVENT_LOG, "no decision from a skipped event", "    if is_skipped:\n", "    if False:\n"),
    Mutant(
        COMMITTER,
        "no answer from an unknown event",
        "if event is not None and isinstance(event.event, Unreadable):",
        "if False:",
    ),
    Mutant(
        RETRY,
        "only what can be read is retried",
        "if isinstance(recorded.event, Unreadable):\n            pairs",
        "if False:\n            pairs",
    ),
    Mutant(RETRY, "no retry during a pause", " or await read_pause(engine, store) is not None", ""),
    Mutant(RETRY, "no retry in another database's views", " or await why_refused(engine, redis) is not None", ""),
    Mutant(RETRY, "no retry during a build", 'any(known.state == "building" for', "any(False for"),
    Mutant(SWEEPS, "what can be read is retried", "            await self._retry_readable()\n", "            pass\n"),
    Mutant(SWEEPS, "only a sweep that ended follows says so", "if finished and have_ended:", "if finished:"),
    Mutant(STATUS, "the exit code", "        return found.exit_code\n", "        return 0\n"),
    Mutant(
        STATE, "a partition beyond the log", "elif at.position > log.position and not log.read_only:", "elif False:"
    ),
    Mutant(
        STATE_WATCH,
        "a state without Postgres",
        "        except LogUnavailable as error:\n            why",
        "        except ZeroDivisionError as error:\n            why",
    ),
    Mutant(
        SERVICE_STATUS,
        "Redis that refuses a write",
        "if redis is not None and state.views.why_not is None:",
        "if False:",
    ),
    Mutant(
        SERVICE_STATUS,
        "Postgres that refuses a write",
        "if postgres is not None and state.log is not None and not state.log.read_only:",
        "if False:",
    ),
    Mutant(
        SERVICE_STATUS,
        "an empty key set",
        '    if keys.failure is None:\n        return [problem("no_key"',
        '    if False:\n        return [problem("no_key"',
    ),
    Mutant(
        LOG_LINES,
        "times are UTC",
        "datetime.fromtimestamp(record.created, UTC)",
        "datetime.fromtimestamp(record.created)",
    ),
    Mutant(
        LOG_LINES,
        "each line of a record has a front",
        '[front + line for line in super().format(record).splitlines() or [""]]',
        "[front + super().format(record)]",
    ),
    Mutant(ERASURE_FILE, "the file is for this user only", "os.O_CLOEXEC, 0o600)", "os.O_CLOEXEC, 0o644)"),
    Mutant(
        ERASURE_FILE,
        "no start without the file",
        '            raise SettingsError(f"FOLLOWS_ERASURE_FILE',
        '            return cls(None)\n            raise SettingsError(f"FOLLOWS_ERASURE_FILE',
    ),
    Mutant(FORWARDED, "the last forwarded host counts", '.rpartition(",")[2].strip()', '.partition(",")[0].strip()'),
    Mutant(FORWARDED, "what the client has sent does not count", "passed[-self.trusted]", "passed[0]"),
    Mutant(RATE_LIMIT, "no id is an address", 'return f"address:{parsed}"', 'return f"caller:{parsed}"'),
    Mutant(DOCUMENT_PAGE, "the page runs its own scripts only", 'response.headers["Content-Security-Policy"] =', "_ ="),
    Mutant(RIGHTS, "a role that cannot change events", '    "events": ("SELECT", "INSERT"),\n', ""),
    Mutant(ONE_READING, "two lines of one header", "if names.count(name) > 1:", "if False:"),
)
