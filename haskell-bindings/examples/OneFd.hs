-- | "System.Doorbell.Fd": an fd that is waited for often is registered once. Here the loop is written out.
module OneFd (example) where

import Control.Concurrent (forkIO)
import Control.Exception (IOException, try)
import Control.Monad (forM_, unless)
import System.Doorbell.Conc (threadDelay)
import System.Doorbell.Fd
import System.Posix.IO
import System.Posix.Types (Fd)
import Text (readText)

-- | Wait only after EAGAIN, and try again after each wait.
readSome :: Watched -> IO String
readSome w = tryRead (watchedFd w) >>= maybe (waitRead w >> readSome w) pure

-- | Nothing: it would block.
tryRead :: Fd -> IO (Maybe String)
tryRead fd = either again Just <$> try (readText fd 100)
  where
    again :: IOException -> Maybe String
    again _ = Nothing

example :: IO ()
example = do
  (r, w) <- createPipe
  setFdOption r NonBlockingRead True
  withWatched r $ \watched -> do
    _ <- forkIO $ forM_ [1 .. 10 :: Int] $ \i -> threadDelay 500 >> fdWrite w (show i ++ "\n")
    let collect n = if n >= 10 then pure n else readSome watched >>= \text -> collect (n + length (lines text))
    n <- collect 0
    unless (n == (10 :: Int)) $ fail "lines are missing"
  mapM_ closeFd [r, w]
