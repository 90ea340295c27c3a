-- | "System.Doorbell.Socket": an echo server, and a client of it.
module Connections (example) where

import Control.Concurrent (forkFinally, forkIO, killThread)
import Control.Exception (bracket)
import Control.Monad (forever, unless, void)
import qualified Data.ByteString.Char8 as B
import Network.Socket hiding (accept)
import System.Doorbell.Socket (Watched, accept, closeSocket, recv, sendAll, watchSocket)

serve :: Watched -> IO ()
serve listening = forever $ do
  (connection, _) <- accept listening
  w <- watchSocket connection
  forkFinally (echo w) (\_ -> closeSocket connection w)

echo :: Watched -> IO ()
echo w = do
  bytes <- recv w 4096
  unless (B.null bytes) $ sendAll w bytes >> echo w

example :: IO ()
example = bracket (socket AF_INET Stream defaultProtocol) close $ \s -> do
  bind s (SockAddrInet 0 (tupleToHostAddress (127, 0, 0, 1)))
  listen s 10
  listening <- watchSocket s
  server <- forkIO (void (serve listening))
  bracket (socket AF_INET Stream defaultProtocol) close $ \c -> do
    getSocketName s >>= connect c
    w <- watchSocket c
    sendAll w (B.pack "hello")
    answer <- recv w 100
    unless (answer == B.pack "hello") $ fail (show answer)
    closeSocket c w
  killThread server
  closeSocket s listening
