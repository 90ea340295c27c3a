{-# LANGUAGE ScopedTypeVariables #-}
-- | Many of everything, at any moment.
module ScaleSpec (scale) where

import Control.Concurrent (forkIO, killThread, modifyMVar_, newEmptyMVar, newMVar, readMVar, rtsSupportsBoundThreads, takeMVar,
                           threadDelay, yield)
import Control.Concurrent.STM
import Control.Exception
import Control.Monad
import qualified Data.ByteString.Char8 as C
import Data.IORef
import Foreign (Ptr, Word8, allocaBytes)
import qualified Network.Socket as S
import qualified System.Doorbell.Conc as D
import qualified System.Doorbell.Fd as W
import qualified System.Doorbell.Internal as I
import System.Doorbell (Target (..), defaultManager, registerTimeout, withManager)
import System.Doorbell.Internal.Raw (Counted (..), counter)
import qualified System.Doorbell.Socket as W
import System.Exit (ExitCode (..))
import System.Mem (performMajorGC)
import System.Posix.IO
import System.Posix.Process (ProcessStatus (..), exitImmediately, forkProcess, getProcessStatus)
import System.Posix.Terminal (openPseudoTerminal)
import Support
import Test.Hspec hiding (after, before)

-- | So many times fewer of everything.
scale :: Int -> Spec
scale slower = describe "at scale" $ do
  it "100000 waits are killed at any point: nothing is left, no wake-up is lost" $ withPipe $ \(r, w) -> do
    m <- defaultManager
    _ <- fdWrite w "x" >> soon (D.threadWaitRead r) >> readFd r 1
    before <- counter (I.mBell m) Fds
    forM_ (zip3 [1 .. 100000 `div` slower] (draws 6) (drop 3 (draws 5))) $ \(_ :: Int, yields, event) -> do
      (t, v) <- spawn (D.threadWaitRead r)
      replicateM_ yields yield
      when (event == 0) $ void (fdWrite w "x")
      killThread t
      _ <- soon (takeMVar v)
      when (event == 0) $ soon (D.threadWaitRead r) >> void (readFd r 1)
    -- Fewer, if the number was written to in an earlier test: when it moves to another capability, only who waits is registered there.
    left <- counter (I.mBell m) Fds
    left `shouldSatisfy` (<= before)
  it "100000 waits of a watched fd are killed at any point" $ withPair $ \(a, b) -> W.withWatched a $ \x ->
    forM_ (zip3 [1 .. 100000 `div` slower] (draws 6) (drop 3 (draws 5))) $ \(_ :: Int, yields, event) -> do
      (t, v) <- spawn (W.waitRead x)
      replicateM_ yields yield
      when (event == 0) $ void (fdWrite b "x")
      killThread t
      _ <- soon (takeMVar v)
      when (event == 0) $ allocaBytes 1 (\p -> soon (W.recvBuf x (p :: Ptr Word8) 1)) `shouldReturn` 1
  threaded $ it "closeFdWith racing waiters, on four threads at once: every waiter ends within a second" $ do
    slowest <- newIORef 0
    rounds <- forM [1 .. 4 :: Int] $ \k -> fmap snd $ spawn $ forM_ [1 .. 250 `div` slower] $ \i -> do
      -- Not withPipe, which would close the number again: it may be that of another thread by then.
      (r, w) <- createPipe
      vs <- replicateM 5 (snd <$> spawn (forever (D.threadWaitRead r >> yield)))
      replicateM_ ((i * k) `mod` 9) yield
      before <- now
      D.closeFdWith closeFd r
      forM_ vs $ \v -> soon (takeMVar v) >>= (`shouldSatisfy` (isBadFd :: Either SomeException () -> Bool))
      after <- now
      -- Not by a plain close: a waiter that began late may be waiting for the number, which is w's by now, of another thread.
      D.closeFdWith closeFd w
      atomicModifyIORef' slowest (\s -> (max s (after - before), ()))
    forM_ rounds ended
    readIORef slowest >>= (`shouldSatisfy` (< 1000000000))
  it "an STM wait for one of 100 fds, taken again and again by orElse" $ do
    pipes <- replicateM 100 socketPair
    replicateM_ 20 $ do
      waits <- forM pipes $ \(_, r, _, _) -> D.threadWaitReadSTM r
      forM_ (take 3 (drop 40 pipes)) $ \(_, _, _, w) -> fdWrite w "x"
      got <- soon (atomically (foldr (\(i, (stm, _)) rest -> (i <$ stm) `orElse` rest) retry (zip [0 :: Int ..] waits)))
      got `shouldSatisfy` (`elem` [40, 41, 42])
      mapM_ snd waits
      forM_ (take 3 (drop 40 pipes)) $ \(_, r, _, _) -> soon (D.threadWaitRead r) >> readFd r 1
    forM_ pipes $ \(a, _, b, _) -> S.close a >> S.close b
  it "1000000 delays, none early" $ do
    early <- newIORef (0 :: Int)
    -- A thread for each hundred, so that many are armed at once.
    vs <- forM [1 .. 10000 `div` slower] $ \k -> fmap snd $ spawn $ forM_ [1 .. 100 :: Int] $ \i -> do
      let us = (k * 31 + i * 17) `mod` 400 + 1
      before <- now
      D.threadDelay us
      after <- now
      when (after - before < fromIntegral us * 1000) $ atomicModifyIORef' early (\n -> (n + 1, ()))
    forM_ vs $ \v -> takeMVar v >>= either throwIO pure
    readIORef early `shouldReturn` 0
  it "waits on a terminal" $ bracket openPseudoTerminal (\(a, b) -> closeFd a >> closeFd b) $ \(control, terminal) -> do
    (_, v) <- spawn (D.threadWaitRead terminal)
    ms 10
    unfinished v `shouldReturn` True
    _ <- fdWrite control "line\n"
    ended v
    soon (D.threadWaitWrite control)
  it "the collector moves everything meanwhile" $ do
    stop <- newIORef False
    (_, gc) <- spawn (let go = do { performMajorGC; threadDelay 200; s <- readIORef stop; unless s go } in go)
    dones <- forM [1 .. 20 :: Int] $ \_ -> do
      (sa, a, sb, b) <- socketPair
      x <- W.watch a
      done <- fmap snd $ spawn $ do
        (_, v) <- spawn (forM_ [1 .. 200 :: Int] $ \_ -> D.threadWaitRead b >> readFd b 1 >> fdWrite b "y")
        forM_ [1 .. 200 :: Int] $ \_ -> fdWrite a "x" >> W.recv x 1 >>= (`shouldBe` C.pack "y")
        ended v
        W.unwatch x
      pure (done, sa, sb)
    forM_ dones $ \(v, a, b) -> takeMVar v >>= either throwIO pure >> S.close a >> S.close b
    writeIORef stop True
    ended gc
  -- On the threaded runtime its own idle collection does it, if the whole process is idle.
  unless rtsSupportsBoundThreads $ it "a thread that waits for what nobody can fill is told, though nobody asks for a collection" $ do
    D.threadDelay 1000
    (_, v) <- spawn (newEmptyMVar >>= \dead -> takeMVar dead :: IO ())
    e <- soon (takeMVar v)
    either (\x -> fromException x `shouldSatisfy` \y -> case y of { Just BlockedIndefinitelyOnMVar -> True; _ -> False })
      (\() -> expectationFailure "went on") e
  it "a thread that waits for what nobody can fill gets BlockedIndefinitelyOnMVar, beside waits of ours" $ withPipe $ \(r, w) -> do
    (_, io) <- spawn (D.threadWaitRead r)
    (_, timer) <- spawn (D.threadDelay 300000)
    (_, v) <- spawn (newEmptyMVar >>= \dead -> takeMVar dead :: IO ())
    ms 5
    performMajorGC
    e <- soon (takeMVar v)
    either (\x -> fromException x `shouldSatisfy` \y -> case y of { Just BlockedIndefinitelyOnMVar -> True; _ -> False })
      (\() -> expectationFailure "went on") e
    -- Ours are not taken for dead.
    performMajorGC
    unfinished io `shouldReturn` True
    unfinished timer `shouldReturn` True
    _ <- fdWrite w "x"
    ended io
    ended timer
  it "what was made before forkProcess says so in the child, and works on in the parent" $ withManager $ \m -> withPair $ \(a, b) ->
    W.withWatched a $ \x -> do
      (_, v) <- spawn (W.waitRead x)
      ms 5
      child <- forkProcess $ do
        let refused action = either (\(_ :: IOException) -> True) (const False) <$> try action
        news <- newEmptyMVar
        one <- refused (registerTimeout m (ToMVar news) 1)
        two <- refused (W.waitRead x)
        again <- D.timeout 3000000 $ withPair $ \(c, d) -> W.withWatched c $ \y -> do
          _ <- forkIO (D.threadDelay 1000 >> void (fdWrite d "x"))
          W.recv y 1
        exitImmediately (if one && two && again == Just (C.pack "x") then ExitSuccess else ExitFailure 3)
      soon (getProcessStatus True False child) `shouldReturn` Just (Exited ExitSuccess)
      _ <- fdWrite b "x"
      ended v
      news <- newEmptyMVar
      _ <- registerTimeout m (ToMVar news) 1
      soon (takeMVar news)
  it "accepts 300 connections, and echoes to each" $ bracket (S.socket S.AF_INET S.Stream S.defaultProtocol) S.close $ \s -> do
    S.bind s (S.SockAddrInet 0 (S.tupleToHostAddress (127, 0, 0, 1)))
    S.listen s 100
    address <- S.getSocketName s
    w <- W.watchSocket s
    served <- newMVar (0 :: Int)
    acceptor <- forkIO $ forever $ do
      (c, _) <- W.accept w
      forkIO $ bracket (W.watchSocket c) (W.closeSocket c) $ \x -> do
        let loop = W.recv x 100 >>= \bytes -> unless (C.null bytes) (W.sendAll x bytes >> loop)
        loop
        modifyMVar_ served (pure . (+ 1))
    clients <- forM [1 .. 300 :: Int] $ \i -> fmap snd $ spawn $ bracket (S.socket S.AF_INET S.Stream S.defaultProtocol) S.close $ \c -> do
      S.connect c address
      bracket (W.watchSocket c) W.unwatch $ \x -> do
        let text = C.pack (concat (replicate 50 (show i)))
            collect n = if n <= 0 then pure [] else W.recv x n >>= \part -> (part :) <$> collect (n - C.length part)
        W.sendAll x text
        C.concat <$> collect (C.length text) >>= (`shouldBe` text)
    forM_ clients ended
    soon (let settle = readMVar served >>= \n -> when (n < 300) (threadDelay 1000 >> settle) in settle)
    killThread acceptor
    W.closeSocket s w
  it "megabytes go through a watched socket whose peer reads slowly" $ withPair $ \(a, b) -> W.withWatched a $ \x -> do
    let size = 5000000
        text = C.replicate size 'z'
    (_, v) <- spawn (W.sendAll x text)
    y <- W.watch b
    let collect n = if n == 0 then pure () else do
          part <- W.recv y 70000
          part `shouldSatisfy` C.all (== 'z')
          collect (n - C.length part)
    collect size
    ended v
    W.unwatch y
  where
    socketPair = do
      (a, b) <- S.socketPair S.AF_UNIX S.Stream S.defaultProtocol
      x <- S.unsafeFdSocket a
      y <- S.unsafeFdSocket b
      pure (a, fromIntegral x, b, fromIntegral y)
