-- Apply one batch to one partition, if the partition is at the expected position, as one atomic step.
--
-- KEYS  1 the partition's checkpoint, then the key of each operation, all in the partition's slot
-- ARGV  1 expected position, 2 new position, 3 the caller's fence, 4 the expected word as keys.write_word writes it ('' if
--       not known), 5 the new word ('': do not write it), 6 the position up to which rows in the batch are new, with its
--       word, if that is beyond the new position (else ''), 7 the operations in MessagePack, each {name, {argument, ...}},
--       8 a token that no other call has, 9 of a part of a snapshot the name of the part before it ('' for the first, and of
--       a batch), 10 its own ('.' for the last, '' of a batch), from 11 on the token again after each field whose lists the
--       operations change: field, token, ...
-- Returns {outcome, position of the partition}, for FROZEN also the freeze's token. Nothing but OK changes anything.
--
-- The operations set and remove, they never count, so applying them twice has the same result. A script that fails halfway
-- (out of memory) has not moved the checkpoint, and the batch is applied again.
local keys, argv, call = KEYS, ARGV, redis.call -- globals are slow
local at = call('HMGET', keys[1], 'position', 'fence', 'word', 'frozen')
if not at[1] then
    return {'LOST', '0'}
end
if tonumber(argv[3]) < tonumber(at[2]) then
    return {'FENCED', at[1]}
end
if at[4] then -- another process has frozen the partition with this token
    return {'FROZEN', at[1], at[4]}
end
local position, expected = tonumber(at[1]), tonumber(argv[1])
if position > expected then
    return {'AHEAD', at[1]}
end
if position < expected then
    return {'BEHIND', at[1]}
end
-- A worker of an earlier version moves the position only: then the word is of another position and means nothing.
if at[3] and argv[4] ~= '' and at[3] ~= argv[4] and string.match(at[3], '^%d+') == at[1] then
    return {'OTHER_HISTORY', at[1]}
end
-- The parts leave the position as it is. If the part before is not the last one, Redis has lost parts.
if argv[9] ~= '' and call('HGET', keys[1], 'part') ~= argv[9] then
    return {'BEHIND', at[1]}
end
-- Tokens move first: a batch that fails halfway has changed lists. A worker of an earlier version, which moves none, writes
-- its fence without a zero in front: after one, all lists of the partition may have changed.
if not string.match(at[2], '^0%d') then
    call('HSET', keys[1], 'salt', argv[8])
end
if argv[11] then
    call('HSET', keys[1], unpack(argv, 11))
end
for k, operation in ipairs(cmsgpack.unpack(argv[7])) do
    local name, key, arguments = operation[1], keys[k + 1], operation[2]
    if name == 'DELEQ' then
        if call('GET', key) == arguments[1] then
            call('DEL', key)
        end
    else
        call(name, key, unpack(arguments))
    end
end
call('HSET', keys[1], 'position', argv[2], 'fence', '0' .. argv[3])
if argv[10] == '.' then
    call('HDEL', keys[1], 'part', 'upto', 'built')
elseif argv[10] ~= '' then
    call('HSET', keys[1], 'part', argv[10])
end
if argv[5] ~= '' then
    call('HSET', keys[1], 'word', argv[5])
end
if argv[6] ~= '' then
    call('HSET', keys[1], 'rows', argv[6])
end
return {'OK', argv[2]}
