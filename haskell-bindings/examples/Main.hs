-- | Runs the examples, one for each module; fails if one does not do what it says.
module Main (main) where

import Control.Concurrent (rtsSupportsBoundThreads)
import Control.Monad (when)
import qualified Connections
import qualified Events
import qualified ForeignThreads
import qualified OneFd
import qualified Waiting

main :: IO ()
main = do
  Waiting.example
  OneFd.example
  Connections.example
  Events.example
  when rtsSupportsBoundThreads ForeignThreads.example
  putStrLn ((if rtsSupportsBoundThreads then "5" else "4") ++ " examples, 0 failures")
