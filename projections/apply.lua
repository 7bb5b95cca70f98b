-- Apply one batch to one lane, if the lane stands exactly where the caller believes, as one atomic step.
--
-- KEYS  1 the lane's checkpoint, then the key of each operation, all in the lane's slot
-- ARGV  1 expected position, 2 new position, 3 the caller's fence, 4 the log's epoch, 5 the time of the event at the new
--       position (0: not to be noted), 6 the operations in MessagePack, each {name, {argument, ...}}
-- Answers {outcome, position the lane stands at}. Nothing but OK changes anything.
--
-- The operations set and remove, they never count, so applying them twice gives the same; a script that dies half way
-- (out of memory) has not moved the checkpoint, and the next try does it all again.
local keys, argv, call = KEYS, ARGV, redis.call -- globals are slow
local at = call('HMGET', keys[1], 'position', 'fence', 'epoch', 'hold')
if not at[1] then
    return {'LOST', '0'}
end
if tonumber(argv[3]) < tonumber(at[2]) then
    return {'FENCED', at[1]}
end
if argv[4] ~= at[3] then
    return {'FOREIGN', at[1]}
end
if at[4] then -- somebody mends this lane; he has until a deadline by this server's clock
    local now = call('TIME')
    if tonumber(string.match(at[4], ':(%d+)$')) > now[1] * 1000 + math.floor(now[2] / 1000) then
        return {'HELD', at[1]}
    end
end
local position, expected = tonumber(at[1]), tonumber(argv[1])
if position > expected then
    return {'AHEAD', at[1]}
end
if position < expected then
    return {'REWOUND', at[1]}
end
for k, operation in ipairs(cmsgpack.unpack(argv[6])) do
    local name, key, arguments = operation[1], keys[k + 1], operation[2]
    if name == 'DELEQ' then
        if call('GET', key) == arguments[1] then
            call('DEL', key)
        end
    else
        call(name, key, unpack(arguments))
    end
end
call('HSET', keys[1], 'position', argv[2], 'fence', argv[3])
if argv[5] ~= '0' then
    call('HSET', keys[1], 'stamp', argv[5])
end
return {'OK', argv[2]}
