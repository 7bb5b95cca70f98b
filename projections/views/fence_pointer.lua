-- Raise the fence of the live pointer and change nothing else of it, so that a switch with a lower fence is refused.
--
-- KEYS  1 the pointer
-- ARGV  1 the fence
-- Returns the fence that the pointer has now, 0 without a pointer.
local now = redis.call('GET', KEYS[1])
local fence = now and string.match(now, '"fence":(%d+)')
if not fence then
    return 0
end
if tonumber(fence) >= tonumber(ARGV[1]) then
    return tonumber(fence)
end
redis.call('SET', KEYS[1], (string.gsub(now, '"fence":%d+', '"fence":' .. ARGV[1], 1)))
return tonumber(ARGV[1])
