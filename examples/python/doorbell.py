"""Doorbell for Python by ctypes: the part that a selector needs. Constants, structs, signatures; `check`.

The header doorbell.h says what each function does; the names here are its names. What it calls [N] (never blocks) is
called with the GIL held, which is cheaper; what may block ([B]) releases the GIL. bell_poll is both:
`bell_poll_now` may be called with a time of 0 only.

The library is looked for as DOORBELL_LIBRARY (a path), else as libdoorbell.so.0 where the loader looks.
"""

import ctypes
import os
import struct
from ctypes import POINTER, Structure, byref, c_char_p, c_int32, c_int64, c_uint32, c_uint64, c_void_p, sizeof

NEVER = (1 << 63) - 1

READ, WRITE, PRI, RDHUP, HUP, ERR, TIMEOUT, USER, CLOSED, CANCELLED = (1 << bit for bit in range(10))
EDGE, ONESHOT, LEVEL = 1, 2, 3
TARGET_POLL = 1
FORCE = 1

E_STALE, E_CLOSED = -5000, -5001


class Target(Structure):
    _fields_ = [
        ("kind", c_uint32),
        ("flags", c_uint32),
        ("fd", c_int32),
        ("capability", c_int32),
        ("word", c_void_p),
        ("stable_ptr", c_void_p),
        ("queue", c_uint64),
    ]


class FdSpec(Structure):
    _fields_ = [
        ("size", c_uint32),
        ("fd", c_int32),
        ("interest", c_uint32),
        ("mode", c_uint32),
        ("flags", c_uint32),
        ("shard", c_uint32),
        ("user_data", c_uint64),
        ("deadline_ns", c_int64),
        ("target", Target),
    ]


class Config(Structure):
    _fields_ = [
        ("size", c_uint32),
        ("flags", c_uint32),
        ("shards", c_uint32),
        ("threads", c_uint32),
        ("max_events", c_uint32),
        ("reserved0", c_uint32),
        ("slack_ns", c_uint64),
        ("ghc", c_void_p),
        ("reserved", c_uint64 * 4),
    ]


# A bell_event: handle, user_data, ready, status, data. Unpacking a buffer takes a tenth of what a Structure takes.
EVENT = struct.Struct("=QQIiQ")

_path = os.environ.get("DOORBELL_LIBRARY") or "libdoorbell.so.0"
_library = ctypes.CDLL(_path)


class Error(OSError):
    """An error with a number of Doorbell's own (E_STALE ...), as `errno`. Errors of the system are plain OSErrors."""


def check(result):
    """The result of a call; what is negative is raised."""
    if result >= 0:
        return result
    text = bell_strerror(result).decode()
    raise Error(result, text) if result <= E_STALE else OSError(-result, text)


def _never_blocks(name, *arguments, result=c_int32):
    return ctypes.PYFUNCTYPE(result, *arguments)((name, _library))


def _may_block(name, *arguments, result=c_int32):
    return ctypes.CFUNCTYPE(result, *arguments)((name, _library))


_manager, _handle, _out = c_void_p, c_uint64, c_void_p  # byref() makes a c_void_p
bell_abi_version = _never_blocks("bell_abi_version", result=c_uint32)
bell_version = _never_blocks("bell_version", result=c_char_p)
bell_strerror = _never_blocks("bell_strerror", c_int32, result=c_char_p)
bell_layout = _never_blocks("bell_layout", c_uint32, _out, _out)
bell_config_init = _never_blocks("bell_config_init", POINTER(Config), c_uint32)
bell_create = _may_block("bell_create", POINTER(Config), _out)
bell_destroy = _may_block("bell_destroy", _manager, c_uint32)
bell_before_fork = _may_block("bell_before_fork", _manager)
bell_after_fork_parent = _never_blocks("bell_after_fork_parent", _manager)
bell_after_fork_child = _may_block("bell_after_fork_child", _manager, c_uint32)
bell_poll = _may_block("bell_poll", _manager, c_uint32, c_void_p, c_uint32, c_int64)
bell_poll_now = _never_blocks("bell_poll", _manager, c_uint32, c_void_p, c_uint32, c_int64)
bell_pollable_fd = _never_blocks("bell_pollable_fd", _manager, c_uint32)
bell_register_fd = _never_blocks("bell_register_fd", _manager, POINTER(FdSpec), _out)
bell_modify = _never_blocks("bell_modify", _manager, _handle, c_uint32, c_uint32)
bell_unregister = _never_blocks("bell_unregister", _manager, _handle, c_uint32)


def _check_layout():
    """The structs above against those of the library that was loaded: a wrong byte here would be a wild write there."""
    if bell_abi_version() >> 16 != 0:
        raise ImportError("doorbell.py is written for ABI 0, " + _path + " has another")
    mine = {"config": (1, sizeof(Config)), "target": (2, sizeof(Target)), "fd_spec": (3, sizeof(FdSpec))}
    mine["event"] = (5, EVENT.size)
    for name, (number, size) in mine.items():
        theirs = c_uint32()
        check(bell_layout(number, byref(theirs), None))
        if theirs.value != size:
            raise ImportError(f"bell_{name} has {size} bytes here, {theirs.value} in {_path}")


_check_layout()
