-- For wrk: checks each response, waits between requests (THINK_MS on average), and says in one line what came out.
local think = tonumber(os.getenv("THINK_MS") or "0")
local threads = {}
wrong = 0

function setup(thread)
  threads[#threads + 1] = thread
end

function init(args)
  math.randomseed(os.time())
end

if think > 0 then
  function delay()
    return math.random(0, 2 * think)
  end
end

function response(status, headers, body)
  if status ~= 200 or body ~= "Hello, world!" then
    wrong = wrong + 1
  end
end

-- requests, requests/s, p50 and p99 in microseconds, errors, wrong answers
function done(summary, latency, requests)
  local bad = 0
  for _, thread in ipairs(threads) do
    bad = bad + thread:get("wrong")
  end
  local e = summary.errors
  io.write(string.format("result %d %.0f %.0f %.0f %d %d\n", summary.requests, summary.requests / summary.duration * 1e6,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout, bad))
end
