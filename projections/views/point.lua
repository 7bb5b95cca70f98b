-- Make another generation live, or none, unless a higher fence has done so already.
--
-- KEYS  1 the pointer
-- ARGV  1 the caller's fence, 2 what to write there, or '' to remove it, 3 if not '': only while it names this generation
-- Answers 1, or 0 when nothing was changed.
local now = redis.call('GET', KEYS[1])
if now then
    local fence = string.match(now, '"fence":(%d+)')
    if fence and tonumber(fence) > tonumber(ARGV[1]) then
        return 0
    end
end
if ARGV[3] ~= '' and (not now or string.match(now, '"generation":(%d+)') ~= ARGV[3]) then
    return 0
end
if ARGV[2] == '' then
    redis.call('DEL', KEYS[1])
else
    redis.call('SET', KEYS[1], ARGV[2])
end
return 1
