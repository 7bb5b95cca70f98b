-- One page of a follow list, its total, and where its lane stands, all of one moment; O(log n) at any depth.
--
-- KEYS  1 the lane's checkpoint, 2 the lane's logins, 3 the list
-- ARGV  1 the user's number, 2 'REV' for newest first else '', 3 limit,
--       4 offset, or with a cursor: 5 its score, 6 its member
-- Answers false when the lane is lost, else {position, whether the user exists, total, {member, score, ...}}.
local position = redis.call('HGET', KEYS[1], 'position')
if not position then
    return false
end
local total = redis.call('ZCARD', KEYS[3])
local reverse, limit, start = ARGV[2] == 'REV', tonumber(ARGV[3]), tonumber(ARGV[4])
local member, rang = ARGV[6], false
if ARGV[5] then
    -- below: how many entries stand before the cursor's place, counted from the oldest. The cursor's own row may be gone,
    -- or it rang: its flag, which is the score's last bit, changed, and it may stand behind its old place now.
    local score, below, itself = tonumber(ARGV[5]), nil, 0
    local now = tonumber(redis.call('ZSCORE', KEYS[3], member) or -1)
    rang = now ~= score and math.floor(now / 2) == math.floor(score / 2)
    if now == score then
        below, itself = redis.call('ZRANK', KEYS[3], member), 1
    else
        below = redis.call('ZCOUNT', KEYS[3], '-inf', '(' .. ARGV[5])
        local high = redis.call('ZCOUNT', KEYS[3], '-inf', ARGV[5])
        while below < high do -- among equal scores, by halves
            local middle = math.floor((below + high) / 2)
            if redis.call('ZRANGE', KEYS[3], middle, middle)[1] < member then
                below = middle + 1
            else
                high = middle
            end
        end
    end
    start = reverse and total - below or below + itself
end
local rows
local last = rang and start + limit or start + limit - 1
if reverse then
    rows = redis.call('ZRANGE', KEYS[3], start, last, 'REV', 'WITHSCORES')
else
    rows = redis.call('ZRANGE', KEYS[3], start, last, 'WITHSCORES')
end
if rang then -- it is not shown twice
    for at = #rows - 1, 1, -2 do
        if rows[at] == member then
            table.remove(rows, at)
            table.remove(rows, at)
        end
    end
    for at = #rows, 2 * limit + 1, -1 do
        rows[at] = nil
    end
end
return {position, redis.call('HEXISTS', KEYS[2], ARGV[1]), total, rows}
