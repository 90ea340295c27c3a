{-# LANGUAGE BangPatterns #-}
{-# LANGUAGE MagicHash #-}
{-# LANGUAGE UnboxedTuples #-}
-- | One-shot timeouts of a shard, most of which are cancelled before their time: registering and cancelling call the library only
-- seldom.
--
-- A timeout has a /cell/: a few words of memory and a place for its target. The library is told to ring at a cell's deadline or
-- earlier; when it rings, the dispatcher looks at the cell. A cancelled timeout leaves the ring behind (it is /parked/), so the next one in that
-- cell, if it is not due before the ring, is a matter of memory alone. A ring that finds nobody is in vain: at most 'mostParked' of them
-- for each shard are left.
--
-- The words of a cell, and who may change them:
--
-- > state     generation * 4 + 0 free, 1 armed, 2 its deadline is being changed. Who takes it from armed to free, by compare-and-swap, ends
-- >           the timeout: exactly one of the canceller and the dispatcher.
-- > deadline  who owns the free cell, or has made the state 2
-- > ring      0: the library will not ring. Above: it will, then. -1: somebody is just seeing to it; who has, looks again. -2: and
-- >           it has rung meanwhile.
-- > handle    of the library's timeout, by who has made ring -1
-- > next      in a list of free cells
--
-- Nobody is forgotten: who arms writes the state, then reads ring; the dispatcher takes the ring away, then reads the state. Both are
-- atomic instructions, so one of the two sees the other.
--
-- The ways that are taken often allocate nothing between taking a cell and arming it, and between disarming and giving it back: there
-- GHC cannot stop the thread, so no exception gets between, and nothing need be masked.
module System.Doorbell.Internal.Timers
  ( Timers, newTimers, Target (..), put
  , Timer, timerError, startTimer, cancelTimer, moveTimer, ringTimer, isRing, mostParked, idleCells
  ) where

import Control.Concurrent (forkIO, yield)
import Control.Concurrent.MVar
import Control.Exception (mask_)
import Control.Monad
import Data.Bits
import Data.Int (Int32, Int64)
import Data.Word (Word32, Word64)
import qualified GHC.Conc as Conc
import GHC.Exts
import GHC.IO (IO (..))
import System.Doorbell.Internal.Buckets (bucketOf, bucketSize, limit)
import System.Doorbell.Internal.Counter
import System.Doorbell.Internal.Raw

-- | Where news is put. News that finds news is merged with it ('<>'); with an MVar that other threads fill too, it may be lost
-- to what they put.
data Target a
  = ToMVar !(MVar a)
  | ToTVar !(Conc.TVar (Maybe a))   -- ^ 'Nothing' is: no news.
  | Doing (IO ())                   -- ^ Not for users: forks, or does something as short; must not block or throw.

-- | Tells a target.
put :: Semigroup a => Target a -> a -> IO ()
put target new = case target of
  ToMVar v -> do
    old <- tryTakeMVar v
    void $ tryPutMVar v (maybe new (<> new) old)
  ToTVar v -> Conc.atomically $ Conc.readTVar v >>= Conc.writeTVar v . Just . maybe new (<> new)
  Doing action -> action

nobody :: Target ()
nobody = Doing (pure ())
{-# NOINLINE nobody #-}

-- | So many cells as a bucket has: five words each, and the targets.
data Block = Block (MutableByteArray# RealWorld) (MutableArray# RealWorld (Target ()))

-- | The blocks, by number; those that are not there yet have no cells.
data Blocks = Blocks (MutableArray# RealWorld Block)

-- | The timeouts of a shard.
data Timers = Timers
  { tBell :: !BellPtr
  , tShard :: !Int
  , tForks :: !Word32
  , tStop :: !Counter
  , tBlocks :: !Blocks
  , tGrow :: !(MVar ())
  , tFresh :: !Counter
  , tParked :: !Counter   -- a list: index + 1, or 0, in 24 bits; its length in 10; a count of its changes
  , tBare :: !Counter     -- the same without the length
  }

-- | For a manager, a shard, a flag that says that the manager has ended, and 'forks'.
newTimers :: BellPtr -> Counter -> Word32 -> Int -> IO Timers
newTimers bell stop age shard = do
  none <- newBlock 0
  blocks <- IO $ \s -> case newArray# 15# none s of (# s1, a #) -> (# s1, Blocks a #)
  Timers bell shard age stop blocks <$> newMVar () <*> newCounter 0 <*> newCounter 0 <*> newCounter 0

newBlock :: Int -> IO Block
newBlock n@(I# n#) = IO $ \s -> case newByteArray# bytes s of
  (# s1, words_ #) -> case setByteArray# words_ 0# bytes 0# s1 of
    s2 -> case newArray# n# nobody s2 of
      (# s3, targets #) -> (# s3, Block words_ targets #)
  where !(I# bytes) = n * 40

-- | The most rings that are left behind by cancelled timeouts.
mostParked :: Int
mostParked = 1023

-- | A word of a cell.
type Word_ = Int

state_, deadline_, ring_, handle_, next_ :: Word_
state_ = 0
deadline_ = 1
ring_ = 2
handle_ = 3
next_ = 4

-- | A cell: its block, its number there, and where its words begin.
data Cell = Cell !Block !Int !Int

blockAt :: Blocks -> Int -> IO Block
blockAt (Blocks a) (I# k) = IO $ \s -> readArray# a k s
{-# INLINE blockAt #-}

setBlock :: Blocks -> Int -> Block -> IO ()
setBlock (Blocks a) (I# k) !x = IO $ \s -> case writeArray# a k x s of s1 -> (# s1, () #)

cellAt :: Timers -> Int -> IO Cell
cellAt t i = case bucketOf i of
  (k, at) -> do
    block <- blockAt (tBlocks t) k
    pure (Cell block at (at * 5))
{-# INLINE cellAt #-}

load :: Cell -> Word_ -> IO Int
load (Cell (Block a _) _ at) w = case at + w of
  I# i -> IO $ \s -> case atomicReadIntArray# a i s of (# s1, n #) -> (# s1, I# n #)
{-# INLINE load #-}

-- | Sees to it that what comes after it is read after it.
store :: Cell -> Word_ -> Int -> IO ()
store (Cell (Block a _) _ at) w (I# n) = case at + w of
  I# i -> IO $ \s -> case atomicWriteIntArray# a i n s of s1 -> (# s1, () #)
{-# INLINE store #-}

-- | For words that only their owner looks at.
storePlain :: Cell -> Word_ -> Int -> IO ()
storePlain (Cell (Block a _) _ at) w (I# n) = case at + w of
  I# i -> IO $ \s -> case writeIntArray# a i n s of s1 -> (# s1, () #)
{-# INLINE storePlain #-}

cas :: Cell -> Word_ -> Int -> Int -> IO Bool
cas (Cell (Block a _) _ at) w (I# old) (I# new) = case at + w of
  I# i -> IO $ \s -> case casIntArray# a i old new s of (# s1, was #) -> (# s1, isTrue# (was ==# old) #)
{-# INLINE cas #-}

-- | What was there before.
increment :: Cell -> Word_ -> IO Int
increment (Cell (Block a _) _ at) w = case at + w of
  I# i -> IO $ \s -> case fetchAddIntArray# a i 1# s of (# s1, n #) -> (# s1, I# n #)
{-# INLINE increment #-}

setTarget :: Cell -> Target () -> IO ()
setTarget (Cell (Block _ targets) (I# at) _) x = IO $ \s -> case writeArray# targets at x s of s1 -> (# s1, () #)
{-# INLINE setTarget #-}

getTarget :: Cell -> IO (Target ())
getTarget (Cell (Block _ targets) (I# at) _) = IO $ \s -> readArray# targets at s
{-# INLINE getTarget #-}

-- ---------------------------------------------------------------------------------------------------------------
-- Free cells

indexBits, lengthBits, oneMore :: Int
indexBits = 0xffffff
lengthBits = 0x3ff000000
oneMore = 0x1000000

-- | A free cell that nobody else has; -1: there are no more. Masked.
takeCell :: Timers -> IO Int
takeCell t = do
  top <- readCounter (tParked t)
  let i = (top .&. indexBits) - 1
  if i < 0 then takeBare t else do
    cell <- cellAt t i
    mine <- takeParked t top cell
    if mine then pure i else takeCell t

-- | The first of the parked cells, if the list is still the same.
takeParked :: Timers -> Int -> Cell -> IO Bool
takeParked t top cell = do
  next <- load cell next_
  casCounter (tParked t) top
    ((top .&. complement (indexBits .|. lengthBits)) + changeParked .|. (top .&. lengthBits) - oneMore .|. next)
{-# INLINE takeParked #-}

changeParked, changeBare :: Int
changeParked = 0x400000000
changeBare = 0x1000000

takeBare :: Timers -> IO Int
takeBare t = do
  top <- readCounter (tBare t)
  let i = (top .&. indexBits) - 1
  if i < 0 then takeFresh t else do
    cell <- cellAt t i
    next <- load cell next_
    mine <- casCounter (tBare t) top ((top .&. complement indexBits) + changeBare .|. next)
    if mine then pure i else takeBare t

takeFresh :: Timers -> IO Int
takeFresh t = mask_ $ withMVar (tGrow t) $ \() -> do
  i <- readCounter (tFresh t)
  -- The last index of all has no index + 1 in 24 bits.
  if i >= limit - 1 then pure (-1) else do
    let (k, at) = bucketOf i
    when (at == 0) $ newBlock (bucketSize k) >>= setBlock (tBlocks t) k
    writeCounter (tFresh t) (i + 1)
    pure i
{-# NOINLINE takeFresh #-}

-- | Gives a cell back that is free and without target. One whose number of generations is used up is not used again.
giveCell :: Timers -> Int -> Cell -> Int -> IO ()
giveCell t i cell key
  | key > lastKey = pure ()
  | otherwise = do
      ring <- load cell ring_
      if ring == 0 then giveBare t i cell else giveParked
  where
    giveParked = do
      top <- readCounter (tParked t)
      if top .&. lengthBits == lengthBits then giveBare t i cell else do
        storePlain cell next_ (top .&. indexBits)
        done <- casCounter (tParked t) top
                  ((top .&. complement (indexBits .|. lengthBits)) + changeParked .|. (top .&. lengthBits) + oneMore .|. (i + 1))
        unless done giveParked
{-# INLINE giveCell #-}

giveBare :: Timers -> Int -> Cell -> IO ()
giveBare t i cell = do
  top <- readCounter (tBare t)
  storePlain cell next_ (top .&. indexBits)
  done <- casCounter (tBare t) top ((top .&. complement indexBits) + changeBare .|. (i + 1))
  unless done $ giveBare t i cell

-- | Takes the ring away from a cell that the caller owns. Masked.
unring :: Timers -> Cell -> IO ()
unring t cell = do
  ring <- load cell ring_
  mine <- if ring > 0 then cas cell ring_ ring (-1) else pure False
  when mine $ do
    handle <- load cell handle_
    void $ bell_unregister (tBell t) (fromIntegral handle) 0
    store cell ring_ 0

-- | For tests: how many cells there are, and how many of them are free, while nobody uses the shard.
idleCells :: Timers -> IO (Int, Int)
idleCells t = do
  let count c i = if i == 0 then pure (c :: Int) else cellAt t (i - 1) >>= \cell -> load cell next_ >>= count (c + 1)
  parked <- readCounter (tParked t) >>= count 0 . (.&. indexBits)
  bare <- readCounter (tBare t) >>= count 0 . (.&. indexBits)
  fresh <- readCounter (tFresh t)
  pure (fresh, parked + bare)

-- ---------------------------------------------------------------------------------------------------------------
-- Timeouts

-- | Names a timeout by its index, and above that its generation; or is an error.
data Timer = Timer !Timers !Int

lastKey :: Int
lastKey = maxBound - 0x1000000

-- | Why there is none, or 0.
timerError :: Timer -> Int32
timerError (Timer _ key) = if key < 0 then fromIntegral key else 0
{-# INLINE timerError #-}

-- | Arms a timeout that tells the target. Errors: those of @bell_register_timeout@; the manager is closed, or of a parent process.
startTimer :: Timers -> Int64 -> Target () -> IO Timer
startTimer timers !deadline target = do
  stop <- readCounter (tStop t)
  age <- forks
  if stop /= 0 then pure (Timer t (fromIntegral e_CLOSED)) else if age /= tForks t then pure (Timer t (fromIntegral e_FORKED)) else do
    top <- readCounter (tParked t)
    let i = (top .&. indexBits) - 1
    if i < 0 then slow else do
      cell <- cellAt t i
      ring <- load cell ring_
      if ring <= 0 || ring > due then slow else do
        mine <- takeParked t top cell
        if not mine then slow else do
          free <- arm cell due target
          after <- load cell ring_
          if after > 0 then pure (Timer t (keyOf free i)) else do
            -- It was the moment of that ring. Once more, from the beginning; unless the dispatcher has seen it.
            undone <- disarm t i cell (keyOf free i)
            if undone then slow else pure (Timer t (keyOf free i))
  where
    -- Lazy: else GHC 9.0 takes it apart for a join point, and allocates it anew for the result.
    !t = lazy timers
    !due = fromIntegral (max 1 deadline)
    slow = startRinging t due target
{-# INLINE startTimer #-}

-- | The state that the free cell had.
arm :: Cell -> Int -> Target () -> IO Int
arm cell due target = do
  setTarget cell target
  storePlain cell deadline_ due
  -- From free to armed. Not 'store', which GHC 9.0 makes an mfence.
  increment cell state_
{-# INLINE arm #-}

keyOf :: Int -> Int -> Int
keyOf free i = free `unsafeShiftL` 22 .|. i
{-# INLINE keyOf #-}

-- | The slow half.
startRinging :: Timers -> Int -> Target () -> IO Timer
startRinging t due target = mask_ $ do
  i <- takeCell t
  if i < 0 then pure (Timer t (-12)) else do
    cell <- cellAt t i
    free <- arm cell due target
    let timer = Timer t (keyOf free i)
    e <- seeToRing t i cell
    if e >= 0 then pure timer else do
      unfired <- cancelTimer timer
      pure (if unfired then Timer t (fromIntegral e) else timer)
{-# NOINLINE startRinging #-}

-- | Lets the library ring at the deadline of an armed cell, if it does not anyway. Masked.
seeToRing :: Timers -> Int -> Cell -> IO Int32
seeToRing t i cell = do
  state <- load cell state_
  due <- load cell deadline_
  ring <- load cell ring_
  -- Who changes the deadline, or has made ring -1, looks again when it has.
  if state .&. 3 /= 1 || ring < 0 || ring > 0 && ring <= due then pure 0 else do
    mine <- cas cell ring_ ring (-1)
    if not mine then seeToRing t i cell else do
      handle <- load cell handle_
      moved <- if ring == 0 then pure fired else bell_update_timeout (tBell t) (fromIntegral handle) (fromIntegral due)
      h <- if moved == 0 then pure (fromIntegral handle)
           else registerTimeoutPoll (tBell t) (fromIntegral (tShard t)) (fromIntegral due) (ringOf (tShard t) i)
      if h < 0 then store cell ring_ 0 >> pure (fromIntegral h) else do
        store cell handle_ (fromIntegral h)
        -- It may have rung already, for whoever had the cell then.
        still <- cas cell ring_ (-1) due
        unless still $ store cell ring_ 0
        seeToRing t i cell

-- | True: it has not fired and will not. False: it has, or is just firing, or was cancelled.
cancelTimer :: Timer -> IO Bool
cancelTimer timer@(Timer t key)
  | key < 0 = pure False
  | otherwise = do
      let i = key .&. indexBits
      cell <- cellAt t i
      top <- readCounter (tParked t)
      if top .&. lengthBits == lengthBits then cancelRinging timer else do
        mine <- disarm t i cell key
        if mine then pure True else cancelContended timer

-- | Ends a timeout: whether the caller did.
disarm :: Timers -> Int -> Cell -> Int -> IO Bool
disarm t i cell key = do
  mine <- cas cell state_ (armedOf key) (armedOf key + 3)
  when mine $ setTarget cell nobody >> giveCell t i cell key
  pure mine
{-# INLINE disarm #-}

armedOf :: Int -> Int
armedOf key = (key `unsafeShiftR` 24) `unsafeShiftL` 2 .|. 1
{-# INLINE armedOf #-}

-- | There are rings enough that nobody waits for: takes this one away.
cancelRinging :: Timer -> IO Bool
cancelRinging timer@(Timer t key) = mask_ $ do
  let i = key .&. indexBits
  cell <- cellAt t i
  mine <- cas cell state_ (armedOf key) (armedOf key + 3)
  if not mine then cancelContended timer else do
    setTarget cell nobody
    unring t cell
    giveCell t i cell key
    pure True
{-# NOINLINE cancelRinging #-}

-- | It has ended, or is just being changed by another thread, which cannot be stopped for long.
cancelContended :: Timer -> IO Bool
cancelContended timer@(Timer t key) = do
  cell <- cellAt t (key .&. indexBits)
  state <- load cell state_
  if state == armedOf key || state == armedOf key + 1 then yield >> cancelTimer timer else pure False
{-# NOINLINE cancelContended #-}

-- | Gives it another deadline. 'False': it has fired or was cancelled. An error, below 0, leaves it cancelled.
moveTimer :: Timer -> Int64 -> IO (Either Int32 Bool)
moveTimer timer@(Timer t key) deadline
  | key < 0 = pure (Right False)
  | otherwise = mask_ $ do
      let i = key .&. indexBits
          armed = armedOf key
      cell <- cellAt t i
      mine <- cas cell state_ armed (armed + 1)
      if mine then do
        store cell deadline_ (fromIntegral (max 1 deadline))
        store cell state_ armed
        e <- seeToRing t i cell
        if e >= 0 then pure (Right True) else cancelTimer timer >>= \unfired -> pure (if unfired then Left e else Right True)
      else do
        state <- load cell state_
        if state == armed || state == armed + 1 then yield >> moveTimer timer deadline else pure (Right False)

-- | The user data of a ring. No other registration has this number of a table.
ringOf :: Int -> Int -> Word64
ringOf shard i = fromIntegral shard `unsafeShiftL` 32 .|. 0xff000000 .|. fromIntegral i

-- | Whether user data is that of a ring.
isRing :: Word64 -> Bool
isRing user = user .&. 0xff000000 == 0xff000000
{-# INLINE isRing #-}

-- | What the dispatcher does when the library rings: the timers of the shard, the user data, and a time after that of the ring.
ringTimer :: Timers -> Word64 -> Int64 -> IO ()
ringTimer t user now64 = do
  let i = fromIntegral (user .&. 0xffffff)
      now = fromIntegral now64
  cell <- cellAt t i
  let
    heard = do
      ring <- load cell ring_
      -- Above now: it is another that is set already.
      done <- if ring > 0 && ring <= now then cas cell ring_ ring 0 else if ring == -1 then cas cell ring_ (-1) (-2) else pure True
      unless done heard
  heard
  let
    look = do
      state <- load cell state_
      when (state .&. 3 == 1) $ do
        due <- load cell deadline_
        if due > now then again else do
          mine <- cas cell state_ state (state + 3)
          if not mine then look else do
            target <- getTarget cell
            setTarget cell nobody
            giveCell t i cell (state `unsafeShiftL` 22)
            case target of
              ToMVar v -> void (tryPutMVar v ())
              _ -> put target ()
    again = do
      e <- seeToRing t i cell
      -- No memory: GHC's own timer tries again, a thousand times a second. A manager that has ended rings no more.
      when (e < 0 && e /= e_CLOSED && e /= e_FORKED && e /= e_STALE) $ void $ forkIO $ Conc.threadDelay 1000 >> mask_ again
  look
