-- Read many keys of one partition in one atomic step, together with the partition's position.
--
-- KEYS  1 the partition's checkpoint, then the keys the commands name, all in the partition's slot
-- ARGV  1 how many elements may be read, so that other callers do not wait long; then the commands, each as name, index
--       into KEYS, number of arguments, arguments
-- Returns false when the partition is lost, else {position, an answer per command}. When the elements are used up there
-- are fewer answers than commands: call again for the rest. An error (a key of another type) is an answer, too.
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
