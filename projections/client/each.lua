-- Make several calls of another script, which is put in place of the line in parentheses.
--
-- KEYS  those of all calls
-- ARGV  for each call the number of its keys, the number of its arguments, and the arguments
-- Returns the answers. A call that fails is answered with its error, and the others are made. A server that cannot
-- serve (READONLY, OOM) answers the whole with that error, as it would answer one call.
local function one(KEYS, ARGV)
-- (the other script)
end
local keys, argv, answers, key, at = KEYS, ARGV, {}, 0, 1
while argv[at] do
    local own_keys, own_argv = {}, {}
    for n = 1, tonumber(argv[at]) do
        own_keys[n] = keys[key + n]
    end
    for n = 1, tonumber(argv[at + 1]) do
        own_argv[n] = argv[at + 1 + n]
    end
    key, at = key + #own_keys, at + 2 + #own_argv
    local is_done, answer = pcall(one, own_keys, own_argv)
    if not is_done then
        local why = type(answer) == 'table' and answer.err or tostring(answer)
        local code = string.match(why, '^(%u+) ')
        answer = {err = why}
        if code and code ~= 'ERR' and code ~= 'WRONGTYPE' then
            return answer
        end
    end
    answers[#answers + 1] = answer
end
return answers
