-- | File descriptors that are registered once, edge-triggered: a wait is a 'takeMVar', without a system call, a
-- registration or a closure. For connections that are waited for often.
--
-- The price is a rule: __wait only after EAGAIN__. What was ready before and was not read to the end is not told again.
--
-- > readSome :: Watched -> Ptr Word8 -> Int -> IO Int
-- > readSome w p n = do
-- >   r <- c_read (watchedFd w) p n
-- >   if r < 0 then waitRead w >> readSome w p n else pure r    -- r < 0: EAGAIN
--
-- The fd must be non-blocking. 'unwatch' it before it is closed, or close it by 'closeWatched' or
-- 'System.Doorbell.Conc.closeFdWith'. A watched fd does not survive 'System.Posix.Process.forkProcess': the child must
-- watch it anew.
module System.Doorbell.Fd
  ( Watched, watchedFd, watch, watchKeeping, unwatch, closeWatched, withWatched
    -- * Waiting
  , waitRead, waitWrite, passRead, passWrite
  , retryRead, retryWrite
    -- * Sockets
  , recv, send, sendAll, recvBuf, recvBufStream, sendBuf
  ) where

import Control.Concurrent.MVar
import Control.Exception
import Control.Monad
import Data.Bits
import Data.Int (Int32)
import qualified Data.ByteString as B
import qualified Data.ByteString.Internal as B (createAndTrim)
import qualified Data.ByteString.Unsafe as B
import Data.Maybe (isJust)
import Data.Word (Word8)
import Foreign.C.Error (eAGAIN, eINTR, eWOULDBLOCK, getErrno, throwErrno)
import Foreign.C.Types (CInt (..), CSize (..))
import Foreign.Ptr (Ptr, castPtr, plusPtr)
import System.Posix.Types (CSsize (..), Fd (..))
import System.Doorbell.Conc (closeFdWith)
import System.Doorbell.Internal
import System.Doorbell.Internal.Counter
import System.Doorbell.Internal.Raw hiding (Handle)

-- | An fd that is being watched, in both directions.
data Watched = Watched
  { watchedFd :: !Fd   -- ^ The fd.
  , wManager :: !Manager
  , wLock :: !(MVar ())                -- for moving and ending
  , wPlace :: !Place
  , wPlaced :: !Counter                -- 1, until the place was given back
  , wGeneration :: !Counter
  , wHandle :: !Counter                -- 0: ended
  , wShard :: !Counter
  , wInterest :: !Counter              -- writing is asked for by the first wait for it
  , wEnded :: !Counter                 -- 0; 2, the peer has ended; or 1 and both latches stay full
  , wDrained :: !Counter               -- 1: the last reader is known to have left nothing
  , wReading :: !(MVar ())             -- full: there may be something
  , wWriting :: !(MVar ())
  , wKeep :: IO ()                     -- does nothing; what it refers to must live as long
  }

-- | Registers an fd with the default manager. Both directions count as ready until a wait has found out. Throws EBADF, EPERM for a regular
-- file, and unsupported on systems without edge-triggered polling. Does not block.
watch :: Fd -> IO Watched
watch = watchKeeping (pure ())

-- | 'watch' for an fd that something else owns and would close as garbage: what the action refers to lives as long as the fd is watched. The
-- action is run by 'unwatch'.
watchKeeping :: IO () -> Fd -> IO Watched
watchKeeping keep fd = mask_ $ do
  reading <- newEmptyMVar
  -- Until a wait has asked for it, writing counts as possible.
  writing <- newMVar ()
  (e, made) <- withCurrent $ \m -> do
    shard <- currentShard m
    generation <- newCounter 0
    ended <- newCounter 0
    place <- newCell m shard (Latches generation reading writing ended)
    w <- Watched fd m <$> newMVar () <*> pure place <*> newCounter 1 <*> pure generation <*> newCounter 0 <*> newCounter shard
           <*> newCounter (fromIntegral (read_ .|. rdhup)) <*> pure ended <*> newCounter 0 <*> pure reading <*> pure writing <*> pure keep
    r <- enter w shard
    when (r < 0) $ freeCell m place
    pure (r, w)
  when (e < 0) $ throwBell "watch" e
  pure made

-- | Runs an action with a watched fd.
withWatched :: Fd -> (Watched -> IO a) -> IO a
withWatched fd = bracket (watch fd) unwatch

-- | Under the lock. Inlined with what it calls, so that a move allocates nothing.
enter :: Watched -> Int -> IO Int32
enter w shard = do
  let m = wManager w
      place@(Place table _) = wPlace w
  generation <- freshGeneration m table
  -- First: the news may be there before the handle is.
  writeCounter (wGeneration w) (fromIntegral generation)
  interest <- readCounter (wInterest w)
  h <- registerFdPoll (mBell m) (fromIntegral (watchedFd w)) (fromIntegral interest) edge 0 (fromIntegral shard)
         (userDataOf place generation)
  if h < 0 then pure (fromIntegral h) else do
    writeCounter (wHandle w) (fromIntegral h)
    writeCounter (wShard w) shard
    pure 0

{-# INLINE enter #-}

-- | Under the lock.
leave :: Watched -> IO ()
leave w = do
  h <- readCounter (wHandle w)
  when (h /= 0) $ do
    writeCounter (wHandle w) 0
    void $ bell_unregister (mBell (wManager w)) (fromIntegral h) 0

-- | Ends the watching. Those who wait, now or later, get EBADF. The fd stays open. Doing it twice does nothing.
unwatch :: Watched -> IO ()
unwatch w = mask_ $ do
  withMVar (wLock w) $ \() -> do
    leave w
    placed <- swapCounter (wPlaced w) 0
    when (placed /= 0) $ freeCell (wManager w) (wPlace w)
  end w
  wKeep w

end :: Watched -> IO ()
end w = do
  writeCounter (wEnded w) 1
  void (tryPutMVar (wReading w) ())
  void (tryPutMVar (wWriting w) ())

-- | 'closeFdWith', and 'unwatch'.
closeWatched :: (Fd -> IO ()) -> Watched -> IO ()
closeWatched close w = closeFdWith close (watchedFd w) `finally` unwatch w

-- | Waits until the fd may be readable. May return when it is not: try, and wait again. Several threads may wait: each is woken by
-- news that comes while it waits, but who stops reading before EAGAIN must call 'passRead'. Throws EBADF when
-- the fd was closed or is not watched any more. Blocks only the calling thread; 24 bytes and no system call.
waitRead :: Watched -> IO ()
waitRead w = wait "waitRead" w (wReading w)

-- | The same for writing. The first one costs a system call.
waitWrite :: Watched -> IO ()
waitWrite w = do
  interest <- readCounter (wInterest w)
  when (interest .&. fromIntegral write_ == 0) $ askToWrite w
  wait "waitWrite" w (wWriting w)

-- | Says that there is more to read than the caller wants, so that another thread that waits (or will) goes on.
passRead :: Watched -> IO ()
passRead w = void (tryPutMVar (wReading w) ())

-- | The same for writing.
passWrite :: Watched -> IO ()
passWrite w = void (tryPutMVar (wWriting w) ())

-- | News fills the latch and wakes all who are in 'readMVar'. Each of them then empties it: before the I/O that it allows, so what comes
-- afterwards is not lost. Who is killed in between leaves it full, which costs the next one a try in vain.
wait :: String -> Watched -> MVar () -> IO ()
wait location w latch = do
  there <- tryTakeMVar latch
  case there of
    Just () -> pure ()
    Nothing -> do
      age <- forks
      when (age /= mForks (wManager w)) $ throwForked location
      shard <- currentShard (wManager w)
      at <- readCounter (wShard w)
      when (shard /= at) $ move w shard
      readMVar latch
      void (tryTakeMVar latch)
  ended <- readCounter (wEnded w)
  when (ended == 1) $ do
    _ <- tryPutMVar latch ()
    throwIO (badFd location)
{-# INLINE wait #-}

askToWrite :: Watched -> IO ()
askToWrite w = mask_ $ withMVar (wLock w) $ \() -> do
  let both = read_ .|. rdhup .|. write_
  writeCounter (wInterest w) (fromIntegral both)
  h <- readCounter (wHandle w)
  when (h /= 0) $ do
    e <- bell_modify (mBell (wManager w)) (fromIntegral h) both edge
    when (e < 0) $ end w

-- | The registration comes along to the capability of who waits: being woken from another one costs more (two threads that talk to each
-- other had 4 switches of OS threads for each round trip while it came along only after three waits, and have 0.03). The new
-- registration tells what is ready now, so nothing is lost with the old one.
move :: Watched -> Int -> IO ()
move w shard = mask_ $ do
  -- Nothing here can throw or be interrupted but the first line.
  takeMVar (wLock w)
  h <- readCounter (wHandle w)
  when (h /= 0) $ do
    leave w
    e <- enter w shard
    when (e < 0) $ end w
  putMVar (wLock w) ()

foreign import ccall unsafe "recv" c_recv :: CInt -> Ptr Word8 -> CSize -> CInt -> IO CSsize
foreign import ccall unsafe "send" c_send :: CInt -> Ptr Word8 -> CSize -> CInt -> IO CSsize

-- | Receives up to so many bytes from a socket, waiting if there are none; 'B.empty' at the end of the stream. Where several threads
-- receive from one socket, each must call 'passRead' afterwards. For sockets of the @network@ package see "System.Doorbell.Socket". Errors as @recv(2)@, and EBADF as
-- 'waitRead'. One system call when there is something, and one more for each wait.
recv :: Watched -> Int -> IO B.ByteString
recv w most = B.createAndTrim (max 0 most) (\p -> recvBuf w p most)

-- | Sends at least a byte of a string that is not empty, waiting if there is no room; says how many it sent. No SIGPIPE. Errors as
-- @send(2)@, and EBADF as 'waitWrite'.
send :: Watched -> B.ByteString -> IO Int
send w bytes = B.unsafeUseAsCStringLen bytes $ \(p, n) -> sendBuf w (castPtr p) n

-- | Sends all of a string. When it throws or is killed, it is not known how much was sent.
sendAll :: Watched -> B.ByteString -> IO ()
sendAll w bytes = B.unsafeUseAsCStringLen bytes $ \(p, n) -> go (castPtr p) n
  where go p n = when (n > 0) $ sendBuf w p n >>= \sent -> go (p `plusPtr` sent) (n - sent)

-- | 'recv' into memory: how many bytes, 0 at the end of the stream.
recvBuf :: Watched -> Ptr Word8 -> Int -> IO Int
recvBuf w p n = do
  drained <- readCounter (wDrained w)
  when (drained /= 0) $ writeCounter (wDrained w) 0
  retryRead "recvBuf" w (c_recv (fromIntegral (watchedFd w)) p (fromIntegral n) 0)

-- | 'recvBuf' for TCP sockets with one reader, where the peer mostly answers what was sent: if the last call waited and then got less than
-- it asked for, nothing was left, so this one waits before it looks, and a turn costs one system call in place of two. What comes meanwhile is news
-- that ends the wait. (Not for other sockets: there a call may get less than there is. So it may in TCP at urgent data; what stands
-- behind that is then read when more comes.)
recvBufStream :: Watched -> Ptr Word8 -> Int -> IO Int
recvBufStream w p n = do
  drained <- readCounter (wDrained w)
  if drained == 0 then look else do
    ended <- readCounter (wEnded w)
    news <- tryTakeMVar (wReading w)
    -- The end of the stream may have come together with what was read. And who is told before it asks should look first.
    if ended /= 0 || isJust news then writeCounter (wDrained w) 0 >> look else waitRead w >> retry "recvBufStream" (waitRead w) call >>= after True
  where
    call = c_recv (fromIntegral (watchedFd w)) p (fromIntegral n) 0
    look = do
      r <- call
      if r >= 0 then pure (fromIntegral r) else do
        e <- getErrno
        if e == eAGAIN || e == eWOULDBLOCK then waitRead w >> retry "recvBufStream" (waitRead w) call >>= after False
        else if e == eINTR then look
        else throwErrno "recvBufStream"
    after was got = do
      let short = got < n
      when (short /= was) $ writeCounter (wDrained w) (fromEnum short)
      pure got

-- | 'send' from memory.
sendBuf :: Watched -> Ptr Word8 -> Int -> IO Int
sendBuf w p n = retryWrite "sendBuf" w (c_send (fromIntegral (watchedFd w)) p (fromIntegral n) 0x4000)

-- | Runs a system call that answers -1 with EAGAIN when there is nothing, waits then, and tries again; after EINTR too. Other errors are
-- thrown with the given location.
retryRead :: String -> Watched -> IO CSsize -> IO Int
retryRead location w = retry location (waitRead w)
{-# INLINE retryRead #-}

-- | The same for a system call that waits for room.
retryWrite :: String -> Watched -> IO CSsize -> IO Int
retryWrite location w = retry location (waitWrite w)
{-# INLINE retryWrite #-}

retry :: String -> IO () -> IO CSsize -> IO Int
retry location block call = go
  where
    go = do
      r <- call
      if r >= 0 then pure (fromIntegral r) else do
        e <- getErrno
        if e == eAGAIN || e == eWOULDBLOCK then block >> go
        else if e == eINTR then go
        else throwErrno location
{-# INLINE retry #-}
