{-# LANGUAGE OverloadedStrings #-}
-- | @doorbell-warp-server MODE PORT [FILE]@: serves by Warp as it is (@stock@), or through Doorbell (@doorbell@); @/file@ is the given file.
-- Answers each line of the standard input by the CPU time it has used, in microseconds, and ends with it.
module Main (main) where

import Control.Concurrent (forkIO)
import Control.Monad (forever, void)
import qualified Data.ByteString.Lazy as L
import Data.String (fromString)
import Network.HTTP.Types (status200, status404)
import Network.Wai
import qualified Network.Wai.Handler.Warp as Warp
import qualified Network.Wai.Handler.Warp.Doorbell as Doorbell
import System.CPUTime (getCPUTime)
import System.Environment (getArgs)
import System.Exit (exitSuccess)
import System.IO

main :: IO ()
main = do
  mode : port : rest <- getArgs
  hSetBuffering stdout LineBuffering
  let settings = Warp.setPort (read port) . Warp.setHost "127.0.0.1" $
        Warp.setBeforeMainLoop (putStrLn "ready") Warp.defaultSettings
      serve = if mode == "doorbell" then Doorbell.runSettings else Warp.runSettings
  void $ forkIO $ serve settings (app rest)
  forever $ do
    eof <- isEOF
    if eof then exitSuccess else getLine >> getCPUTime >>= \ps -> print (ps `div` 1000000)

app :: [FilePath] -> Application
app files request respond = case (pathInfo request, files) of
  ([], _) -> respond (responseLBS status200 [("Content-Type", "text/plain")] "Hello, world!")
  (["echo"], _) -> strictRequestBody request >>= \body -> respond (responseLBS status200 [] body)
  (["big"], _) -> respond (responseLBS status200 [] (L.replicate 3000000 120))
  (["file"], file : _) -> respond (responseFile status200 [] file Nothing)
  _ -> respond (responseLBS status404 [] (fromString "no"))
