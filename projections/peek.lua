-- Read many things of one lane at one moment, as far as the budget goes, and where the lane stood then.
--
-- KEYS  1 the lane's checkpoint, then the keys the reads name, all in the lane's slot
-- ARGV  1 how many elements may be read, so that nobody else waits for long; then the reads, each as name, index into
--       KEYS, number of arguments, arguments
-- Answers false when the lane is lost, else {position, an answer per read}; fewer answers than reads when the budget
-- was spent: ask again for the others. An error (a key of another type) is an answer like any other.
local position = redis.call('HGET', KEYS[1], 'position')
if not position then
    return false
end
local answers, left, i = {position}, tonumber(ARGV[1]), 2
while i <= #ARGV and left > 0 do
    local count = tonumber(ARGV[i + 2])
    local answer = redis.pcall(ARGV[i], KEYS[tonumber(ARGV[i + 1])], unpack(ARGV, i + 3, i + 2 + count))
    answers[#answers + 1] = answer
    left = left - 1 - (type(answer) == 'table' and #answer or 0)
    i = i + 3 + count
end
return answers
