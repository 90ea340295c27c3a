-- | Sockets of the @network@ package, watched by "System.Doorbell.Fd": 'recv', 'send' and accepting without GHC's event manager.
--
-- > echo :: Socket -> IO ()
-- > echo s = bracket (watchSocket s) (closeSocket s) loop
-- >   where loop w = recv w 4096 >>= \bytes -> unless (B.null bytes) (sendAll w bytes >> loop w)
--
-- All functions may be called from any thread and block only the Haskell thread that calls them.
module System.Doorbell.Socket
  ( watchSocket, closeSocket, accept
  , Watched, recv, send, sendAll, recvBuf, recvBufStream, sendBuf
  ) where

import Control.Exception (mask_, onException)
import Foreign.C.Types (CInt (..))
import Foreign.Marshal.Alloc (allocaBytes)
import Foreign.Marshal.Utils (with)
import Foreign.Ptr (Ptr)
import Network.Socket (SockAddr, Socket, close, mkSocket, withFdSocket)
import Network.Socket.Address (peekSocketAddress)
import System.Posix.Types (Fd (..))
import System.Doorbell.Fd

-- | Watches a socket, which is not garbage as long. It is in non-blocking mode already, as all of @network@'s. Throws as 'watch'.
watchSocket :: Socket -> IO Watched
watchSocket s = withFdSocket s (watchKeeping (withFdSocket s (const (pure ()))) . Fd)

-- | Closes a watched socket. Those who wait get EBADF. Twice is once.
closeSocket :: Socket -> Watched -> IO ()
closeSocket s = closeWatched (const (close s))

-- | Accepts a connection on a listening socket that is watched, waiting for one. Several threads may. Errors as @accept(2)@, and EBADF as
-- 'waitRead'.
accept :: Watched -> IO (Socket, SockAddr)
accept w = allocaBytes room $ \address -> with (fromIntegral room) $ \size -> mask_ $ do
  fd <- fromIntegral <$> retryRead "accept" w (fromIntegral <$> c_accept4 (fromIntegral (watchedFd w)) address size flags)
  peer <- peekSocketAddress address `onException` c_close fd
  s <- mkSocket fd
  -- Others who wait: there may be more connections.
  passRead w
  pure (s, peer)
  where
    room = 128         -- sizeof (struct sockaddr_storage)
    flags = 0x80800    -- SOCK_CLOEXEC | SOCK_NONBLOCK

foreign import ccall unsafe "accept4" c_accept4 :: CInt -> Ptr SockAddr -> Ptr CInt -> CInt -> IO CInt
foreign import ccall unsafe "close" c_close :: CInt -> IO CInt
