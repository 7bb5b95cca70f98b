-- Freeze a partition: apply.lua answers FROZEN until the same token unfreezes it.
--
-- KEYS  1 the partition's checkpoint
-- ARGV  1 the caller's token
-- Answers false when the partition is lost, {0, token} when another token has frozen it, else {1, position, fence}.
local at = redis.call('HMGET', KEYS[1], 'position', 'fence', 'frozen')
if not at[1] then
    return false
end
if at[3] and at[3] ~= ARGV[1] then
    return {0, at[3]}
end
redis.call('HSET', KEYS[1], 'frozen', ARGV[1])
return {1, at[1], at[2]}
