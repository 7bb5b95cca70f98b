-- Read one page of a follow list, its total and its partition's position, all of one moment; O(log n) at any depth.
--
-- KEYS  1 the partition's checkpoint, 2 the partition's logins, 3 the list
-- ARGV  1 the user's number, 2 'REV' for newest first else '', 3 limit,
--       4 the checkpoint's field that changes with the list, 5 the token of the caller's copy of this page, '' without one,
--       6 offset, or with a cursor: 7 its score, 8 its member
-- Returns false when the partition is lost, {position, its word or false, token} when the copy is true, else these with
-- {..., 1 if the user exists, total, {member, score, ...}}. The token is false while no worker changes it.
local checkpoint = redis.call('HMGET', KEYS[1], 'position', 'word', 'fence', 'salt', ARGV[4])
if not checkpoint[1] then
    return false
end
local token = false
-- A worker of an earlier version, which moves no tokens, writes its fence without a zero in front.
if checkpoint[4] and string.match(checkpoint[3], '^0%d') then
    token = checkpoint[4] .. ' ' .. (checkpoint[5] or '')
    if token == ARGV[5] then
        return {checkpoint[1], checkpoint[2], token}
    end
end
local total = redis.call('ZCARD', KEYS[3])
local reverse, limit, start = ARGV[2] == 'REV', tonumber(ARGV[3]), tonumber(ARGV[6])
local member, toggled = ARGV[8], false
if ARGV[7] then
    -- below: the number of entries before the cursor's place, counted from the oldest. The cursor's own row may be gone.
    -- Or it was toggled: its notifications flag, the score's last bit, changed, and it may be after its old place now.
    local score, below, itself = tonumber(ARGV[7]), nil, 0
    local now = tonumber(redis.call('ZSCORE', KEYS[3], member) or -1)
    toggled = now ~= score and math.floor(now / 2) == math.floor(score / 2)
    if now == score then
        below, itself = redis.call('ZRANK', KEYS[3], member), 1
    else
        below = redis.call('ZCOUNT', KEYS[3], '-inf', '(' .. ARGV[7])
        local high = redis.call('ZCOUNT', KEYS[3], '-inf', ARGV[7])
        while below < high do -- binary search among equal scores
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
local last = toggled and start + limit or start + limit - 1
if reverse then
    rows = redis.call('ZRANGE', KEYS[3], start, last, 'REV', 'WITHSCORES')
else
    rows = redis.call('ZRANGE', KEYS[3], start, last, 'WITHSCORES')
end
if toggled then -- the row is not shown twice
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
return {checkpoint[1], checkpoint[2], token, redis.call('HEXISTS', KEYS[2], ARGV[1]), total, rows}
