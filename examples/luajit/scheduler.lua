-- Coroutines that read, write and sleep as if that blocked; a coroutine that has to wait is parked on a slot.
--
-- A slot is two words of memory. To see whether there is news is a plain read of one of them, without a call; only who
-- sees some calls bell_slot_consume to take it. Two uses are made of that:
-- - A read that came back short has emptied the socket. The next one looks at the word first, and parks at once if
--   there is no news: no system call just to be told EAGAIN.
-- - This is one thread that also drives: after each bell_poll it looks at the words of all who are parked, a few
--   nanoseconds each. For many thousands who mostly wait, targets POLL and QUEUE are better: they name those with news.
local ffi, bit, bell = require "ffi", require "bit", require "doorbell"
local C, check = bell.C, bell.check
ffi.cdef [[
int close(int); ssize_t read(int, void *, size_t); ssize_t send(int, const void *, size_t, int);
]]
local EAGAIN, MSG_NOSIGNAL = 11, 0x4000
local out = ffi.new "bell_t *[1]"
check(C.bell_create(nil, out))
local manager = out[0]
local handle_out, slot_out, buffer = ffi.new "uint64_t[1]", ffi.new "bell_slot *[1]", ffi.new "char[4096]"

local S = { parked = 0, refused = 0 } -- how often somebody was parked; how often the kernel said EAGAIN
local runnable, waiting = {}, {}

local function resume(thread, ...)
  local ok, message = coroutine.resume(thread, ...)
  if not ok then error(message, 0) end
end

local function has_news(slot, direction)
  return bit.band(direction == bell.READ and slot.rd or slot.wr, bell.NEWS_OR_CLOSED) ~= 0
end

-- Waits for news on one word of a slot, and takes it.
local function wait(handle, slot, direction)
  if not has_news(slot, direction) then
    S.parked = S.parked + 1
    waiting[#waiting + 1] = { thread = coroutine.running(), slot = slot, direction = direction }
    coroutine.yield()
  end
  return check(C.bell_slot_consume(manager, handle, direction))
end

local function with_slot(result)
  check(result)
  local handle = handle_out[0]
  check(C.bell_slot_map(manager, handle, slot_out))
  return handle, slot_out[0]
end

function S.spawn(f, ...)
  local arguments = { ... }
  runnable[#runnable + 1] = coroutine.create(function() f(unpack(arguments)) end)
end

-- Runs until nobody is left.
function S.run()
  while true do
    while #runnable > 0 do
      local now = runnable
      runnable = {}
      for _, thread in ipairs(now) do resume(thread) end
    end
    if #waiting == 0 then return end
    local n = C.bell_poll(manager, 0, nil, 0, bell.NEVER)
    if n ~= bell.EINTR then check(n) end
    local still = {}
    for _, w in ipairs(waiting) do
      if has_news(w.slot, w.direction) then runnable[#runnable + 1] = w.thread else still[#still + 1] = w end
    end
    waiting = still
  end
end

function S.sleep(seconds)
  local spec = ffi.new "bell_timeout_spec"
  spec.size, spec.target.kind = ffi.sizeof(spec), bell.TARGET_SLOT
  spec.deadline_ns = C.bell_now(0) + ffi.cast("int64_t", seconds * 1e9)
  local handle, slot = with_slot(C.bell_register_timeout(manager, spec, handle_out))
  wait(handle, slot, bell.READ)
  C.bell_unregister(manager, handle, 0)
end

local Stream = {}
Stream.__index = Stream

-- A non-blocking fd, watched in mode EDGE: registered once, and no system call for a wait.
function S.stream(fd)
  local spec = ffi.new "bell_fd_spec"
  spec.size, spec.fd, spec.target.kind = ffi.sizeof(spec), fd, bell.TARGET_SLOT
  spec.interest, spec.mode = bell.READ + bell.WRITE, bell.EDGE
  local handle, slot = with_slot(C.bell_register_fd(manager, spec, handle_out))
  return setmetatable({ fd = fd, handle = handle, slot = slot }, Stream)
end

function Stream:wait(direction)
  if bit.band(wait(self.handle, self.slot, direction), bell.ENDING) ~= 0 then self.ending = true end
end

-- Repeats a system call for as long as it says EAGAIN. Its result, or nil and errno.
function Stream:try(direction, call, ...)
  while true do
    local n = call(self.fd, ...)
    if n >= 0 then return tonumber(n) end
    if ffi.errno() ~= EAGAIN then return nil, ffi.errno() end
    S.refused = S.refused + 1
    self:wait(direction)
  end
end

-- What came, nil at the end.
function Stream:read()
  if self.drained then self:wait(bell.READ) end
  local n = self:try(bell.READ, ffi.C.read, buffer, ffi.sizeof(buffer))
  -- When the end was told with the bytes, no more news will come of it: it has to be read.
  self.drained = n and n < ffi.sizeof(buffer) and not self.ending
  return n and n > 0 and ffi.string(buffer, n) or nil
end

-- False if the other side is gone.
function Stream:write(bytes)
  while #bytes > 0 do
    local n = self:try(bell.WRITE, ffi.C.send, bytes, #bytes, MSG_NOSIGNAL)
    if not n then return false end
    bytes = bytes:sub(n + 1)
  end
  return true
end

function Stream:close()
  check(C.bell_unregister(manager, self.handle, 0)) -- before the fd is closed
  ffi.C.close(self.fd)
end

return S
