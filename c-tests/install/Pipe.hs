-- | Built against the Haskell package, which was built against the installed library: waits for a pipe.
module Main (main) where

import System.Doorbell.Conc (threadWaitRead, timeout)
import System.Posix.IO (createPipe, fdWrite)

main :: IO ()
main = do
  (r, w) <- createPipe
  _ <- fdWrite w "x"
  news <- timeout 10000000 (threadWaitRead r)
  maybe (fail "no news in ten seconds") return news
  putStrLn "doorbell"
