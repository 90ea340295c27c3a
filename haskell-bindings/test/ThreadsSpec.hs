-- | The target MVAR.
module ThreadsSpec (threads, exitWhilePutting, exitPutting) where

import Control.Concurrent (forkIO, killThread, takeMVar, yield)
import Control.Exception
import Control.Monad
import Data.List (zip4)
import Data.Int (Int64)
import GHC.Stats (gc, gcdetails_live_bytes, getRTSStats)
import System.Doorbell.Internal.Raw (Counted (..), bell_post, counter)
import System.Doorbell.Threads
import System.Environment (getExecutablePath)
import System.Exit (ExitCode (..))
import System.Mem (performMajorGC)
import System.Posix.IO
import System.Posix.Process (ProcessStatus (..), exitImmediately, forkProcess, getProcessStatus)
import System.Process (readProcessWithExitCode)
import Support
import Test.Hspec hiding (after, before)

threads :: Spec
threads = describe "System.Doorbell.Threads" $ do
  it "waits for fds and timeouts" $ withThreadManager 1 $ \m -> withPipe $ \(r, w) -> do
    soon (threadWaitWrite m w)
    (_, v) <- spawn (threadWaitRead m r)
    ms 20
    unfinished v `shouldReturn` True
    _ <- fdWrite w "x"
    ended v
    soon (replicateM_ 3 (threadWaitRead m r))
    before <- now
    soon (threadDelay m 20000)
    after <- now
    (after - before) `shouldSatisfy` (>= 20000000)
  it "one event wakes three waiters, closeFdWith gives EBADF to three" $ withThreadManager 2 $ \m -> withPipe $ \(r, w) -> do
    vs <- replicateM 3 (snd <$> spawn (threadWaitRead m r))
    ms 20
    _ <- fdWrite w "x"
    mapM_ ended vs
    _ <- readFd r 1
    vs2 <- replicateM 3 (snd <$> spawn (threadWaitRead m r))
    ms 20
    closeFdWith m closeFd r
    forM_ vs2 $ \v -> soon (takeMVar v) >>= (`shouldSatisfy` isBadFd)
  it "says what is wrong with an fd" $ withThreadManager 1 $ \m -> do
    try (threadWaitRead m 9999) >>= (`shouldSatisfy` isBadFd)
    try (threadWaitRead m (-1)) >>= (`shouldSatisfy` isBadFd)
    s <- stablePtrs m
    made s `shouldBe` returned s
  it "100000 waits are killed: each StablePtr is consumed or returned once, and no MVar is kept" $
    withThreadManager 1 $ \m -> withPipe $ \(r, w) -> do
      signal <- newSignal m
      closeSignal signal
      let bell = signalBell signal
      before <- stablePtrs m
      bytesBefore <- liveBytes
      let points = zip4 [1 .. 100000 :: Int] (draws 5) (drop 1 (draws 97)) (drop 7 (draws 3))
      forM_ points $ \(_, yields, us, which) -> do
        (t, v) <- spawn (if which == 0 then threadDelay m (us + 1) else threadWaitRead m r)
        replicateM_ yields yield
        when (which == 2) $ void (fdWrite w "x")
        killThread t
        _ <- soon (takeMVar v)
        when (which == 2) $ soon (threadWaitRead m r) >> void (readFd r 1)
      let settled n = do
            s <- stablePtrs m
            let gone = returned s - returned before + fromIntegral (consumed s - consumed before)
            if made s - made before == gone || n == (0 :: Int) then pure (s, gone) else ms 5 >> settled (n - 1)
      (s, gone) <- settled 400
      gone `shouldBe` made s - made before
      -- Both ways were taken.
      returned s `shouldSatisfy` (> 1000)
      (consumed s - consumed before) `shouldSatisfy` (> 1000)
      -- An MVar that a StablePtr keeps is 16 bytes, and the StablePtr 8.
      bytesAfter <- liveBytes
      (bytesAfter - bytesBefore) `shouldSatisfy` (< 500000)
      counter bell Fds `shouldReturn` 0
      counter bell Timeouts `shouldReturn` 0
  it "closing ends those who wait with EBADF, and nothing is put afterwards" $ forM_ [1 .. 50 :: Int] $ \_ -> withPipe $ \(r, w) -> do
    m <- newThreadManager 2
    vs <- replicateM 5 (snd <$> spawn (forever (threadDelay m 20)))
    vs2 <- replicateM 5 (snd <$> spawn (threadWaitRead m r))
    ms 1
    closeThreadManager m
    s <- stablePtrs m
    forM_ (vs ++ vs2) $ \v -> soon (takeMVar v) >>= (`shouldSatisfy` isBadFd)
    _ <- fdWrite w "x"
    try (threadWaitRead m r) >>= (`shouldSatisfy` isBadFd)
    closeThreadManager m
    s2 <- stablePtrs m
    consumed s2 `shouldBe` consumed s
  it "a program that ends while news is being put ends well, 10 times" $ do
    self <- getExecutablePath
    forM_ [1 .. 10 :: Int] $ \_ -> do
      (code, out, err) <- readProcessWithExitCode self [exitWhilePutting] ""
      (code, out, err) `shouldBe` (ExitSuccess, "", "")
  it "a signal that foreign code rings" $ withThreadManager 1 $ \m -> do
    s <- newSignal m
    (_, v) <- spawn (replicateM_ 100 (waitSignal s))
    let ring = do
          -- What foreign code does.
          _ <- bell_post (signalBell s) (signalHandle s) 1
          done <- not <$> unfinished v
          unless done (yield >> ring)
    soon ring
    ended v
    -- Those that nobody waited for are one.
    replicateM_ 10 (ringSignal s)
    soon (waitSignal s)
    (t, v2) <- spawn (replicateM_ 2 (waitSignal s))
    ms 20
    killThread t
    _ <- soon (takeMVar v2)
    ringSignal s
    soon (waitSignal s)
    closeSignal s
    ringSignal s `shouldThrow` anyIOException
  it "is refused in a forked child, which may have its own" $ withThreadManager 1 $ \m -> withPipe $ \(r, w) -> do
    (_, v) <- spawn (threadWaitRead m r)
    ms 5
    child <- forkProcess $ do
      refused <- isRefused <$> try (threadDelay m 1)
      (_, own) <- spawn (withThreadManager 1 (\n -> threadDelay n 1000) >> closeThreadManager m)
      good <- ok <$> soon (takeMVar own)
      exitImmediately (if refused && good then ExitSuccess else ExitFailure 3)
    soon (getProcessStatus True False child) `shouldReturn` Just (Exited ExitSuccess)
    _ <- fdWrite w "x"
    ended v

liveBytes :: IO Int64
liveBytes = performMajorGC >> fromIntegral . gcdetails_live_bytes . gc <$> getRTSStats

isRefused :: Either IOException () -> Bool
isRefused = either (const True) (const False)

exitWhilePutting :: String
exitWhilePutting = "--exit-while-putting"

-- | Ends with a manager alive whose timeouts go on firing after hs_exit.
exitPutting :: IO ()
exitPutting = do
  linger
  m <- newThreadManager 2
  forM_ [1 .. 2000 :: Int] $ \i -> forkIO (threadDelay m (i * 20))
  threadDelay m 3000

foreign import ccall unsafe linger :: IO ()
