-- | The waiting functions of "GHC.Conc" and "System.Timeout", on a manager of the process that needs no
-- initialisation. Types and meaning are those of GHC's functions, unless said otherwise here:
--
-- * a wait costs one system call to arm (GHC: the same, and up to three polls of its manager);
-- * timeouts are counted in nanoseconds by the kernel, not rounded up to milliseconds;
-- * an fd that is closed by a plain @close@ behind a waiter is noticed when somebody else waits for that number.
--
-- All functions may be called from any thread, and block only the Haskell thread that calls them. All waits can be
-- interrupted by asynchronous exceptions, and leave nothing behind then.
--
-- > import System.Doorbell.Conc (threadWaitRead)
-- > readSome fd p n = threadWaitRead fd >> fdReadBuf fd p n
module System.Doorbell.Conc
  ( -- * File descriptors
    threadWaitRead, threadWaitWrite, threadWaitReadSTM, threadWaitWriteSTM, closeFdWith
    -- * Time
  , threadDelay, registerDelay, timeout, Timeout
  ) where

import Control.Concurrent (ThreadId, forkIOWithUnmask, killThread, myThreadId)
import Control.Concurrent.MVar
import Control.Exception
import Control.Monad
import Data.Int (Int64)
import Data.Unique
import qualified GHC.Conc as Conc
import GHC.Conc (STM, TVar)
import System.Posix.Types (Fd)
import System.Doorbell.Internal
import System.Doorbell.Internal.Raw (deadlineAfter)
import System.Doorbell.Internal.Timers

-- | Blocks the calling thread until reading from the fd would not block: there is data, or a connection to accept, or
-- the stream has ended, or an error is pending. Level meaning: data that is there already counts. All threads that wait
-- for one fd are woken together.
--
-- Throws an 'IOException' with EBADF if the fd is not open or is closed by 'closeFdWith' meanwhile, and one with EPERM
-- for a regular file (so does GHC's threaded runtime; its other one answers that files are ready).
threadWaitRead :: Fd -> IO ()
threadWaitRead = waitFor "threadWaitRead" Reading

-- | The same for writing: there is room, or writing would fail at once.
threadWaitWrite :: Fd -> IO ()
threadWaitWrite = waitFor "threadWaitWrite" Writing

-- | Starts to wait for an fd to become readable and returns at once: a transaction that retries until then, and an action
-- that ends the watching, which should be run when the transaction is not needed any more. The transaction throws
-- what 'threadWaitRead' throws if the fd is closed meanwhile; what is known at once (EBADF, EPERM) is thrown here.
threadWaitReadSTM :: Fd -> IO (STM (), IO ())
threadWaitReadSTM = waitSTM "threadWaitReadSTM" Reading

-- | The same for writing.
threadWaitWriteSTM :: Fd -> IO (STM (), IO ())
threadWaitWriteSTM = waitSTM "threadWaitWriteSTM" Writing

waitSTM :: String -> Direction -> Fd -> IO (STM (), IO ())
waitSTM location direction fd = mask_ $ do
  v <- Conc.newTVarIO Nothing
  let waiter = WaitTVar v
  (e, side) <- withCurrent $ \m -> startWait m direction fd waiter
  when (e < 0) $ throwBell location e
  let wait = Conc.readTVar v >>= \status -> case status of
        Nothing -> Conc.retry
        Just s -> when (s < 0) $ Conc.throwSTM (badFd location)
  pure (wait, cancelWait side waiter)

-- | Closes an fd by the given action, such that no thread waits for it for ever: those inside the functions of this package
-- get an exception with EBADF; those that begin to wait meanwhile, or to close, go on when it has ended. An exception of the action is passed on, after that.
-- Runs masked, as long as the action takes. If there are also waiters inside GHC's own functions, write
-- @closeFdWith (GHC.Conc.closeFdWith close) fd@. (It is not done for you: GHC 9.0.2's was seen to throw ENOENT, it seems with the locks of
-- its manager, which then hangs.)
closeFdWith :: (Fd -> IO ()) -> Fd -> IO ()
closeFdWith close fd = defaultManager >>= \m -> closeFdThrough m (close fd) fd

-- | Suspends the calling thread for so many microseconds at least. 0 and negative ones return at once.
threadDelay :: Int -> IO ()
threadDelay us
  | us <= 0 = pure ()
  | otherwise = mask_ $ do
      v <- newEmptyMVar
      deadline <- deadlineAfter us
      timer <- start "threadDelay" deadline (ToMVar v)
      takeMVar v `onException` cancelTimer timer

-- | Arms a timeout of the default manager, or throws. Masked.
start :: String -> Int64 -> Target () -> IO Timer
start location deadline target = do
  (e, timer) <- withCurrent $ \m -> currentTimers m >>= \t -> startTimer t deadline target >>= \timer -> pure (timerError timer, timer)
  when (e < 0) $ throwBell location e
  pure timer

-- | A variable that becomes 'True' after so many microseconds, and not before.
registerDelay :: Int -> IO (TVar Bool)
registerDelay us = mask_ $ do
  v <- Conc.newTVarIO (us <= 0)
  when (us > 0) $ do
    deadline <- deadlineAfter us
    void $ start "registerDelay" deadline (Doing (Conc.atomically (Conc.writeTVar v True)))
  pure v

-- | The exception by which 'timeout' ends its action. Asynchronous: code that catches only synchronous ones lets it
-- through. Not the type of "System.Timeout".
newtype Timeout = Timeout Unique
  deriving Eq

instance Show Timeout where
  show _ = "<<timeout>>"

instance Exception Timeout where
  toException = asyncExceptionToException
  fromException = asyncExceptionFromException

-- | Runs an action for at most so many microseconds: 'Nothing' if it did not end by then. Negative: no limit; 0: not at
-- all. The action runs in the calling thread and is ended by an asynchronous exception, as in "System.Timeout".
timeout :: Int -> IO a -> IO (Maybe a)
timeout us action
  | us < 0 = fmap Just action
  | us == 0 = pure Nothing
  | otherwise = do
      caller <- myThreadId
      ex <- fmap Timeout newUnique
      -- Filled by whoever comes first: the thread that throws, or the caller who is done.
      lock <- newEmptyMVar :: IO (MVar (Maybe ThreadId))
      let ring = void $ forkIOWithUnmask $ \unmask -> unmask $ do
            me <- myThreadId
            mine <- tryPutMVar lock (Just me)
            when mine $ throwTo caller ex
          arm = do
            deadline <- deadlineAfter us
            start "timeout" deadline (Doing ring)
          disarm timer = uninterruptibleMask_ $ do
            unfired <- cancelTimer timer
            unless unfired $ do
              mine <- tryPutMVar lock Nothing
              unless mine $ takeMVar lock >>= mapM_ killThread
      handleJust (\e -> if e == ex then Just () else Nothing) (\() -> pure Nothing) $
        bracket arm disarm (\_ -> fmap Just action)
