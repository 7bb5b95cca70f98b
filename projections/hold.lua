-- Keep a lane where it stands for a moment: apply.lua answers HELD until the deadline, by this server's clock.
--
-- KEYS  1 the lane's checkpoint
-- ARGV  1 the holder's token, 2 for how many milliseconds from now; 0 lets go
-- Answers false when the lane is lost, {0} when somebody else holds it, else {1, position, fence}.
local at = redis.call('HMGET', KEYS[1], 'position', 'fence', 'hold')
if not at[1] then
    return false
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if at[3] then
    local token, deadline = string.match(at[3], '^(.*):(%d+)$')
    if token ~= ARGV[1] and tonumber(deadline) > now then
        return {0}
    end
end
if ARGV[2] == '0' then
    redis.call('HDEL', KEYS[1], 'hold')
else
    redis.call('HSET', KEYS[1], 'hold', ARGV[1] .. ':' .. string.format('%.0f', now + tonumber(ARGV[2])))
end
return {1, at[1], at[2]}
