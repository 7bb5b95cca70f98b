-- Mend a held lane without moving it, and let it go, as one atomic step.
--
-- KEYS  1 the lane's checkpoint, then the keys the operations name, all in the lane's slot
-- ARGV  1 the position and 2 the fence that the lane had when the operations were decided, 3 the holder's token, then
--       the operations, each as name, index into KEYS, number of arguments, arguments
-- Answers OK; LOST, MOVED when the lane stands elsewhere, EXPIRED when the hold is over. Nothing but OK changes anything.
local at = redis.call('HMGET', KEYS[1], 'position', 'fence', 'hold')
if not at[1] then
    return 'LOST'
end
if at[1] ~= ARGV[1] or at[2] ~= ARGV[2] then
    return 'MOVED'
end
local time = redis.call('TIME')
local token, deadline = string.match(at[3] or ':0', '^(.*):(%d+)$')
if token ~= ARGV[3] or tonumber(deadline) <= time[1] * 1000 + math.floor(time[2] / 1000) then
    return 'EXPIRED'
end
local i = 4
while i <= #ARGV do
    local count = tonumber(ARGV[i + 2])
    redis.call(ARGV[i], KEYS[tonumber(ARGV[i + 1])], unpack(ARGV, i + 3, i + 2 + count))
    i = i + 3 + count
end
redis.call('HDEL', KEYS[1], 'hold')
return 'OK'
