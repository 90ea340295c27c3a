{-# LANGUAGE ScopedTypeVariables #-}
-- | What the suites share.
module Support
  ( soon, now, ms, withPipe, withPair, readFd, spawn, unfinished, kind, isBadFd, ok, fill, threaded, ended, draws,
    liveTimeouts
  ) where

import Control.Concurrent (MVar, forkIO, newEmptyMVar, putMVar, rtsSupportsBoundThreads, takeMVar)
import qualified Control.Concurrent as C
import Control.Exception
import Control.Monad
import Data.Bits (shiftR, xor)
import Data.Int (Int64)
import Data.Maybe (isNothing)
import Data.Word (Word64)
import Foreign (allocaBytes)
import Foreign.C.Types (CInt (..))
import GHC.IOArray (readIOArray)
import GHC.IO.Exception (IOErrorType, IOException (..))
import qualified Network.Socket as S
import System.Doorbell.Internal (Manager (..))
import System.Doorbell.Internal.Raw (bell_now)
import System.Doorbell.Internal.Timers (idleCells)
import System.Posix.IO
import System.Posix.Types (ByteCount, Fd)
import qualified System.Timeout as G
import Test.Hspec

-- | Nothing after five seconds of GHC's clock.
soon :: IO a -> IO a
soon action = G.timeout 5000000 action >>= maybe (fail "took more than 5 seconds") pure

now :: IO Int64
now = bell_now 0

ms :: Int -> IO ()
ms n = C.threadDelay (n * 1000)

withPipe :: ((Fd, Fd) -> IO a) -> IO a
withPipe = bracket make (\(r, w) -> quiet (closeFd r) >> quiet (closeFd w))
  where
    quiet a = void (try a :: IO (Either IOException ()))
    make = do
      p@(r, w) <- createPipe
      forM_ [r, w] $ \fd -> setFdOption fd NonBlockingRead True
      pure p

withPair :: ((Fd, Fd) -> IO a) -> IO a
withPair f = bracket (S.socketPair S.AF_UNIX S.Stream S.defaultProtocol) (\(a, b) -> S.close a >> S.close b) $ \(a, b) ->
  S.withFdSocket a $ \x -> S.withFdSocket b $ \y -> f (fromIntegral x, fromIntegral y)

-- | Reads so many bytes at most, and forgets them. The end of the file is an error. (@unix@ has changed the types of its @fdRead@s.)
readFd :: Fd -> ByteCount -> IO ()
readFd fd n = do
  got <- allocaBytes (fromIntegral n) $ \p -> fdReadBuf fd p n
  when (got == 0) $ fail "the end of the file"

-- | A thread that reports how it ended.
spawn :: IO a -> IO (C.ThreadId, MVar (Either SomeException a))
spawn action = do
  v <- newEmptyMVar
  t <- mask $ \restore -> forkIO (try (restore action) >>= putMVar v)
  pure (t, v)

unfinished :: MVar a -> IO Bool
unfinished v = isNothing <$> C.tryReadMVar v

-- | Type and errno of an 'IOException'.
kind :: Either SomeException a -> Maybe (IOErrorType, Maybe CInt)
kind (Left e) = (\io -> (ioe_type io, ioe_errno io)) <$> fromException e
kind _ = Nothing

ok :: Either SomeException a -> Bool
ok = either (const False) (const True)

fill :: Fd -> IO ()
fill fd = setFdOption fd NonBlockingRead True >> (forever (fdWrite fd (replicate 4096 'x')) `catch` \(_ :: IOException) -> pure ())

-- | GHC's other runtime has no manager: it polls with select, and closing is not its business.
threaded :: Spec -> Spec
threaded s = if rtsSupportsBoundThreads then s else pure ()

-- | Waits for a thread of 'spawn' and throws what it threw.
ended :: MVar (Either SomeException a) -> IO ()
ended v = soon (takeMVar v) >>= either throwIO (const (pure ()))

-- | EBADF.
isBadFd :: Either SomeException a -> Bool
isBadFd e = (snd <$> kind e) == Just (Just 9)

-- | The same numbers at every run, each below the given one.
draws :: Int -> [Int]
draws n = map (\x -> fromIntegral (x `shiftR` 33) `mod` n) (iterate next 88172645463325252)
  where next x = (x `xor` (x `shiftR` 7)) * 6364136223846793005 + 1442695040888963407 :: Word64

-- | How many timeouts a manager has that were neither told nor cancelled, while nobody registers any.
liveTimeouts :: Manager -> IO Int
liveTimeouts m = fmap sum $ forM [0 .. mShards m - 1] $ \shard -> do
  (all_, free) <- readIOArray (mTimers m) shard >>= idleCells
  pure (all_ - free)
