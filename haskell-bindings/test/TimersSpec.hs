-- | Timeouts that share cells and rings: see "System.Doorbell.Internal.Timers".
module TimersSpec (timers) where

import Control.Concurrent (forkOn, killThread, newEmptyMVar, putMVar, rtsSupportsBoundThreads, takeMVar, threadDelay,
                           tryTakeMVar, yield)
import Control.Exception
import Control.Monad
import System.Doorbell
import qualified System.Doorbell.Internal as I
import System.Doorbell.Internal.Raw (Counted (..), counter)
import System.Doorbell.Internal.Timers (mostParked)
import Support
import Test.Hspec hiding (after, before)

timers :: Int -> Spec
timers slower = describe "timeouts" $ do
  it "registered, moved and cancelled on four capabilities at once: told once and not early, or cancelled" $ withManager $ \m -> do
    threads <- forM [1 .. 4] $ \k -> do
      done <- newEmptyMVar
      _ <- forkOn k (try (mapM_ (one m) (zip3 [1 .. 20000 `div` slower] (drop (31 * k) (draws 700)) (drop (17 * k) (draws 12)))) >>= putMVar done)
      pure done
    forM_ threads $ takeMVar >=> either (throwIO :: SomeException -> IO ()) pure
    idle m
  it "cancelled by two at once: one of them, and only if it is not told" $ withManager $ \m ->
    forM_ (zip [1 .. 20000 `div` slower] (draws 60)) $ \(i, us) -> do
      v <- newEmptyMVar
      key <- registerTimeout m (ToMVar v) (if even (i :: Int) then us else 1000000)
      other <- newEmptyMVar
      _ <- forkOn 1 (unregisterTimeout m key >>= putMVar other)
      mine <- unregisterTimeout m key
      theirs <- soon (takeMVar other)
      case length (filter (== Cancelled) [mine, theirs]) of
        0 -> soon (takeMVar v)
        n -> do
          n `shouldBe` 1
          tryTakeMVar v `shouldReturn` Nothing
  it "whoever registers and cancels is killed at any point: every cell comes back" $ withManager $ \m -> do
    -- With one capability, who does not yield is stopped only at the end of its time slice, which is 20 ms: few do not.
    forM_ (zip3 [1 .. 5000 `div` slower] (draws 4) (drop 5 (draws 3000))) $ \(i, yields, us) -> do
      (t, v) <- spawn $ forever $ do
        key <- newEmptyMVar >>= \told -> registerTimeout m (ToMVar told) (us + 1)
        when (i `mod` 50 /= (0 :: Int)) yield
        -- Those that are left alone, not too many.
        if i `mod` 5 == 0 then yield else void (unregisterTimeout m key)
      replicateM_ yields yield
      killThread t
      soon (takeMVar v) >>= either (const (pure ())) (\() -> expectationFailure "ended")
    idle m
  it "those that are cancelled leave few rings, and do not keep those that come later from being told" $ withManager $ \m -> do
    v <- newEmptyMVar
    keys <- replicateM 5000 (registerTimeout m (ToMVar v) 100000000)
    live <- counter (I.mBell m) Timeouts
    live `shouldSatisfy` \n -> n >= 5000 && n <= 5000 + itsOwn
    outcomes <- mapM (unregisterTimeout m) keys
    outcomes `shouldSatisfy` all (== Cancelled)
    left <- counter (I.mBell m) Timeouts
    left `shouldSatisfy` (<= fromIntegral (mostParked * I.mShards m) + itsOwn)
    tryTakeMVar v `shouldReturn` Nothing
    before <- now
    sooner <- replicateM 3000 (newEmptyMVar >>= \told -> told <$ registerTimeout m (ToMVar told) 20000)
    mapM_ (soon . takeMVar) sooner
    after <- now
    (after - before) `shouldSatisfy` (>= 20000000)
    idle m
  where
    -- The dispatcher of the ordinary runtime has one.
    itsOwn = if rtsSupportsBoundThreads then 0 else 1

-- | A timeout that is left alone, cancelled or moved.
one :: Manager -> (Int, Int, Int) -> IO ()
one m (_, us, what) = do
  v <- newEmptyMVar
  before <- now
  key <- registerTimeout m (ToMVar v) us
  let told from time = do
        soon (takeMVar v)
        after <- now
        (after - from) `shouldSatisfy` (>= fromIntegral time * 1000)
  replicateM_ (what `div` 4) yield
  case what `mod` 4 of
    0 | us < 100 -> told before us
    1 -> do
      let time = us * 7 `mod` 400
      from <- now
      moved <- updateTimeout m key time
      if moved then told from time else told before us
      unregisterTimeout m key `shouldReturn` Fired
    _ -> do
      outcome <- unregisterTimeout m key
      if outcome == Fired then told before us else yield >> (tryTakeMVar v `shouldReturn` Nothing)

-- | Waits until all have been told.
idle :: Manager -> IO ()
idle m = soon settle
  where settle = liveTimeouts m >>= \n -> unless (n == 0) $ threadDelay 1000 >> settle
