-- Leaves a caller's log position for his next reads, unless a later one is there. KEYS: its key. ARGV: position, seconds.
local there = redis.call('GET', KEYS[1])
if not there or tonumber(there) < tonumber(ARGV[1]) then
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
return 1
