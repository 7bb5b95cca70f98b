-- Read the part of a large sorted set after a given entry, in one atomic step with the partition's position.
--
-- KEYS  1 the partition's checkpoint, 2 the set
-- ARGV  1 how many entries, then unless it is the first part: 2 score and 3 member of the last entry of the part before
-- Returns false when the partition is lost, else {position, {member, score, ...}} in the set's order.
local position = redis.call('HGET', KEYS[1], 'position')
if not position then
    return false
end
local start = 0
if ARGV[2] then
    local now = redis.call('ZSCORE', KEYS[2], ARGV[3])
    if now and tonumber(now) == tonumber(ARGV[2]) then
        start = redis.call('ZRANK', KEYS[2], ARGV[3]) + 1
    else -- the entry was removed: find where it was, by binary search among equal scores
        start = redis.call('ZCOUNT', KEYS[2], '-inf', '(' .. ARGV[2])
        local high = redis.call('ZCOUNT', KEYS[2], '-inf', ARGV[2])
        while start < high do
            local middle = math.floor((start + high) / 2)
            if redis.call('ZRANGE', KEYS[2], middle, middle)[1] < ARGV[3] then
                start = middle + 1
            else
                high = middle
            end
        end
    end
end
return {position, redis.call('ZRANGE', KEYS[2], start, start + tonumber(ARGV[1]) - 1, 'WITHSCORES')}
