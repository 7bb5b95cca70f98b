-- Apply one batch to one lane, if the lane stands exactly where the caller believes, as one atomic step.
--
-- KEYS  1 the lane's checkpoint, then the keys the operations name, all in the lane's slot
-- ARGV  1 expected position, 2 new position, 3 the caller's fence, 4 the log's epoch, then the operations, each as
--       name, index into KEYS, number of arguments, arguments
-- Answers {outcome, position the lane stands at}. Nothing but OK changes anything.
--
-- The operations set and remove, they never count, so applying them twice gives the same; a script that dies half way
-- (out of memory) has not moved the checkpoint, and the next try does it all again.
local at = redis.call('HMGET', KEYS[1], 'position', 'fence', 'epoch', 'hold')
if not at[1] then
    return {'LOST', '0'}
end
if tonumber(ARGV[3]) < tonumber(at[2]) then
    return {'FENCED', at[1]}
end
if ARGV[4] ~= at[3] then
    return {'FOREIGN', at[1]}
end
if at[4] then -- somebody mends this lane; he has until a deadline by this server's clock
    local now = redis.call('TIME')
    if tonumber(string.match(at[4], ':(%d+)$')) > now[1] * 1000 + math.floor(now[2] / 1000) then
        return {'HELD', at[1]}
    end
end
local position, expected = tonumber(at[1]), tonumber(ARGV[1])
if position > expected then
    return {'AHEAD', at[1]}
end
if position < expected then
    return {'REWOUND', at[1]}
end
local i = 5
while i <= #ARGV do
    local name, key, count = ARGV[i], KEYS[tonumber(ARGV[i + 1])], tonumber(ARGV[i + 2])
    if name == 'DELEQ' then
        if redis.call('GET', key) == ARGV[i + 3] then
            redis.call('DEL', key)
        end
    else
        redis.call(name, key, unpack(ARGV, i + 3, i + 2 + count))
    end
    i = i + 3 + count
end
redis.call('HSET', KEYS[1], 'position', ARGV[2], 'fence', ARGV[3])
return {'OK', ARGV[2]}
