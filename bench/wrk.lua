-- Sends the requests of a file in order with wrk, and prints what came of them as one line of JSON.
local requests, tokens, at = {}, {}, 0

function init(arguments)
  for line in io.lines(arguments[2]) do tokens[#tokens + 1] = line end
  local host = wrk.headers["Host"]
  for line in io.lines(arguments[1]) do
    local method, path, token = line:match("^%S+ (%S+) (%S+) (%S+)$")
    local front = method .. " " .. path .. " HTTP/1.1\r\nHost: " .. host .. "\r\n"
    requests[#requests + 1] = { front, tonumber(token) + 1 }
  end
  issued = 0
end

function setup(thread) worker = thread end

function request()
  issued = issued + 1
  at = at + 1
  if at > #requests then at = 1 end
  local one = requests[at]
  if one[2] == 0 then return one[1] .. "\r\n" end
  return one[1] .. "Authorization: Bearer " .. tokens[one[2]] .. "\r\n\r\n"
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests":%d,"seconds":%.6f,"bytes":%d,"bad_status":%d,"broken":%d,"issued":%d,'
      .. '"p50_ms":%.4f,"p95_ms":%.4f,"p99_ms":%.4f,"max_ms":%.4f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, worker:get("issued"),
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
