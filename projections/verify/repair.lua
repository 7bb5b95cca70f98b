-- Write to a frozen partition without moving its checkpoint, then unfreeze it, as one atomic step.
--
-- KEYS  1 the partition's checkpoint, then the keys the commands name, all in the partition's slot
-- ARGV  1 the position and 2 the fence that the partition had when the commands were decided, 3 the token it was frozen
--       with, which no other call has, then the commands, each as name, index into KEYS, number of arguments, arguments
-- Returns OK, LOST, MOVED when the partition has another position or fence now, or UNFROZEN when it is not frozen with
-- this token any more. Nothing but OK changes anything.
local at = redis.call('HMGET', KEYS[1], 'position', 'fence', 'frozen')
if not at[1] then
    return 'LOST'
end
if at[1] ~= ARGV[1] or tonumber(at[2]) ~= tonumber(ARGV[2]) then
    return 'MOVED'
end
if at[3] ~= ARGV[3] then
    return 'UNFROZEN'
end
-- Before the first command: a repair that fails halfway has changed lists.
redis.call('HSET', KEYS[1], 'salt', ARGV[3])
local i = 4
while i <= #ARGV do
    local count = tonumber(ARGV[i + 2])
    redis.call(ARGV[i], KEYS[tonumber(ARGV[i + 1])], unpack(ARGV, i + 3, i + 2 + count))
    i = i + 3 + count
end
redis.call('HDEL', KEYS[1], 'frozen')
return 'OK'
