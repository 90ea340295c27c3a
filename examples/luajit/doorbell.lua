-- Doorbell for LuaJIT: the part of doorbell.h that the scheduler needs. Structs are checked against the library's.
-- The library is DOORBELL_LIBRARY (a path), else libdoorbell.so.0 where the loader looks.
local ffi = require "ffi"
ffi.cdef [[
typedef struct bell_t bell_t;
typedef struct { uint32_t kind, flags; int32_t fd, capability; uint32_t *word; void *stable_ptr; uint64_t queue; }
  bell_target;
typedef struct { uint32_t size; int32_t fd; uint32_t interest, mode, flags, shard; uint64_t user_data;
  int64_t deadline_ns; bell_target target; } bell_fd_spec;
typedef struct { uint32_t size, clock, flags, shard; int64_t deadline_ns, period_ns, slack_ns; uint64_t user_data;
  bell_target target; } bell_timeout_spec;
typedef struct { volatile uint32_t rd, wr; } bell_slot; /* volatile: each look of ours is a look at memory */
uint32_t bell_abi_version(void);
const char *bell_strerror(int32_t error);
int32_t bell_layout(uint32_t struct_id, uint32_t *size, uint32_t *align);
int64_t bell_now(uint32_t clock);
int32_t bell_create(const void *config, bell_t **out);
int32_t bell_poll(bell_t *bell, uint32_t shard, void *events, uint32_t capacity, int64_t timeout_ns);
int32_t bell_register_fd(bell_t *bell, const bell_fd_spec *spec, uint64_t *handle);
int32_t bell_register_timeout(bell_t *bell, const bell_timeout_spec *spec, uint64_t *handle);
int32_t bell_rearm(bell_t *bell, uint64_t handle, const bell_target *target, int64_t deadline_ns);
int32_t bell_unregister(bell_t *bell, uint64_t handle, uint32_t flags);
int32_t bell_slot_map(bell_t *bell, uint64_t handle, bell_slot **out);
int32_t bell_slot_consume(bell_t *bell, uint64_t handle, uint32_t direction);
]]
local path = os.getenv "DOORBELL_LIBRARY"
local C = ffi.load(path and path ~= "" and path or "libdoorbell.so.0")
local M = { C = C, READ = 1, WRITE = 2, EDGE = 1, TARGET_SLOT = 2, NEVER = 0x7fffffffffffffffLL, EINTR = -4 }
M.NEWS_OR_CLOSED = 0xff + 0x100 + 0x200 -- BELL_NEWS | BELL_CLOSED | BELL_CANCELLED
M.ENDING = 8 + 16 + 32 + 0x100 -- BELL_RDHUP | BELL_HUP | BELL_ERR | BELL_CLOSED

function M.check(result)
  return result >= 0 and result or error(ffi.string(C.bell_strerror(result)), 2)
end

assert(C.bell_abi_version() < 65536, "this is written for ABI 0")
for id, name in pairs { [2] = "bell_target", [3] = "bell_fd_spec", [4] = "bell_timeout_spec", [6] = "bell_slot" } do
  local size = ffi.new "uint32_t[1]"
  M.check(C.bell_layout(id, size, nil))
  assert(size[0] == ffi.sizeof(name), name .. " has another size in the library")
end
return M
