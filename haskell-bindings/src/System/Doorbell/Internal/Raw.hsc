{-# LANGUAGE CApiFFI #-}
{-# LANGUAGE InterruptibleFFI #-}
-- | The C functions as @doorbell.h@ has them; the header is their manual. What it marks @[N]@ is imported @unsafe@,
-- what it marks @[B]@ is imported @safe@, or @interruptible@ where the wait may be long.
--
-- Results below 0 are errors; see 'e_CLOSED' and its neighbours. Times are nanoseconds.
module System.Doorbell.Internal.Raw
  ( -- * Types
    Bell, BellPtr, Handle
    -- * Versions
  , bell_abi_version, bell_version, bell_strerror, bell_layout, bell_features, checkLayout
    -- * Time
  , bell_now, never, deadlineAfter
    -- * Life of a manager
  , createShards, bell_create, bell_destroy, bell_before_fork, bell_after_fork_parent, bell_after_fork_child
    -- * Driving
  , bell_poll_now, bell_poll_wait, bell_wake, bell_next_deadline, bell_pollable_fd
    -- * File descriptors
  , registerFdPoll, bell_register_fd, bell_modify, bell_rearm, bell_retarget, bell_unregister, bell_unregister_sync
  , bell_register_fd_batch, bell_rearm_batch, bell_unregister_batch
  , bell_close_begin, closeBeginNow, bell_close_end, bell_close_fd
    -- * Timeouts
  , registerTimeoutPoll, bell_register_timeout, bell_update_timeout, bell_share_deadline, bell_timeout_get
    -- * User events
  , bell_register_user, bell_post
    -- * Slots and queues
  , bell_slot_map, bell_slot_consume, bell_slot_wait
  , bell_queue_create, bell_queue_drain, bell_queue_wait, bell_queue_fd, bell_queue_destroy
    -- * The target MVAR
  , prepare, shutAtExit, forks, putsDone, createThreads, registerFdMVar, registerTimeoutMVar, registerUserMVar, rearmMVar
    -- * Looking inside
  , bell_stats, bell_verify, bell_dump, counter, Counted (..)
    -- * Events in memory
  , eventSize, peekUserData, peekReady, peekStatus
    -- * Numbers
  , read_, write_, rdhup, hup, err, closed_
  , edge, oneshot, level, autoRelease, sync, force
  , cancelled, fired
  , e_STALE, e_CLOSED, e_FORKED, eBADF_, eINTR_, eINVAL_
  ) where

import Control.Exception (ErrorCall (..), throwIO)
import Control.Monad (forM_, when)
import Data.Int (Int32, Int64)
import Data.Word (Word32, Word64)
import Foreign.C.String (CString)
import Foreign.Marshal.Alloc (alloca, allocaBytes)
import Foreign.Marshal.Utils (fillBytes)
import Foreign.Ptr (FunPtr, Ptr, nullPtr)
import Foreign.StablePtr (StablePtr)
import Foreign.Storable (Storable (..))
import GHC.Conc (PrimMVar)

#include <errno.h>
#include <doorbell.h>

-- | @bell_t@.
data Bell

-- | A validated number in the shape of a pointer: never dereferenced.
type BellPtr = Ptr Bell

-- | @bell_handle@; 0 is none.
type Handle = Word64

-- | The version of the binary interface: major * 65536 + minor.
foreign import ccall unsafe bell_abi_version :: IO Word32
-- | The version of the library, as a static string.
foreign import ccall unsafe bell_version :: IO CString
-- | What an error means, as a static string.
foreign import ccall unsafe bell_strerror :: Int32 -> IO CString
-- | Size and alignment of a struct: its number, where to put them.
foreign import ccall unsafe bell_layout :: Word32 -> Ptr Word32 -> Ptr Word32 -> IO Int32
-- | What this build on this machine can do.
foreign import ccall unsafe bell_features :: Ptr Word64 -> IO Int32
-- | The time of a clock; 0 is the monotonic one.
foreign import ccall unsafe bell_now :: Word32 -> IO Int64
-- | So many microseconds from now, on the monotonic clock; never overflows.
foreign import ccall unsafe "doorbell_hs_deadline" deadlineAfter :: Int -> IO Int64
foreign import ccall unsafe bell_config_init :: Ptr () -> Word32 -> IO Int32
-- | Makes a manager: config (or null), where to put it.
foreign import ccall safe bell_create :: Ptr () -> Ptr BellPtr -> IO Int32
-- | Ends a manager; see 'force'.
foreign import ccall safe bell_destroy :: BellPtr -> Word32 -> IO Int32
-- | To be called before @fork(2)@ if other threads may be inside the library.
foreign import ccall safe bell_before_fork :: BellPtr -> IO Int32
-- | The parent's half after that.
foreign import ccall unsafe bell_after_fork_parent :: BellPtr -> IO Int32
-- | Makes a manager usable in the child, while that has one thread.
foreign import ccall safe bell_after_fork_child :: BellPtr -> Word32 -> IO Int32
-- | @bell_poll@, only with timeout 0 and without targets MVAR: it does not block.
foreign import ccall unsafe "bell_poll" bell_poll_now :: BellPtr -> Word32 -> Ptr () -> Word32 -> Int64 -> IO Int32
-- | @bell_poll@ that may wait. An asynchronous exception ends the wait.
foreign import ccall interruptible "bell_poll" bell_poll_wait :: BellPtr -> Word32 -> Ptr () -> Word32 -> Int64 -> IO Int32
-- | Ends the current or the next wait of a shard's driver.
foreign import ccall unsafe bell_wake :: BellPtr -> Word32 -> IO Int32
-- | The earliest deadline of a shard.
foreign import ccall unsafe bell_next_deadline :: BellPtr -> Word32 -> Ptr Int64 -> IO Int32
-- | An fd that is readable when a turn of the shard would find something.
foreign import ccall unsafe bell_pollable_fd :: BellPtr -> Word32 -> IO Int32
-- | Watches an fd: a @bell_fd_spec@, where to put the handle.
foreign import ccall unsafe bell_register_fd :: BellPtr -> Ptr () -> Ptr Handle -> IO Int32
-- | The same for several: specs, how many, handles, results.
foreign import ccall unsafe bell_register_fd_batch :: BellPtr -> Ptr () -> Word32 -> Ptr Handle -> Ptr Int32 -> IO Int32
-- | Changes interest and mode, and arms.
foreign import ccall unsafe bell_modify :: BellPtr -> Handle -> Word32 -> Word32 -> IO Int32
-- | Arms again: target (null keeps it), deadline.
foreign import ccall unsafe bell_rearm :: BellPtr -> Handle -> Ptr () -> Int64 -> IO Int32
-- | The same for several fds.
foreign import ccall unsafe bell_rearm_batch :: BellPtr -> Ptr Handle -> Word32 -> Ptr Int32 -> IO Int32
-- | Gives another target without arming.
foreign import ccall unsafe bell_retarget :: BellPtr -> Handle -> Ptr () -> IO Int32
-- | @bell_unregister@ without @BELL_SYNC@.
foreign import ccall unsafe bell_unregister :: BellPtr -> Handle -> Word32 -> IO Int32
-- | @bell_unregister@ with @BELL_SYNC@.
foreign import ccall safe "bell_unregister" bell_unregister_sync :: BellPtr -> Handle -> Word32 -> IO Int32
-- | Ends several registrations: handles, how many, flags, results.
foreign import ccall safe bell_unregister_batch :: BellPtr -> Ptr Handle -> Word32 -> Word32 -> Ptr Int32 -> IO Int32
-- | First half of closing an fd; gives a ticket.
foreign import ccall safe bell_close_begin :: BellPtr -> Int32 -> Ptr Word64 -> IO Int32
-- | The same, only for managers on epoll with nothing but targets POLL: there it waits for nothing but short locks. (With io_uring it waits for
-- the driver, who may need the capability.)
foreign import ccall unsafe "bell_close_begin" closeBeginNow :: BellPtr -> Int32 -> Ptr Word64 -> IO Int32
-- | Second half, with the ticket.
foreign import ccall unsafe bell_close_end :: BellPtr -> Int32 -> Word64 -> IO Int32
-- | Both, and @close(2)@ between.
foreign import ccall safe bell_close_fd :: BellPtr -> Int32 -> IO Int32
-- | The address of the slot of a registration.
foreign import ccall unsafe bell_slot_map :: BellPtr -> Handle -> Ptr (Ptr ()) -> IO Int32
-- | Takes the news from one word of a slot.
foreign import ccall unsafe bell_slot_consume :: BellPtr -> Handle -> Word32 -> IO Int32
-- | Waits for news in a slot: direction, deadline, flags. An asynchronous exception ends the wait.
foreign import ccall interruptible bell_slot_wait :: BellPtr -> Handle -> Word32 -> Int64 -> Word32 -> IO Int32
-- | Makes a queue: shard, doorbell (or null), where to put the handle.
foreign import ccall unsafe bell_queue_create :: BellPtr -> Word32 -> Ptr () -> Ptr Handle -> IO Int32
-- | Takes news from a queue: where to, how many at most.
foreign import ccall unsafe bell_queue_drain :: BellPtr -> Handle -> Ptr () -> Word32 -> IO Int32
-- | Waits for news in a queue. An asynchronous exception ends the wait.
foreign import ccall interruptible bell_queue_wait :: BellPtr -> Handle -> Ptr () -> Word32 -> Int64 -> IO Int32
-- | An fd that is readable as long as the queue is not empty.
foreign import ccall unsafe bell_queue_fd :: BellPtr -> Handle -> IO Int32
-- | Ends a queue.
foreign import ccall safe bell_queue_destroy :: BellPtr -> Handle -> Word32 -> IO Int32
-- | Arms a timeout: a @bell_timeout_spec@, where to put the handle.
foreign import ccall unsafe bell_register_timeout :: BellPtr -> Ptr () -> Ptr Handle -> IO Int32
-- | Moves a deadline.
foreign import ccall unsafe bell_update_timeout :: BellPtr -> Handle -> Int64 -> IO Int32
-- | Keeps a deadline in a word of the caller's.
foreign import ccall unsafe bell_share_deadline :: BellPtr -> Handle -> Ptr Int64 -> IO Int32
-- | Where a deadline is.
foreign import ccall unsafe bell_timeout_get :: BellPtr -> Handle -> Ptr Int64 -> IO Int32
-- | Makes a user event: shard, target, user data, where to put the handle.
foreign import ccall unsafe bell_register_user :: BellPtr -> Word32 -> Ptr () -> Word64 -> Ptr Handle -> IO Int32
-- | Makes a user event happen, with bits.
foreign import ccall unsafe bell_post :: BellPtr -> Handle -> Word32 -> IO Int32
-- | Counters of a shard, or of all; see 'counter'.
foreign import ccall unsafe bell_stats :: BellPtr -> Word32 -> Ptr () -> IO Int32
-- | Checks a manager against itself and the kernel: how many disagreements.
foreign import ccall safe bell_verify :: BellPtr -> IO Int32
-- | Writes a description of a manager to an fd.
foreign import ccall safe bell_dump :: BellPtr -> Int32 -> IO Int32

-- | @bell_register_fd@ with target POLL: fd, interest, mode, flags, shard, user data. The handle, or an error.
foreign import ccall unsafe "doorbell_hs_register_fd"
  registerFdPoll :: BellPtr -> Int32 -> Word32 -> Word32 -> Word32 -> Word32 -> Word64 -> IO Int64

-- | @bell_register_timeout@, one-shot, freeing itself, with target POLL: shard, deadline, user data. The handle, or
-- an error.
foreign import ccall unsafe "doorbell_hs_register_timeout"
  registerTimeoutPoll :: BellPtr -> Word32 -> Int64 -> Word64 -> IO Int64

-- | To be called before a manager is made: sees to it that 'forks' counts.
foreign import ccall unsafe "doorbell_hs_prepare" prepare :: IO ()

-- | A finalizer for the end of the process: when it has run, no MVAR is filled any more.
foreign import ccall unsafe "&doorbell_hs_shut" shutAtExit :: FunPtr (Ptr () -> IO ())

-- | How often this process is a child of one that used the package.
foreign import ccall "&doorbell_hs_forks" forksAt :: Ptr Word32

-- | Reads it from memory.
forks :: IO Word32
forks = peek forksAt
{-# INLINE forks #-}

-- | How many StablePtrs were given to @hs_try_putmvar@.
foreign import ccall unsafe "doorbell_hs_puts" putsDone :: IO Word64

-- | A manager that is driven by so many threads of the library, which fill MVars. 0, or an error.
foreign import ccall safe "doorbell_hs_create_threads" createThreads :: Word32 -> Ptr BellPtr -> IO Int32

-- | A ONESHOT registration with target MVAR: fd, interest, capability, StablePtr, which the library owns if the result is a
-- handle.
foreign import ccall unsafe "doorbell_hs_register_fd_mvar"
  registerFdMVar :: BellPtr -> Int32 -> Word32 -> Int32 -> StablePtr PrimMVar -> IO Int64

-- | The same for a one-shot timeout that frees itself: deadline, capability, StablePtr.
foreign import ccall unsafe "doorbell_hs_register_timeout_mvar"
  registerTimeoutMVar :: BellPtr -> Int64 -> Int32 -> StablePtr PrimMVar -> IO Int64

-- | The same for a user event: capability, StablePtr.
foreign import ccall unsafe "doorbell_hs_register_user_mvar"
  registerUserMVar :: BellPtr -> Int32 -> StablePtr PrimMVar -> IO Int64

-- | @bell_rearm@ of a user event with a new target MVAR.
foreign import ccall unsafe "doorbell_hs_rearm_mvar"
  rearmMVar :: BellPtr -> Handle -> Int32 -> StablePtr PrimMVar -> IO Int32

-- | The deadline that never comes.
never :: Int64
never = #{const BELL_NEVER}

-- | Throws t'ErrorCall' if the library that was loaded is not the one that this package was compiled for.
checkLayout :: IO ()
checkLayout = do
  abi <- bell_abi_version
  when (abi `div` 65536 /= #{const BELL_ABI_MAJOR} || abi `mod` 65536 < #{const BELL_ABI_MINOR}) $
    throwIO (ErrorCall ("doorbell: the library has binary interface " ++ show (abi `divMod` 65536)))
  forM_ layouts $ \(struct, wanted) -> alloca $ \size -> do
    result <- bell_layout struct size nullPtr
    found <- if result < 0 then pure 0 else peek size
    when (found /= wanted) $
      throwIO (ErrorCall ("doorbell: struct " ++ show struct ++ " has " ++ show found ++ " bytes in the library, "
                          ++ show wanted ++ " here"))
  where
    layouts =
      [ (#{const BELL_LAYOUT_CONFIG}, #{size bell_config})
      , (#{const BELL_LAYOUT_TARGET}, #{size bell_target})
      , (#{const BELL_LAYOUT_FD_SPEC}, #{size bell_fd_spec})
      , (#{const BELL_LAYOUT_TIMEOUT_SPEC}, #{size bell_timeout_spec})
      , (#{const BELL_LAYOUT_EVENT}, #{size bell_event})
      , (#{const BELL_LAYOUT_SLOT}, #{size bell_slot})
      , (#{const BELL_LAYOUT_COUNTERS}, #{size bell_counters})
      , (#{const BELL_LAYOUT_GHC_OPS}, #{size bell_ghc_ops}) ]

-- | A manager with so many shards, all driven by the caller. An error as a negative number.
createShards :: Word32 -> IO (Either Int32 BellPtr)
createShards n = allocaBytes #{size bell_config} $ \config -> alloca $ \out -> do
  fillBytes config 0 #{size bell_config}
  started <- bell_config_init config #{size bell_config}
  if started < 0 then pure (Left started) else do
    #{poke bell_config, shards} config n
    result <- bell_create config out
    if result < 0 then pure (Left result) else Right <$> peek out

-- | One of the numbers of @bell_stats@.
data Counted
  = Fds            -- ^ Live registrations of fds.
  | Timeouts       -- ^ Live timeouts.
  | KernelWaits    -- ^ Waits in the kernel.
  | CtlCalls       -- ^ Changes of the kernel's set.
  | Events         -- ^ Deliveries.
  | StaleDropped   -- ^ Kernel events for something gone.
  | Ghosts         -- ^ Fds found closed behind our back.
  deriving (Eq, Show)

-- | One counter of all shards together.
counter :: BellPtr -> Counted -> IO Word64
counter bell which = allocaBytes #{size bell_counters} $ \p -> do
  fillBytes p 0 #{size bell_counters}
  #{poke bell_counters, size} p (#{size bell_counters} :: Word32)
  result <- bell_stats bell #{const BELL_SHARD_ANY} p
  when (result < 0) $ throwIO (ErrorCall ("bell_stats: " ++ show result))
  case which of
    Fds -> #{peek bell_counters, fds} p
    Timeouts -> #{peek bell_counters, timeouts} p
    KernelWaits -> #{peek bell_counters, kernel_waits} p
    CtlCalls -> #{peek bell_counters, ctl_calls} p
    Events -> #{peek bell_counters, events} p
    StaleDropped -> #{peek bell_counters, stale_dropped} p
    Ghosts -> #{peek bell_counters, ghosts} p

-- | Bytes of a @bell_event@.
eventSize :: Int
eventSize = #{size bell_event}

-- | The user data of an event in memory.
peekUserData :: Ptr () -> IO Word64
peekUserData = #{peek bell_event, user_data}

-- | Its ready bits.
peekReady :: Ptr () -> IO Word32
peekReady = #{peek bell_event, ready}

-- | Its status: 0, or an error.
peekStatus :: Ptr () -> IO Int32
peekStatus = #{peek bell_event, status}

-- | @BELL_READ@.
read_ :: Word32
read_ = #{const BELL_READ}
-- | @BELL_WRITE@.
write_ :: Word32
write_ = #{const BELL_WRITE}
-- | @BELL_RDHUP@.
rdhup :: Word32
rdhup = #{const BELL_RDHUP}
-- | @BELL_HUP@.
hup :: Word32
hup = #{const BELL_HUP}
-- | @BELL_ERR@.
err :: Word32
err = #{const BELL_ERR}
-- | @BELL_CLOSED@.
closed_ :: Word32
closed_ = #{const BELL_CLOSED}

-- | @BELL_EDGE@.
edge :: Word32
edge = #{const BELL_EDGE}
-- | @BELL_ONESHOT@.
oneshot :: Word32
oneshot = #{const BELL_ONESHOT}
-- | @BELL_LEVEL@.
level :: Word32
level = #{const BELL_LEVEL}
-- | @BELL_AUTO_RELEASE@.
autoRelease :: Word32
autoRelease = #{const BELL_AUTO_RELEASE}
-- | @BELL_SYNC@.
sync :: Word32
sync = #{const BELL_SYNC}
-- | @BELL_FORCE@.
force :: Word32
force = #{const BELL_FORCE}

-- | @BELL_CANCELLED@, a result.
cancelled :: Int32
cancelled = #{const BELL_CANCELLED}
-- | @BELL_FIRED@, a result.
fired :: Int32
fired = #{const BELL_FIRED}
-- | @BELL_E_STALE@.
e_STALE :: Int32
e_STALE = #{const BELL_E_STALE}
-- | @BELL_E_CLOSED@.
e_CLOSED :: Int32
e_CLOSED = #{const BELL_E_CLOSED}
-- | @BELL_E_FORKED@.
e_FORKED :: Int32
e_FORKED = #{const BELL_E_FORKED}
-- | @-EBADF@.
eBADF_ :: Int32
eBADF_ = #{const -EBADF}
-- | @-EINTR@.
eINTR_ :: Int32
eINTR_ = #{const -EINTR}
-- | @-EINVAL@.
eINVAL_ :: Int32
eINVAL_ = #{const -EINVAL}
