-- | Waits that end by @hs_try_putmvar@: the threads of a manager are the library's own, and fill the waiter's 'MVar'. No Haskell
-- thread dispatches.
--
-- Choose it by making a t'ThreadManager' and passing it to the functions here: when events are born on threads that are not Haskell's,
-- for a t'Signal', when one set of threads serves several runtimes of a process, or when no Haskell thread may be spared for
-- dispatching. Else take "System.Doorbell.Conc" or "System.Doorbell.Fd": with few connections each wake-up from a foreign thread costs
-- as much as several whole waits there.
--
-- Each wait makes one StablePtr, which either the runtime consumes (the event came) or the wait gives back (it was
-- killed), exactly once. When 'closeThreadManager' has returned, the threads are joined and nothing is put any more; and
-- nothing is put after the end of @main@, also by a manager that was not closed.
--
-- Needs the threaded runtime. A manager does not survive 'System.Posix.Process.forkProcess': in the child its functions throw an
-- 'IOException' that says so. All functions may be called from any thread, block only the calling Haskell thread, and throw
-- EBADF when the manager was closed.
--
-- > main = withThreadManager 1 $ \m -> do
-- >   threadDelay m 1000
-- >   threadWaitRead m stdInput
module System.Doorbell.Threads
  ( -- * Managers
    ThreadManager, newThreadManager, closeThreadManager, withThreadManager
    -- * Waiting
  , threadWaitRead, threadWaitWrite, threadDelay, closeFdWith
    -- * Signals from foreign threads
  , Signal, newSignal, closeSignal, waitSignal, ringSignal, signalBell, signalHandle
    -- * For tests
  , StablePtrs (..), stablePtrs
  ) where

import Control.Concurrent (rtsSupportsBoundThreads, yield)
import Control.Concurrent.MVar
import Control.Exception hiding (handle)
import Control.Monad
import Data.Int (Int32, Int64)
import Data.Word (Word32, Word64)
import Foreign.ForeignPtr (ForeignPtr, newForeignPtr)
import Foreign.Marshal.Alloc (alloca)
import Foreign.Ptr (nullPtr, plusPtr)
import Foreign.StablePtr (StablePtr, freeStablePtr, newStablePtr)
import Foreign.Storable (peek)
import GHC.Conc (PrimMVar, newStablePtrPrimMVar)
import System.IO.Error (ioeSetErrorString, mkIOError, userErrorType)
import System.IO.Unsafe (unsafePerformIO)
import System.Posix.Types (Fd (..))
import System.Doorbell.Internal
import System.Doorbell.Internal.Counter
import System.Doorbell.Internal.Raw hiding (Handle)
import qualified System.Doorbell.Internal.Raw as Raw

-- | A manager that is driven by threads of the library.
data ThreadManager = ThreadManager
  { tmBell :: !BellPtr
  , tmForks :: !Word32
  , tmClosed :: !Counter
  , tmCalls :: !Counter       -- calls of the library that are running, which closing waits for
  , tmMade :: !Counter
  , tmReturned :: !Counter
  }

-- | The finalizer that hs_exit runs. The StablePtr keeps it from running earlier.
gate :: StablePtr (ForeignPtr ())
gate = unsafePerformIO $ newForeignPtr shutAtExit (nullPtr `plusPtr` 1) >>= newStablePtr
{-# NOINLINE gate #-}

-- | A manager with so many threads, 1 to 254. Throws an 'IOException' on the runtime that is not threaded: there a foreign
-- thread must not fill an MVar.
newThreadManager :: Int -> IO ThreadManager
newThreadManager threads = mask_ $ do
  unless rtsSupportsBoundThreads $ throwIO (problem "needs the threaded runtime (ghc -threaded)")
  when (threads < 1 || threads > 254) $ throwBell "newThreadManager" eINVAL_
  checkLayout
  prepare
  _ <- evaluate gate
  now <- forks
  bell <- alloca $ \out -> do
    e <- createThreads (fromIntegral threads) out
    when (e < 0) $ throwBell "newThreadManager" e
    peek out
  ThreadManager bell now <$> newCounter 0 <*> newCounter 0 <*> newCounter 0 <*> newCounter 0
  where problem = ioeSetErrorString (mkIOError userErrorType "newThreadManager" Nothing Nothing)

-- | Stops and joins the threads. Those who wait get EBADF. Blocks until all is done; doing it twice does nothing.
closeThreadManager :: ThreadManager -> IO ()
closeThreadManager m = mask_ $ do
  before <- swapCounter (tmClosed m) 1
  when (before == 0) $ do
    let settle = readCounter (tmCalls m) >>= \n -> when (n > 0) (yield >> settle)
    settle
    void $ bell_destroy (tmBell m) force

-- | Runs an action with a manager of its own, and closes that afterwards.
withThreadManager :: Int -> (ThreadManager -> IO a) -> IO a
withThreadManager threads = bracket (newThreadManager threads) closeThreadManager

-- | Runs a call of the library, unless the manager is closed: then 'Nothing', and it was not run. Masked.
calling :: ThreadManager -> String -> IO a -> IO (Maybe a)
calling m location call = do
  _ <- addCounter (tmCalls m) 1
  isClosed <- readCounter (tmClosed m)
  now <- forks
  -- In a forked child the count and the flag may be those of threads that are not there.
  result <- if now /= tmForks m then addCounter (tmCalls m) (-1) >> throwForked location
            else if isClosed /= 0 then pure Nothing else Just <$> call
  _ <- addCounter (tmCalls m) (-1)
  pure result

-- | What became of a StablePtr: it is the library's as soon as the call was a success.
give :: Integral e => ThreadManager -> String -> (Int32 -> StablePtr PrimMVar -> IO e) -> IO (MVar (), StablePtr PrimMVar, e)
give m location call = do
  v <- newEmptyMVar
  capability <- fromIntegral <$> currentCapability
  sp <- newStablePtrPrimMVar v
  _ <- addCounter (tmMade m) 1
  r <- calling m location (call capability sp) `onException` back m sp
  case r of
    Just h | h >= 0 -> pure (v, sp, h)
    _ -> back m sp >> throwBell location (maybe eBADF_ fromIntegral r)

back :: ThreadManager -> StablePtr PrimMVar -> IO ()
back m sp = addCounter (tmReturned m) 1 >> freeStablePtr sp

-- | Ends a registration: the StablePtr is ours again if nothing was put.
end :: ThreadManager -> StablePtr PrimMVar -> Raw.Handle -> IO ()
end m sp h = do
  r <- calling m "unregister" (bell_unregister (tmBell m) h 0)
  when (r == Just cancelled) $ back m sp

-- | Blocks until reading from the fd would not block, as 'System.Doorbell.Conc.threadWaitRead' does.
threadWaitRead :: ThreadManager -> Fd -> IO ()
threadWaitRead m = waitOn m "threadWaitRead" read_

-- | The same for writing.
threadWaitWrite :: ThreadManager -> Fd -> IO ()
threadWaitWrite m = waitOn m "threadWaitWrite" write_

waitOn :: ThreadManager -> String -> Word32 -> Fd -> IO ()
waitOn m location interest fd = mask_ $ do
  (v, sp, h) <- give m location (registerFdMVar (tmBell m) (fromIntegral fd) interest)
  let handle = fromIntegral h
  takeMVar v `onException` end m sp handle
  -- An MVar tells nothing but that it was filled.
  state <- calling m location (bell_update_timeout (tmBell m) handle never <* bell_unregister (tmBell m) handle 0)
  when (maybe True (< 0) state) $ throwIO (badFd location)

-- | Suspends the calling thread for so many microseconds at least.
threadDelay :: ThreadManager -> Int -> IO ()
threadDelay m us
  | us <= 0 = pure ()
  | otherwise = mask_ $ do
      deadline <- deadlineAfter us
      (v, sp, h) <- give m "threadDelay" (registerTimeoutMVar (tmBell m) deadline)
      takeMVar v `onException` end m sp (fromIntegral (h :: Int64))
      isClosed <- readCounter (tmClosed m)
      when (isClosed /= 0) $ throwIO (badFd "threadDelay")

-- | Closes an fd by the given action; those who wait for it on this manager get EBADF.
closeFdWith :: ThreadManager -> (Fd -> IO ()) -> Fd -> IO ()
closeFdWith m close fd = mask_ $ alloca $ \out -> do
  begun <- calling m "closeFdWith" (bell_close_begin (tmBell m) (fromIntegral fd) out)
  case begun of
    Nothing -> close fd
    Just e | e < 0 -> throwBell "closeFdWith" e
    Just _ -> do
      ticket <- peek out
      close fd `finally` calling m "closeFdWith" (bell_close_end (tmBell m) (fromIntegral fd) ticket)

-- | Something that foreign code makes happen by @bell_post@, from any thread and from signal handlers, without entering Haskell.
data Signal = Signal !ThreadManager !Raw.Handle !(MVar (MVar (), StablePtr PrimMVar))

-- | A signal that has not been rung.
newSignal :: ThreadManager -> IO Signal
newSignal m = mask_ $ do
  (v, sp, h) <- give m "newSignal" (registerUserMVar (tmBell m))
  Signal m (fromIntegral h) <$> newMVar (v, sp)

-- | Waits until it has been rung since the last wait. Several rings may end one wait. One thread waits at a time, others behind it.
waitSignal :: Signal -> IO ()
waitSignal (Signal m h state) = modifyMVarMasked_ state $ \(v, _) -> do
  takeMVar v
  (v', sp', _) <- give m "waitSignal" (rearmMVar (tmBell m) h)
  pure (v', sp')

-- | What foreign code does, from Haskell: @bell_post(signalBell, signalHandle, 1)@. Does not block.
ringSignal :: Signal -> IO ()
ringSignal (Signal m h _) = mask_ $ do
  r <- calling m "ringSignal" (bell_post (tmBell m) h 1)
  when (maybe True (< 0) r) $ throwIO (badFd "ringSignal")

-- | Ends a signal: rings from then on get an error. To be called when nobody waits for it; blocks until then.
closeSignal :: Signal -> IO ()
closeSignal (Signal m h state) = withMVarMasked state $ \(_, sp) -> end m sp h

-- | The @bell_t*@ for foreign code.
signalBell :: Signal -> BellPtr
signalBell (Signal m _ _) = tmBell m

-- | The @bell_handle@ for foreign code.
signalHandle :: Signal -> Raw.Handle
signalHandle (Signal _ h _) = h

-- | What became of the StablePtrs of a manager.
data StablePtrs = StablePtrs
  { made :: !Int          -- ^ By waits on this manager.
  , returned :: !Int      -- ^ Given back by waits that ended otherwise.
  , consumed :: !Word64   -- ^ Put, by all managers of the process.
  } deriving (Eq, Show)

-- | Reads the counters, one after the other.
stablePtrs :: ThreadManager -> IO StablePtrs
stablePtrs m = StablePtrs <$> readCounter (tmMade m) <*> readCounter (tmReturned m) <*> putsDone
