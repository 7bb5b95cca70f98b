-- Replace a value, if it is still the one that the caller has read.
--
-- KEYS  1 the key
-- ARGV  1 what it must hold, '' for nothing, 2 what to write
-- Answers 1, or 0 when nothing was changed.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
