"""Finds the installed library by its soname, as the dynamic loader does, and waits for a pipe."""
import ctypes
import os

bell = ctypes.CDLL("libdoorbell.so.0")
POLL, READ, ONESHOT, NEVER = 1, 1, 2, 2**63 - 1


class Target(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("fd", ctypes.c_int32),
                ("capability", ctypes.c_int32), ("word", ctypes.c_void_p), ("stable_ptr", ctypes.c_void_p),
                ("queue", ctypes.c_uint64)]


class FdSpec(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("fd", ctypes.c_int32), ("interest", ctypes.c_uint32),
                ("mode", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("shard", ctypes.c_uint32),
                ("user_data", ctypes.c_uint64), ("deadline_ns", ctypes.c_int64), ("target", Target)]


class Event(ctypes.Structure):
    _fields_ = [("handle", ctypes.c_uint64), ("user_data", ctypes.c_uint64), ("ready", ctypes.c_uint32),
                ("status", ctypes.c_int32), ("data", ctypes.c_uint64)]


bell.bell_version.restype = ctypes.c_char_p
bell.bell_register_fd.argtypes = [ctypes.c_void_p, ctypes.POINTER(FdSpec), ctypes.POINTER(ctypes.c_uint64)]
bell.bell_poll.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.POINTER(Event), ctypes.c_uint32, ctypes.c_int64]
bell.bell_destroy.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
bell.bell_unregister.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32]

for struct_id, struct in ((2, Target), (3, FdSpec), (5, Event)):
    size = ctypes.c_uint32()
    assert bell.bell_layout(struct_id, ctypes.byref(size), None) == 0
    assert size.value == ctypes.sizeof(struct), struct

manager, handle, event = ctypes.c_void_p(), ctypes.c_uint64(), Event()
r, w = os.pipe()
assert bell.bell_create(None, ctypes.byref(manager)) == 0
spec = FdSpec(size=ctypes.sizeof(FdSpec), fd=r, interest=READ, mode=ONESHOT, user_data=42, target=Target(kind=POLL))
assert bell.bell_register_fd(manager, spec, handle) == 0
os.write(w, b"x")
assert bell.bell_poll(manager, 0, event, 1, NEVER) == 1
assert (event.handle, event.user_data, event.ready) == (handle.value, 42, READ)
assert bell.bell_unregister(manager, handle, 0) >= 0
assert bell.bell_destroy(manager, 0) == 0
print("doorbell", bell.bell_version().decode())
