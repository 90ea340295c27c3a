-- | "System.Doorbell.Threads": the library's own threads fill the MVars.
module ForeignThreads (example) where

import Control.Concurrent (forkIO)
import Control.Monad (void)
import System.Doorbell.Threads
import System.Posix.IO (closeFd, createPipe, fdWrite)

example :: IO ()
example = withThreadManager 1 $ \manager -> do
  (r, w) <- createPipe
  _ <- forkIO (threadDelay manager 1000 >> void (fdWrite w "x"))
  threadWaitRead manager r
  -- What C code would do by bell_post(signalBell, signalHandle, 1).
  signal <- newSignal manager
  ringSignal signal
  waitSignal signal
  closeSignal signal
  mapM_ closeFd [r, w]
