-- | "System.Doorbell.Conc": the functions of GHC.Conc by another import.
module Waiting (example) where

import Control.Concurrent (forkIO)
import Control.Concurrent.STM hiding (registerDelay)
import Control.Monad (unless)
import Data.Maybe (isNothing)
import System.Doorbell.Conc
import System.Posix.IO (closeFd, createPipe, fdWrite)
import Text (readText)

example :: IO ()
example = do
  (r, w) <- createPipe
  -- Nothing comes for 10 ms.
  nothing <- timeout 10000 (threadWaitRead r)
  unless (isNothing nothing) $ fail "something came"

  -- Now something does.
  _ <- forkIO (threadDelay 1000 >> fdWrite w "hello" >> pure ())
  threadWaitRead r
  text <- readText r 100
  unless (text == "hello") $ fail text

  -- Whichever comes first: data, or half a second.
  (readable, stop) <- threadWaitReadSTM r
  late <- registerDelay 500000
  _ <- fdWrite w "again"
  which <- atomically ((True <$ readable) `orElse` (False <$ (readTVar late >>= check)))
  stop
  unless which $ fail "too late"

  -- Closing tells whoever still waits.
  closeFdWith closeFd r
  closeFd w
