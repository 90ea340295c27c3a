-- Echo server and client, a coroutine for each connection:
--     luajit echo.lua serve PORT                    (0: any free one; nc 127.0.0.1 PORT)
--     luajit echo.lua call PORT CLIENTS ROUNDS      (each client sends and waits for the answer, so many times)
package.path = arg[0]:gsub("[^/]*$", "") .. "?.lua;" .. package.path
local ffi = require "ffi"
if arg[1] ~= "serve" and arg[1] ~= "call" or not tonumber(arg[2]) or arg[1] == "call" and not tonumber(arg[4]) then
  local to = arg[1] == "--help" and io.stdout or io.stderr
  to:write("usage: luajit echo.lua serve PORT | call PORT CLIENTS ROUNDS\n")
  os.exit(arg[1] == "--help" and 0 or 2)
end
local S = require "scheduler"
ffi.cdef [[
typedef struct { uint16_t family, port; uint32_t address; char zero[8]; } address_in;
int socket(int, int, int); int bind(int, const void *, uint32_t); int listen(int, int);
int getsockname(int, void *, uint32_t *); int accept4(int, void *, void *, int);
int connect(int, const void *, uint32_t); char *strerror(int);
]]
local AF_INET, STREAM_NONBLOCK_CLOEXEC, EINPROGRESS = 2, 0x80801, 115

local function need(what, result, allowed)
  if result < 0 and ffi.errno() ~= allowed then
    io.stderr:write(what, ": ", ffi.string(ffi.C.strerror(ffi.errno())), "\n")
    os.exit(1)
  end
  return result
end

local function swap(port) return (port % 256) * 256 + math.floor(port / 256) end
local fd = function() return need("socket", ffi.C.socket(AF_INET, STREAM_NONBLOCK_CLOEXEC, 0)) end
local address = ffi.new("address_in", AF_INET, swap(tonumber(arg[2])), 0x0100007f) -- 127.0.0.1, as bytes lie

local function serve()
  local listener, size = fd(), ffi.new("uint32_t[1]", 16)
  need("bind", ffi.C.bind(listener, address, 16))
  need("listen", ffi.C.listen(listener, 1024))
  ffi.C.getsockname(listener, address, size)
  print("listening on 127.0.0.1:" .. swap(address.port))
  io.stdout:flush()
  listener = S.stream(listener)
  while true do
    local client = listener:try(1, ffi.C.accept4, nil, nil, 0x80800)
    S.spawn(function(stream)
      for bytes in stream.read, stream do
        if not stream:write(bytes) then break end
      end
      stream:close()
    end, S.stream(need("accept", client or -1)))
  end
end

local answers = 0
local function call(client, rounds)
  local socket = fd()
  need("connect", ffi.C.connect(socket, address, 16), EINPROGRESS)
  local stream = S.stream(socket)
  for round = 1, rounds do
    local question, answer = client .. "/" .. round .. "\n", ""
    if not stream:write(question) then error("the server is not there", 0) end
    while #answer < #question do
      answer = answer .. (stream:read() or error("the server hung up", 0))
    end
    if answer ~= question then error("asked " .. question .. "got " .. answer) end
    answers = answers + 1
    S.sleep(0.001)
  end
  stream:close()
end

if arg[1] == "serve" then S.spawn(serve) end
for client = 1, arg[3] or 0 do S.spawn(call, client, tonumber(arg[4])) end
local ok, message = pcall(S.run)
if not ok then
  io.stderr:write(message, "\n")
  os.exit(1)
end
print(("%d answers; parked %d times; %d system calls were told EAGAIN"):format(answers, S.parked, S.refused))
