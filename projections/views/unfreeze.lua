-- Unfreeze a partition that is frozen with a token; with another token it stays frozen.
--
-- KEYS  1 the partition's checkpoint
-- ARGV  1 the token
-- Answers 1, or 0 when nothing was changed.
if redis.call('HGET', KEYS[1], 'frozen') ~= ARGV[1] then
    return 0
end
return redis.call('HDEL', KEYS[1], 'frozen')
