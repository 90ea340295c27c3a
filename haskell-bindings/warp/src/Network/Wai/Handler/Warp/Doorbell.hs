{-# LANGUAGE CApiFFI #-}
-- | Warp on Doorbell: any 'Application' is served by Warp's own code, but its connections wait by "System.Doorbell.Socket".
--
-- > main :: IO ()
-- > main = run 3000 app
--
-- The functions have the names, types and meaning of those in "Network.Wai.Handler.Warp". Warp's own timeouts (slowloris) stay
-- Warp's. Linux only; needs the threaded runtime as Warp does.
module Network.Wai.Handler.Warp.Doorbell
  ( run, runSettings, runSettingsSocket, doorbellConnection
  ) where

import Control.Exception (bracket, onException)
import Control.Monad (unless, when)
import qualified Data.ByteString as B
import qualified Data.ByteString.Internal as BI
import qualified Data.ByteString.Unsafe as B
import Data.IORef
import Data.Streaming.Network (bindPortTCP)
import Data.Word (Word8)
import Foreign.C.Error (throwErrnoIfMinus1Retry)
import Foreign.C.String (CString)
import Foreign.C.Types (CInt (..), CSize (..))
import Foreign.Marshal.Utils (with)
import Foreign.Ptr (Ptr, castPtr, plusPtr)
import Network.Socket (Socket, SocketOption (NoDelay), close, isSupportedSocketOption, setSocketOption)
import Network.Wai (Application)
import Network.Wai.Handler.Warp (Port, defaultSettings, getHost, getPort, setPort)
import Network.Wai.Handler.Warp.Internal hiding (sendFile)
import System.Doorbell.Fd (retryWrite, unwatch, watchedFd)
import System.Doorbell.Socket
import System.Posix.Internals (withFilePath)
import System.Posix.Types (COff (..), CSsize (..), Fd (..))

-- | Serves on a port, on all interfaces.
run :: Port -> Application -> IO ()
run port = runSettings (setPort port defaultSettings)

-- | Binds as the settings say, and serves.
runSettings :: Settings -> Application -> IO ()
runSettings set app = bracket (bindPortTCP (getPort set) (getHost set)) close $ \s -> runSettingsSocket set s app

-- | Serves on a socket that listens already. Returns when the socket has been closed and the connections have ended.
runSettingsSocket :: Settings -> Socket -> Application -> IO ()
runSettingsSocket set listening app = bracket (watchSocket listening) unwatch $ \w -> do
  settingsInstallShutdownHandler set (closeSocket listening w)
  runSettingsConnectionMaker set (connect w) app
  where
    -- The connection is made, and its socket registered, on the capability of the thread that serves it.
    connect w = do
      (s, peer) <- accept w
      pure (doorbellConnection set s, peer)

-- | A connection for @runSettingsConnection@ and its kin. It owns the socket.
doorbellConnection :: Settings -> Socket -> IO Connection
doorbellConnection set s = do
  when (isSupportedSocketOption NoDelay) $ setSocketOption s NoDelay 1 `onException` close s
  plain <- socketConnection set s `onException` close s
  w <- watchSocket s `onException` close s
  pool <- newIORef B.empty
  pure plain
    { connRecv = receive w pool
    , connRecvBuf = receiveAll w
    , connSendAll = sendAll w
    , connSendMany = mapM_ (sendAll w) . gather
    , connSendFile = sendFile w
    , connClose = closeSocket s w
    }

-- | The next bytes, cut from a buffer that is made anew when little of it is left.
receive :: Watched -> IORef B.ByteString -> IO B.ByteString
receive w pool = do
  left <- readIORef pool
  if B.length left >= 2048 then go left else do
    p <- BI.mallocByteString size
    go (BI.fromForeignPtr p 0 size)
  where
    size = 16384
    go room = do
      n <- B.unsafeUseAsCStringLen room $ \(p, most) -> recvBufStream w (castPtr p) most
      writeIORef pool (B.unsafeDrop n room)
      pure (B.unsafeTake n room)

-- | So many bytes; 'False' if the stream ended before.
receiveAll :: Watched -> Ptr Word8 -> Int -> IO Bool
receiveAll w = go
  where
    go _ 0 = pure True
    go p n = do
      got <- recvBuf w p n
      if got == 0 then pure False else go (p `plusPtr` got) (n - got)

-- | Small strings together, so that each system call has something to do.
gather :: [B.ByteString] -> [B.ByteString]
gather [] = []
gather bytes = case spanTo (65536 :: Int) bytes of
  ([], big : rest) -> big : gather rest
  (some, rest) -> B.concat some : gather rest
  where
    spanTo room (x : xs) | B.length x <= room = let (a, b) = spanTo (room - B.length x) xs in (x : a, b)
    spanTo _ xs = ([], xs)

-- | By @sendfile(2)@. The hook tells Warp's timeout manager that things go on.
sendFile :: Watched -> SendFile
sendFile w file offset size hook headers = do
  let start = B.concat headers
  unless (B.null start) $ sendMore w start >> hook
  case fileIdFd file of
    Just fd -> parts fd (fromIntegral offset) (fromIntegral size)
    Nothing -> bracket (open (fileIdPath file)) c_close $ \fd -> parts (Fd fd) (fromIntegral offset) (fromIntegral size)
  where
    open path = withFilePath path $ \p -> throwErrnoIfMinus1Retry "open" (c_open p 0x80000)   -- O_RDONLY | O_CLOEXEC
    parts :: Fd -> COff -> CSize -> IO ()
    parts _ _ 0 = pure ()
    parts fd at n = do
      sent <- with at $ \p -> retryWrite "sendfile" w (c_sendfile (fromIntegral (watchedFd w)) (fromIntegral fd) p n)
      hook
      -- A file that became shorter: Warp closes the connection when too little was sent.
      if sent == 0 then pure () else parts fd (at + fromIntegral sent) (n - fromIntegral sent)

-- | 'sendAll', saying that more follows at once.
sendMore :: Watched -> B.ByteString -> IO ()
sendMore w bytes = B.unsafeUseAsCStringLen bytes $ \(p, n) -> go (castPtr p) n
  where
    go :: Ptr Word8 -> Int -> IO ()
    go p n = when (n > 0) $ do
      sent <- retryWrite "send" w (c_send (fromIntegral (watchedFd w)) p (fromIntegral n) 0xc000)   -- MSG_NOSIGNAL | MSG_MORE
      go (p `plusPtr` sent) (n - sent)

foreign import ccall unsafe "send" c_send :: CInt -> Ptr Word8 -> CSize -> CInt -> IO CSsize
-- Reading the file may block.
foreign import ccall safe "sendfile" c_sendfile :: CInt -> CInt -> Ptr COff -> CSize -> IO CSsize
foreign import capi safe "fcntl.h open" c_open :: CString -> CInt -> IO CInt
foreign import ccall unsafe "close" c_close :: CInt -> IO CInt
