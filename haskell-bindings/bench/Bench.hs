-- | One measurement, ours beside GHC's own in turns, as lines @sample SIDE METRIC VALUE@. "Report" runs this program with several flags of
-- the runtime and puts the samples together.
module Main (main) where

import Control.Concurrent
import Control.Exception (bracket)
import Control.Monad
import Data.IORef
import Data.Maybe (isJust)
import Data.Int (Int64)
import Data.Word (Word8)
import Foreign (Ptr, alloca, allocaBytes, mallocBytes, peek, poke)
import Foreign.C.Types (CInt (..), CSize (..))
import qualified GHC.Conc as G
import qualified GHC.Event as G
import GHC.Stats (allocated_bytes, getRTSStats)
import qualified Network.Socket as S
import System.CPUTime (getCPUTime)
import qualified System.Doorbell as B
import qualified System.Doorbell.Conc as B
import qualified System.Doorbell.Fd as B
import System.Doorbell.Internal.Counter
import System.Doorbell.Internal.Raw (bell_now)
import System.Environment (getArgs)
import System.IO
import System.Mem (performGC)
import System.Posix.IO (closeFd, createPipe)
import System.Posix.Resource
import System.Posix.Types (CSsize (..), Fd (..))

foreign import ccall unsafe "recv" c_recv :: CInt -> Ptr Word8 -> CSize -> CInt -> IO CSsize
foreign import ccall unsafe "send" c_send :: CInt -> Ptr Word8 -> CSize -> CInt -> IO CSsize
foreign import ccall unsafe "read" c_read :: CInt -> Ptr Int64 -> CSize -> IO CSsize
-- A thread of C that writes the time of day of the clock to an fd, so often, with so many microseconds between.
foreign import ccall unsafe bench_ticker :: CInt -> CInt -> CInt -> IO ()

foreign import ccall unsafe bench_switches :: IO Int64

-- | Stream: ours by 'B.recvBufStream', which waits before it looks. Floor: nobody waits for an fd, an MVar says that there is something.
data Side = Ghc | Ours | Stream | Floor deriving (Eq, Show)

name :: Side -> String
name Ghc = "ghc"
name Ours = "doorbell"
name Stream = "stream"
name Floor = "floor"

-- | So many rounds, each of both sides, in an order that changes.
alternate :: Int -> (Side -> IO [(String, Double)]) -> IO ()
alternate = alternating [Ghc, Ours]

alternating :: [Side] -> Int -> (Side -> IO [(String, Double)]) -> IO ()
alternating sides rounds measure = forM_ [1 .. rounds] $ \i ->
  forM_ (if odd i then sides else reverse sides) $ \side -> do
    samples <- measure side
    forM_ samples $ \(metric, value) -> putStrLn (unwords ["sample", name side, metric, show value])

main :: IO ()
main = do
  hSetBuffering stdout LineBuffering
  limits <- getResourceLimit ResourceOpenFiles
  setResourceLimit ResourceOpenFiles limits { softLimit = hardLimit limits }
  args <- getArgs
  done <- newEmptyMVar
  -- Not in the main thread, which is bound to an OS thread: that costs switches of its own.
  _ <- forkIO (run args >> putMVar done ())
  takeMVar done
  where
    run [what, n, rounds, ms] = case what of
      "pingpong" -> pingPong [Ghc, Ours, Stream] (read n) (read rounds) (read ms)
      "floor" -> pingPong [Floor] (read n) (read rounds) (read ms)
      "stm" -> stmWaits (read n) (read rounds) (read ms)
      "waits" -> countedWaits n (read rounds) (read ms)
      "timers" -> timers (read n) (read rounds) (read ms)
      "delay" -> delays (read n) (read rounds) (read ms)
      "wake" -> wakes (if n == "idle" then Nothing else Just (read n)) (read rounds) (read ms)
      "beyond" -> beyond (read n)
      _ -> fail "unknown measurement"
    run _ = fail "WHAT N ROUNDS MS"

-- ---------------------------------------------------------------------------------------------------------------
-- Ping-pong

socketPairs :: Int -> ([(S.Socket, S.Socket)] -> IO a) -> IO a
socketPairs n = bracket (replicateM n (S.socketPair S.AF_UNIX S.Stream S.defaultProtocol)) (mapM_ (\(a, b) -> S.close a >> S.close b))

-- | One end: receives a byte, and sends it.
data End = End { received :: IO (), afterSending :: IO (), endFd :: !CInt, buffer :: !(Ptr Word8) }

-- | The memory is the program's until it ends.
endOf :: CInt -> IO () -> IO End
endOf fd block = do
  p <- mallocBytes 1
  let go = do
        r <- c_recv fd p 1 0
        when (r < 0) (block >> go)
  pure (End go (pure ()) fd p)
{-# INLINE endOf #-}

ghcEnd :: CInt -> IO End
ghcEnd fd = endOf fd (G.threadWaitRead (Fd fd))

ourEnd :: CInt -> B.Watched -> IO End
ourEnd fd w = endOf fd (B.waitRead w)

-- | For a buffer of two bytes one byte is a short read.
streamEnd :: CInt -> B.Watched -> IO End
streamEnd fd w = do
  p <- mallocBytes 2
  pure (End (void (B.recvBufStream w p 2)) (pure ()) fd p)

floorEnds :: (CInt, CInt) -> IO (End, End)
floorEnds (a, b) = do
  x <- newEmptyMVar
  y <- newEmptyMVar
  let end fd mine other = endOf fd (fail "nothing there") >>= \e -> pure e { received = takeMVar mine >> received e, afterSending = putMVar other () }
  (,) <$> end a x y <*> end b y x

-- | @n@ pairs of green threads send a byte to and fro for a while.
pingPong :: [Side] -> Int -> Int -> Int -> IO ()
pingPong sides n rounds ms = socketPairs n $ \pairs -> do
  fds <- forM pairs $ \(a, b) -> (,) <$> S.unsafeFdSocket a <*> S.unsafeFdSocket b
  alternating sides rounds $ \side -> case side of
    Ghc -> forM fds (\(a, b) -> (,) <$> ghcEnd a <*> ghcEnd b) >>= playing ms
    Ours -> watching fds ourEnd
    Stream -> watching fds streamEnd
    Floor -> forM fds floorEnds >>= playing ms
  where
    watching fds end =
      bracket (forM fds $ \(a, b) -> (,) <$> B.watch (Fd a) <*> B.watch (Fd b)) (mapM_ (\(x, y) -> B.unwatch x >> B.unwatch y)) $ \ws ->
        forM (zip fds ws) (\((a, b), (x, y)) -> (,) <$> end a x <*> end b y) >>= playing ms

playing :: Int -> [(End, End)] -> IO [(String, Double)]
playing ms players = do
  stop <- newIORef False
  gate <- newEmptyMVar
  counts <- forM players $ \_ -> newCounter 0
  dones <- forM (zip players counts) $ \((a, b), count) -> do
    doneA <- newEmptyMVar
    doneB <- newEmptyMVar
    _ <- forkIO (answer b >> putMVar doneB ())
    _ <- forkIO (readMVar gate >> ask stop count a >> putMVar doneA ())
    pure (doneA, doneB)
  let total = sum <$> mapM readCounter counts
      end = forM_ dones $ \(x, y) -> takeMVar x >> takeMVar y
  (m, v) <- if rtsSupportsBoundThreads
    then do
      putMVar gate ()
      threadDelay (ms * 200)   -- a fifth of the time to settle
      sampled total (threadDelay (ms * 1000)) <* (writeIORef stop True >> end)
    -- There GHC's manager puts threads that an fd has woken before all others, and this one would never run again: each pair stops
    -- by itself.
    else sampled total (putMVar gate () >> end)
  pure (("rate", v) : m)
  where
    each = ms * 100 `div` length players + 1
    ask stop count a = do
      finish <- if rtsSupportsBoundThreads then readIORef stop else (>= each) <$> readCounter count
      poke (buffer a) (if finish then 1 else 0)
      sendByte a
      received a
      unless finish $ addCounter count 1 >> ask stop count a
    answer b = do
      received b
      x <- peek (buffer b)
      sendByte b
      when (x == 0) $ answer b

sendByte :: End -> IO ()
sendByte e = do
  r <- c_send (endFd e) (buffer e) 1 0x4000
  when (r /= 1) $ fail "the socket is full"
  afterSending e

-- | What happened per operation while the action ran: the rate is the second.
sampled :: IO Int -> IO () -> IO ([(String, Double)], Double)
sampled counted action = do
  performGC
  s0 <- allocated_bytes <$> getRTSStats
  c0 <- counted
  cpu0 <- getCPUTime
  w0 <- bench_switches
  t0 <- bell_now 0
  action
  t1 <- bell_now 0
  cpu1 <- getCPUTime
  w1 <- bench_switches
  c1 <- counted
  performGC
  s1 <- allocated_bytes <$> getRTSStats
  c2 <- counted
  let ops = fromIntegral (max 1 (c1 - c0)) :: Double
  pure ( [ ("cpu_us", fromIntegral (cpu1 - cpu0) / 1e6 / ops)
         , ("switches", fromIntegral (w1 - w0) / ops)
         , ("bytes_per_wait", fromIntegral (s1 - s0) / fromIntegral (max 1 (c2 - c0)) / 2) ]
       , ops / (fromIntegral (t1 - t0) / 1e9) )

-- | The same with STM: GHC's threadWaitReadSTM and ours.
stmWaits :: Int -> Int -> Int -> IO ()
stmWaits n rounds ms = socketPairs n $ \pairs -> do
  fds <- forM pairs $ \(a, b) -> (,) <$> S.unsafeFdSocket a <*> S.unsafeFdSocket b
  alternate rounds $ \side -> do
    let wait = if side == Ghc then G.threadWaitReadSTM else B.threadWaitReadSTM
        end fd = endOf fd (wait (Fd fd) >>= \(ready, _) -> G.atomically ready)
    forM fds (\(a, b) -> (,) <$> end a <*> end b) >>= playing ms

-- | So many waits of one pair, by one side, and then the end: for strace.
countedWaits :: String -> Int -> Int -> IO ()
countedWaits side count _ = socketPairs 1 $ \pairs -> forM_ pairs $ \(sa, sb) -> do
  a <- S.unsafeFdSocket sa
  b <- S.unsafeFdSocket sb
  x <- B.watch (Fd a)
  y <- B.watch (Fd b)
  (e, f) <- if side == "ghc" then (,) <$> ghcEnd a <*> ghcEnd b else (,) <$> ourEnd a x <*> ourEnd b y
  done <- newEmptyMVar
  let play end first = do
        poke (buffer end) 0
        when first $ sendByte end
        forM_ [1 .. count] $ \i -> received end >> when (i < count || not first) (sendByte end)
        putMVar done ()
  mapM_ (forkIO . uncurry play) [(f, False), (e, True)]
  takeMVar done >> takeMVar done

-- ---------------------------------------------------------------------------------------------------------------
-- Timeouts

-- | Registers and cancels @n@ timeouts, with a thousand others alive.
timers :: Int -> Int -> Int -> IO ()
timers n rounds _ = do
  tm <- G.getSystemTimerManager
  m <- B.defaultManager
  v <- newEmptyMVar
  forM_ [1 .. 1000 :: Int] $ \i -> do
    _ <- G.registerTimeout tm (100000000 + i) (pure ())
    B.registerTimeout m (B.ToMVar v) (100000000 + i)
  done <- newIORef 0
  alternate rounds $ \side -> do
    writeIORef done 0
    (costs, rate) <- sampled (readIORef done) $ do
      case side of
        Ghc -> replicateM_ n (G.registerTimeout tm 200000000 (void (tryPutMVar v ())) >>= G.unregisterTimeout tm)
        _ -> replicateM_ n (B.registerTimeout m (B.ToMVar v) 200000000 >>= B.unregisterTimeout m)
      writeIORef done n
    -- 'sampled' halves the bytes: two waits a round trip.
    pure (("rate", rate) : [(if k == "bytes_per_wait" then "bytes" else k, if k == "bytes_per_wait" then 2 * x else x) | (k, x) <- costs])

-- | How late so many delays of @us@ are, one after the other.
delays :: Int -> Int -> Int -> IO ()
delays us rounds count = alternate rounds $ \side ->
  forM [1 .. count] $ \_ -> do
    t0 <- bell_now 0
    (if side == Ghc then threadDelay else B.threadDelay) us
    t1 <- bell_now 0
    pure ("late_us", fromIntegral (t1 - t0) / 1000 - fromIntegral us)

-- ---------------------------------------------------------------------------------------------------------------
-- From the event to the thread

-- | The clock is read by who writes, a thread of C, and by the green thread that reads. Given a number: beside a green thread that
-- computes on each capability, and so many to twice as many milliseconds apart.
wakes :: Maybe Int -> Int -> Int -> IO ()
wakes busy rounds count = do
  capabilities <- getNumCapabilities
  stop <- newIORef False
  when (isJust busy) $ forM_ [0 .. capabilities - 1] $ \c -> forkOn c (burn stop (1 :: Integer))
  bracket createPipe (\(r, w) -> closeFd r >> closeFd w) $ \(r@(Fd rfd), Fd wfd) -> do
    S.setNonBlockIfNeeded rfd
    w <- B.watch r
    alternate rounds $ \side -> do
      bench_ticker wfd (fromIntegral count) (maybe 2000 (fromIntegral . (* 1000)) busy)
      alloca $ \p -> forM [1 .. count] $ \_ -> do
        let go = do
              n <- c_read rfd p 8
              if n == 8 then pure () else (if side == Ghc then G.threadWaitRead r else B.waitRead w) >> go
        go
        t <- bell_now 0
        sent <- peek p
        pure ("latency_us", fromIntegral (t - sent) / 1000)
    B.unwatch w
  writeIORef stop True
  where
    burn stop x = do
      finished <- readIORef stop
      unless finished $ burn stop $! (x * 6364136223846793005 + 1) `mod` 1000000007

-- | Waits for fds beyond what select can do: says how far it came.
beyond :: Int -> IO ()
beyond n = do
  -- The fd that GHC's select watches for us must be below 1024, so it is made first.
  B.threadDelay 1
  socketPairs n $ \pairs -> do
    waiting <- forM pairs $ \(sa, sb) -> do
      a <- S.unsafeFdSocket sa
      b <- S.unsafeFdSocket sb
      done <- newEmptyMVar
      _ <- forkIO (B.threadWaitRead (Fd a) >> putMVar done ())
      pure (done, a, b)
    forM_ waiting $ \(_, _, b) -> allocaBytes 1 $ \p -> poke p (0 :: Word8) >> c_send b p 1 0x4000
    forM_ waiting $ \(done, _, _) -> takeMVar done
    putStrLn (unwords ["sample", "doorbell", "highest_fd", show (fromIntegral (maximum [a | (_, a, _) <- waiting]) :: Double)])
