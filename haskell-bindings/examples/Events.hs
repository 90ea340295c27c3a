-- | "System.Doorbell": registrations and timeouts as in GHC.Event, with an MVar or a TVar in place of the callback.
module Events (example) where

import Control.Concurrent.MVar
import Control.Concurrent.STM
import Control.Monad (unless)
import System.Doorbell
import System.Posix.IO (closeFd, createPipe, fdWrite)

example :: IO ()
example = withManager $ \manager -> do
  (r, w) <- createPipe
  news <- newEmptyMVar
  key <- registerFd manager (ToMVar news) r evtRead OneShot
  _ <- fdWrite w "x"
  event <- takeMVar news
  unless (event `includes` evtRead) $ fail (show event)
  -- It has fired: there is nothing left to cancel.
  outcome <- unregisterFd manager key
  unless (outcome == Fired) $ fail (show outcome)

  rung <- newTVarIO Nothing
  timer <- registerTimeout manager (ToTVar rung) 60000000
  _ <- updateTimeout manager timer 1000
  atomically $ readTVar rung >>= maybe retry pure
  mapM_ closeFd [r, w]
