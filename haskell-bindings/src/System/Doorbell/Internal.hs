{-# LANGUAGE BangPatterns #-}
{-# LANGUAGE MagicHash #-}
{-# LANGUAGE UnboxedTuples #-}
-- | What the public modules share: managers, dispatchers, and who is told what. May change in any version.
--
-- A manager has a shard for each capability and, for each shard that was ever used, a dispatcher: a Haskell thread
-- pinned to the capability that calls @bell_poll@. News names a /cell/ in its user data:
--
-- > 63      32 | 31    24 | 23    0
-- > generation | table    | index
--
-- A one-shot ends either by its news or by a @bell_unregister@ that answers @CANCELLED@, never both. Whoever ends it
-- frees the cell, so no news can meet a cell of somebody else. Registrations that deliver more than once may have news
-- in a dispatcher's hands while they are unregistered: their cells carry a generation.
--
-- An fd that is waited for gets one ONESHOT registration for each direction, kept and armed again by each wait:
--
-- > waiter:      add itself to the list; arm; sleep
-- > dispatcher:  on news, take the whole list; wake all
--
-- Arming looks at the fd, so whoever is in the list before it arms is woken by the news of that arming or of one
-- before. A waiter that is killed leaves the list; what it armed rings for an empty list, or for others.
module System.Doorbell.Internal
  ( -- * Managers
    Manager (..), newManager, closeManager, defaultManager, withCurrent, currentShard, currentCapability
    -- * Waiting for an fd once
  , Direction (..), Waiter (..), waitFor, startWait, cancelWait, closeFdThrough
    -- * Cells
  , Cell (..), Place (..), newCell, freeCell, userDataOf, freshGeneration
    -- * Timeouts
  , currentTimers
    -- * Inside a manager
  , Table, Entry, Side
    -- * Errors
  , throwBell, throwForked, badFd
  ) where

import Control.Concurrent (forkOn, getNumCapabilities, rtsSupportsBoundThreads, yield)
import Control.Concurrent.MVar
import Control.Exception hiding (handle)
import Control.Monad
import Data.Array (Array, listArray, (!), elems)
import Data.Bits
import Data.Int (Int32, Int64)
import Data.IORef
import Data.Word (Word32, Word64)
import Foreign.C.Error (Errno (..), eBADF, errnoToIOError)
import Foreign.C.String (peekCString)
import Foreign.C.Types (CInt (..))
import Foreign.Marshal.Alloc (alloca, free, mallocBytes)
import Foreign.Ptr (Ptr, nullPtr, plusPtr)
import Foreign.Storable (peek)
import qualified GHC.Conc as Conc
import GHC.Arr (unsafeAt)
import GHC.Exts (Int (..), myThreadId#, threadStatus#)
import GHC.IO (IO (..))
import GHC.IOArray (IOArray, newIOArray, unsafeReadIOArray, unsafeWriteIOArray)
import System.IO.Error (illegalOperationErrorType, ioeSetErrorString, mkIOError, userErrorType)
import System.IO.Unsafe (unsafePerformIO)
import System.Mem (performMajorGC)
import System.Posix.Types (Fd (..))
import System.Doorbell.Internal.Buckets
import System.Doorbell.Internal.Counter
import System.Doorbell.Internal.Raw
import System.Doorbell.Internal.Timers

-- | What to do with the news of a registration.
data Cell
  = Empty
  | -- | One-shot: gets the ready bits and the status.
    Once (Word32 -> Int32 -> IO ())
  | -- | As long as it is registered: the same, if the generation is right.
    Many !Word64 (Word32 -> Int32 -> IO ())
  | -- | As long as it is watched: the generation of the registration of the moment, an MVar for each direction, set to 1 when the fd is closed,
    -- from 0 to 2 when the peer has ended. No closure, so that news allocates nothing.
    Latches !Counter !(MVar ()) !(MVar ()) !Counter
  | -- | A direction of an fd that is waited for.
    Waited !Entry !Direction

-- | Cells, and which of them are free: a stack that is linked through numbers in memory, so that taking and giving back allocate nothing. Its head is an
-- index + 1, or 0, in 24 bits, and above them a count of its changes: who has seen another count has seen another stack.
data Table = Table
  { tCells :: !(Buckets Cell)
  , tFree :: !Counter
  , tNext :: !(Buckets Counter)
  , tFresh :: !Counter
  , tGeneration :: !Counter
  }

-- | Where a cell is: table, index.
data Place = Place !Int !Int

-- | Who is to be told that an fd is ready: 0, or a negative error.
data Waiter
  = WaitMVar !(MVar Int32)
  | -- | Nothing: not yet.
    WaitTVar !(Conc.TVar (Maybe Int32))

instance Eq Waiter where
  WaitMVar a == WaitMVar b = a == b
  WaitTVar a == WaitTVar b = a == b
  _ == _ = False

-- | What is waited for.
data Direction = Reading | Writing
  deriving (Eq, Show)

-- | One direction of an fd. The handle and the generation are changed under the lock of its entry.
data Side = Side
  { sWaiters :: !(IORef [Waiter])
  , sHandle :: !Counter
  , sGeneration :: !Counter
  , sPlace :: !Place
  }

-- | An fd number that was waited for. Kept until the manager ends.
data Entry
  = NoEntry
  | Entry
      { eFd :: !Int32
      , eLock :: !(MVar ())
      , eShard :: !Counter     -- ^ where the registrations are
      , eReading :: !Side
      , eWriting :: !Side
      }

-- | An event manager: a @bell_t@ with its dispatchers.
data Manager = Manager
  { mBell :: !BellPtr
  , mShards :: !Int
  , mTables :: !(Array Int Table)
  , mTimers :: !(IOArray Int Timers)
  , mEntries :: !(Buckets Entry)
  , mStarted :: !(Array Int Counter)
  , mDispatchers :: !(MVar [MVar ()])   -- ^ filled when they end
  , mStop :: !Counter
  , mForks :: !Word32                   -- ^ 'forks' when it was made
  }

-- ---------------------------------------------------------------------------------------------------------------
-- Errors

-- | What GHC throws when an fd was closed behind a waiter.
badFd :: String -> IOException
badFd location = errnoToIOError location eBADF Nothing Nothing

-- | What the managers and watched fds of the parent give in a forked child.
forkedError :: String -> IOException
forkedError location = ioeSetErrorString (mkIOError illegalOperationErrorType location Nothing Nothing)
  "was made before forkProcess, and works in the parent only: make another one in the child"

-- | Throws that.
throwForked :: String -> IO a
throwForked = throwIO . forkedError

bellError :: String -> Int32 -> IO IOException
bellError location e
  | e == e_CLOSED = pure (badFd location)
  | e == e_FORKED = pure (forkedError location)
  | e > -4096 = pure (errnoToIOError location (Errno (fromIntegral (negate e))) Nothing Nothing)
  | otherwise = do
      text <- bell_strerror e >>= peekCString
      pure (ioeSetErrorString (mkIOError userErrorType location Nothing Nothing) text)

-- | Throws a negative result as an 'IOException' with the type that GHC gives that errno.
throwBell :: String -> Int32 -> IO a
throwBell location e = bellError location e >>= throwIO

-- ---------------------------------------------------------------------------------------------------------------
-- Cells

newTable :: IO Table
newTable = do
  none <- newCounter 0
  Table <$> newBuckets Empty <*> newCounter 0 <*> newBuckets none <*> newCounter 0 <*> newCounter 1

indexBits, oneChange :: Int
indexBits = 0xffffff
oneChange = 0x1000000

-- | Puts something in a free cell.
newCell :: Manager -> Int -> Cell -> IO Place
newCell m number cell = do
  let t = mTables m ! number
  i <- popFree t
  writeBuckets (tCells t) i cell
  pure (Place number i)

popFree :: Table -> IO Int
popFree t = do
  top <- readCounter (tFree t)
  let i = (top .&. indexBits) - 1
  if i < 0 then freshIndex t else do
    next <- readBuckets (tNext t) i >>= readCounter
    mine <- casCounter (tFree t) top ((top .&. complement indexBits) + oneChange .|. next)
    if mine then pure i else popFree t

freshIndex :: Table -> IO Int
freshIndex t = do
  fresh <- addCounter (tFresh t) 1
  -- The last index of all has no index + 1 in 24 bits.
  when (fresh >= limit - 1) $ addCounter (tFresh t) (-1) >> throwBell "newCell" (-12)
  ensureBucket (tCells t) fresh
  ensureBucket (tNext t) fresh
  newCounter 0 >>= writeBuckets (tNext t) fresh
  pure fresh

-- | Gives it back. Exactly once.
freeCell :: Manager -> Place -> IO ()
freeCell m (Place number i) = do
  let t = mTables m ! number
  writeBuckets (tCells t) i Empty
  next <- readBuckets (tNext t) i
  let push = do
        top <- readCounter (tFree t)
        writeCounter next (top .&. indexBits)
        done <- casCounter (tFree t) top ((top .&. complement indexBits) + oneChange .|. (i + 1))
        unless done push
  push

-- | For a cell that 'Many' uses: not 0, which one-shots have, nor that of another registration with the same index.
freshGeneration :: Manager -> Int -> IO Word64
freshGeneration m number = do
  n <- addCounter (tGeneration (mTables m ! number)) 1
  pure (fromIntegral n `rem` 0xffffffff + 1)
{-# INLINE freshGeneration #-}

-- | What to register with.
userDataOf :: Place -> Word64 -> Word64
userDataOf (Place number i) generation =
  generation `unsafeShiftL` 32 .|. fromIntegral number `unsafeShiftL` 24 .|. fromIntegral i

-- ---------------------------------------------------------------------------------------------------------------
-- Managers

-- | A manager of its own. Its dispatchers start when they are needed. Ends by 'closeManager' only.
newManager :: IO Manager
newManager = mask_ $ do
  checkLayout
  prepare
  age <- forks
  capabilities <- getNumCapabilities
  processors <- Conc.getNumProcessors
  -- Shards cost two fds each, and cannot be added later; setNumCapabilities seldom goes beyond the processors.
  let n = if rtsSupportsBoundThreads then min 254 (max capabilities (min 64 processors)) else 1
      each make = listArray (0, n - 1) <$> replicateM n make
  made <- createShards (fromIntegral n)
  bell <- either (throwBell "newManager") pure made
  stop <- newCounter 0
  none <- newTimers bell stop age 0
  timers <- newIOArray (0, n - 1) none
  forM_ [1 .. n - 1] $ \i -> newTimers bell stop age i >>= unsafeWriteIOArray timers i
  Manager bell n <$> each newTable <*> pure timers <*> newBuckets NoEntry <*> each (newCounter 0) <*> newMVar [] <*> pure stop
    <*> pure age

theDefault :: IORef Manager
theDefault = unsafePerformIO (newManager >>= newIORef)
{-# NOINLINE theDefault #-}

-- | The manager of the process. Made when it is first asked for.
defaultManager :: IO Manager
defaultManager = readIORef theDefault

-- | In a forked child the manager of the parent is of no use: makes a new one. Its waiters do not exist here.
afterFork :: Manager -> IO ()
afterFork old = mask_ $ do
  new <- newManager
  mine <- atomicModifyIORef' theDefault $ \now -> if mBell now == mBell old then (new, True) else (now, False)
  void $ bell_destroy (mBell (if mine then old else new)) force

-- | The number is being closed. The file may be gone already and the number that of a new one, which is known when that close has ended:
-- waits a little, to try again then. Can be interrupted.
untilClosed :: IO ()
untilClosed = Conc.threadDelay 50
{-# NOINLINE untilClosed #-}

-- | Runs an action on the default manager; once more if the process was forked. The action gives a result below 0 for
-- an error.
withCurrent :: (Integral e) => (Manager -> IO (e, a)) -> IO (e, a)
withCurrent action = do
  m <- defaultManager
  result@(e, _) <- action m
  if e == fromIntegral e_FORKED then afterFork m >> withCurrent action
  else if e == fromIntegral e_CLOSED then untilClosed >> withCurrent action
  else pure result
{-# INLINE withCurrent #-}

-- | The number of the capability that runs the caller.
currentCapability :: IO Int
currentCapability = IO $ \s -> case myThreadId# s of
  (# s1, t #) -> case threadStatus# t s1 of (# s2, _, c, _ #) -> (# s2, I# c #)
{-# INLINE currentCapability #-}

-- | What getNumCapabilities reads.
foreign import ccall "&enabled_capabilities" enabledCapabilities :: Ptr CInt

-- | The shard of the caller's capability, with a dispatcher.
currentShard :: Manager -> IO Int
currentShard m = do
  enabled <- peek enabledCapabilities
  -- Asking for the thread's costs as much as registering a timeout does.
  capability <- if enabled == 1 then pure 0 else currentCapability
  let shard = if capability < mShards m then capability else capability `rem` mShards m
  started <- readCounter (unsafeAt (mStarted m) shard)
  when (started == 0) $ startDispatcher m shard
  pure shard
{-# INLINE currentShard #-}

-- | The timeouts of that.
currentTimers :: Manager -> IO Timers
currentTimers m = currentShard m >>= unsafeReadIOArray (mTimers m)
{-# INLINE currentTimers #-}

startDispatcher :: Manager -> Int -> IO ()
startDispatcher m shard = mask_ $ do
  before <- swapCounter (mStarted m ! shard) 1
  stop <- readCounter (mStop m)
  when (before == 0 && stop == 0) $ do
    done <- newEmptyMVar
    let run = (if rtsSupportsBoundThreads then dispatch else dispatchNested) m shard
    -- First in the list, so that closeManager waits for it.
    modifyMVarMasked_ (mDispatchers m) (pure . (done :))
    thread <- forkOn shard (run `finally` putMVar done ())
    Conc.labelThread thread ("doorbell dispatcher " ++ show shard)

batch :: Int
batch = 256

-- | Drives a shard until the manager ends. Lets others run and polls; when there is nothing, lets others run once more, and then sleeps in
-- the kernel. Once more, because there may be threads that let others run in their turn (Warp's do after each response), and to give the capability
-- away while somebody is runnable costs two switches of OS threads.
--
-- When letting others run took long twice in a row, and longer than those who were told may have needed, there are CPU-bound threads, and being
-- in the run queue costs a time slice more than being in the kernel: then it sleeps at once for a while. Once may be the work of another process.
-- News that comes within a moment of falling asleep ends that while: each such sleep costs switches of OS threads.
dispatch :: Manager -> Int -> IO ()
dispatch m shard = mask_ $ bracket (mallocBytes (batch * eventSize)) free $ \events -> do
  let
    now = bell_now 0
    look = bell_poll_now (mBell m) (fromIntegral shard) events (fromIntegral batch) 0
    -- A turn may swallow the wake of closeManager, so the flag is read after each.
    continue n next = do
      stop <- readCounter (mStop m)
      if stop /= 0 || n < 0 && n /= eINTR_ then pure () else next
    -- The mood: above 0, sleeps that are to come at once; -1, the last turn took long. How many were told in the last turn; -1, it is known that
    -- there was nothing. And when that was.
    turn :: Int -> Int -> Int64 -> IO ()
    turn !mood !told !before
      | mood > 0 = do
          n <- look
          continue n $ if n > 0 then told_ n >> turn mood 0 before else sleep (mood - 1)
      | otherwise = do
          yield
          after <- now
          let !mood' | after - before < 2000000 + 50000 * fromIntegral (max 0 told) = 0
                     | mood < 0 = 64
                     | otherwise = -1
          -- There was nothing, and whoever was runnable then has run: what has come meanwhile ends the sleep at once.
          if told < 0 then sleep mood' else do
            n <- look
            continue n $ if n > 0 then told_ n >> turn mood' (fromIntegral n) after
                         else if mood' > 0 then sleep mood' else turn mood' (-1) after
    told_ n = deliver m events (fromIntegral n)
    sleep :: Int -> IO ()
    sleep !mood = do
      before <- now
      n <- bell_poll_wait (mBell m) (fromIntegral shard) events (fromIntegral batch) never
      after <- now
      continue n $ do
        when (n > 0) $ told_ n
        turn (if after - before < 1000000 then min 0 mood else mood) (fromIntegral (max 0 n)) after
  now >>= turn 0 0

-- | The runtime that is not threaded must not block in a call: when there is nothing, its own manager watches the shard's fd. As long as there
-- is something, this saves it a @select@ for each turn of its scheduler.
--
-- That runtime looks for threads that wait for what can never come only while nobody waits for an fd, and the dispatcher does. So, when
-- nothing has come for as long as the threaded runtime takes to be idle (0.3 s), it collects once. A timeout of the shard tells when: while
-- a thread were in a delay of the runtime's own, each turn of the scheduler would cost a @select@ again.
dispatchNested :: Manager -> Int -> IO ()
dispatchNested m shard = mask_ $ bracket (mallocBytes (batch * eventSize)) free $ \events -> do
  fd <- bell_pollable_fd (mBell m) (fromIntegral shard)
  -- That of a parent's manager, which in a forked child is asked once before it is replaced, has nothing to do.
  when (fd < 0 && fd /= e_FORKED) $ throwBell "bell_pollable_fd" fd
  timers <- unsafeReadIOArray (mTimers m) shard
  rung <- newIORef False
  let go :: Bool -> Int -> IO ()
      -- Whether the timeout is set, and how much news has come since.
      go !set !since = do
        -- First: this runtime puts threads that an fd has woken before all others.
        yield
        n <- fromIntegral <$> bell_poll_now (mBell m) (fromIntegral shard) events (fromIntegral batch) 0
        stop <- readCounter (mStop m)
        if stop /= 0 || n < 0 && n /= fromIntegral eINTR_ then pure ()
        else if n <= 0 then Conc.threadWaitRead (Fd (fromIntegral fd)) >> go set since
        else do
          deliver m events n
          over <- readIORef rung
          if set && not over then go True (since + n)
          else do
            writeIORef rung False
            -- The ring itself is news.
            if over && since + n == 1 then performMajorGC >> go False 0 else setTimeout >>= \done -> go done 0
      setTimeout = do
        now <- bell_now 0
        timer <- startTimer timers (now + 300000000) (Doing (writeIORef rung True))
        -- Without memory: at the next news.
        pure (timerError timer == 0)
  unless (fd < 0) $ setTimeout >>= \done -> go done 0

deliver :: Manager -> Ptr () -> Int -> IO ()
deliver m events n = go 0 0
  where
    -- The clock is read once, if there are timeouts: all that is here has happened before.
    go :: Int -> Int64 -> IO ()
    go !i !_ | i == n = pure ()
    go i now = do
      let p = events `plusPtr` (i * eventSize)
      user <- peekUserData p
      if isRing user then do
        now' <- if now == 0 then bell_now 0 else pure now
        timers <- unsafeReadIOArray (mTimers m) (fromIntegral (user `unsafeShiftR` 32))
        ringTimer timers user now'
        go (i + 1) now'
      else tell p user >> go (i + 1) now
    tell p user = do
      ready <- peekReady p
      status <- peekStatus p
      let index = fromIntegral (user .&. 0xffffff) :: Int
          number = fromIntegral (user `unsafeShiftR` 24 .&. 0xff) :: Int
          generation = user `unsafeShiftR` 32
          place = Place number index
      cell <- readBuckets (tCells (mTables m ! number)) index
      case cell of
        Empty -> pure ()
        Latches current reading writing ended -> do
          g <- readCounter current
          when (fromIntegral g == generation) $ ringLatches ready reading writing ended
        Many g f -> when (g == generation) $ f ready status
        Waited entry direction -> do
          let side = sideOf direction entry
          g <- readCounter (sGeneration side)
          when (fromIntegral g == generation) $
            if ready .&. closed_ /= 0 then revive m entry direction g
            else wakeAll side (if ready .&. err /= 0 && status < 0 then status else 0)
        -- Old news of a 'Many' that had this place before.
        _ | generation /= 0 -> pure ()
        Once f -> freeCell m place >> f ready status

-- | News of a watched fd.
ringLatches :: Word32 -> MVar () -> MVar () -> Counter -> IO ()
ringLatches ready reading writing ended = do
  when (ready .&. (rdhup .|. both) /= 0) $ if ready .&. closed_ /= 0 then writeCounter ended 1 else void (casCounter ended 0 2)
  when (ready .&. (read_ .|. rdhup .|. both) /= 0) $ void (tryPutMVar reading ())
  when (ready .&. (write_ .|. both) /= 0) $ void (tryPutMVar writing ())
  where both = hup .|. err .|. closed_
{-# INLINE ringLatches #-}

wakeAll :: Side -> Int32 -> IO ()
wakeAll side status = takeAll side >>= mapM_ (wake status)

-- | In order of arrival.
takeAll :: Side -> IO [Waiter]
takeAll side = reverse <$> atomicModifyIORef' (sWaiters side) (\l -> ([], l))

wake :: Int32 -> Waiter -> IO ()
wake status (WaitMVar v) = void (tryPutMVar v status)
wake status (WaitTVar v) = Conc.atomically (Conc.writeTVar v (Just status))

-- | Stops the dispatchers, tells whoever still waits that the fd is closed, and frees the manager. Waits for the
-- dispatchers. The default manager must not be closed.
closeManager :: Manager -> IO ()
closeManager m = mask_ $ do
  before <- swapCounter (mStop m) 1
  when (before == 0) $ do
    forM_ [0 .. mShards m - 1] $ \s -> bell_wake (mBell m) (fromIntegral s)
    running <- takeMVar (mDispatchers m)
    age <- forks
    -- Those of the parent do not run in a forked child.
    when (age == mForks m) $ uninterruptibleMask_ $ mapM_ readMVar running
    putMVar (mDispatchers m) []
    void $ bell_destroy (mBell m) force
    forM_ (elems (mTables m)) $ \t -> do
      used <- readCounter (tFresh t)
      forM_ [0 .. used - 1] $ \i -> do
        cell <- readBuckets (tCells t) i
        case cell of
          Once f -> f closed_ 0
          Many _ f -> f closed_ 0
          Latches _ reading writing ended -> ringLatches closed_ reading writing ended
          Waited entry direction -> wakeAll (sideOf direction entry) eBADF_
          -- Timeouts of a manager that ended never come.
          _ -> pure ()

-- ---------------------------------------------------------------------------------------------------------------
-- Waiting for an fd once

entryOf :: Manager -> Int32 -> IO Entry
entryOf m fd = do
  let number = fromIntegral fd
  found <- readBuckets (mEntries m) number
  case found of
    Entry {} -> pure found
    NoEntry -> do
      ensureBucket (mEntries m) number
      modifyMVar (mDispatchers m) $ \l -> do
        again <- readBuckets (mEntries m) number
        entry <- case again of
          Entry {} -> pure again
          NoEntry -> do
            new <- Entry fd <$> newMVar () <*> newCounter (-1) <*> side <*> side
            forM_ [Reading, Writing] $ \direction -> case sPlace (sideOf direction new) of
              Place table i -> writeBuckets (tCells (mTables m ! table)) i (Waited new direction)
            writeBuckets (mEntries m) number new
            pure new
        pure (l, entry)
  where
    side = Side <$> newIORef [] <*> newCounter 0 <*> newCounter 0 <*> newCell m 0 Empty

sideOf :: Direction -> Entry -> Side
sideOf Reading = eReading
sideOf Writing = eWriting
{-# INLINE sideOf #-}

-- | Waits with an MVar on the default manager, and throws what GHC's function of that name throws.
waitFor :: String -> Direction -> Fd -> IO ()
waitFor location direction fd = mask_ $ do
  v <- newEmptyMVar
  let waiter = WaitMVar v
  (e, side) <- withCurrent $ \m -> startWait m direction fd waiter
  when (e < 0) $ throwBell location e
  status <- takeMVar v `onException` cancelWait side waiter
  when (status < 0) $ throwBell location status

-- | Puts a waiter in the list of an fd and arms. Masked. An error: the waiter is in no list.
startWait :: Manager -> Direction -> Fd -> Waiter -> IO (Int32, Maybe Side)
startWait m direction (Fd number) waiter
  | number < 0 || number >= fromIntegral limit = pure (eBADF_, Nothing)
  | otherwise = do
      entry <- entryOf m (fromIntegral number)
      shard <- currentShard m
      let side = sideOf direction entry
      atomicModifyIORef' (sWaiters side) (\l -> (waiter : l, ()))
      at <- readCounter (eShard entry)
      away <- if at == shard then pure False else alone entry
      handle <- readCounter (sHandle side)
      done <- if handle == 0 || away then pure eBADF_ else bell_rearm (mBell m) (fromIntegral handle) nullPtr never
      if done >= 0 then pure (0, Just side) else do
        e <- register m entry direction shard handle away `onException` cancelWait (Just side) waiter
        if e < 0 then cancelWait (Just side) waiter >> pure (e, Nothing) else pure (0, Just side)

-- | Nobody but the caller waits, so the registrations should come along to its capability: being woken from another one costs more than
-- registering anew.
alone :: Entry -> IO Bool
alone entry = do
  readers <- readIORef (sWaiters (eReading entry))
  writers <- readIORef (sWaiters (eWriting entry))
  pure (length (take 2 readers) + length (take 2 writers) < 2)

-- | The slow half of 'startWait': the fd has no registration for this direction yet, or one of an fd that was closed
-- behind our back, or it moves to another shard. The @seen@ handle is the one that did not do.
register :: Manager -> Entry -> Direction -> Int -> Int -> Bool -> IO Int32
register m entry direction shard seen away = withMVar (eLock entry) $ \() -> do
  handle <- readCounter (sHandle mine)
  -- Somebody may have done it meanwhile.
  again <- if handle /= 0 && handle /= seen then rearm handle else pure eBADF_
  if again >= 0 then pure again
  else do
    first <- if handle == 0 && not away then enter m entry direction shard else pure eBADF_
    if first >= 0 || first == e_FORKED then pure first else do
      mapM_ (leave m) [mine, other]
      result <- enter m entry direction shard
      waiting <- readIORef (sWaiters other)
      unless (null waiting) $ do
        e <- enter m entry opposite shard
        when (e < 0) $ wakeAll other e
      when (result >= 0) $ writeCounter (eShard entry) shard
      pure result
  where
    mine = sideOf direction entry
    other = sideOf opposite entry
    opposite = if direction == Reading then Writing else Reading
    rearm handle = bell_rearm (mBell m) (fromIntegral handle) nullPtr never

-- | Registers a direction, armed. Under the lock of the entry.
enter :: Manager -> Entry -> Direction -> Int -> IO Int32
enter m entry direction shard = do
  let side = sideOf direction entry
  old <- readCounter (sGeneration side)
  let generation = (old + 1) .&. 0xffffffff
  -- First: the news may be there before the handle is.
  writeCounter (sGeneration side) generation
  at <- readCounter (eShard entry)
  h <- registerFdPoll (mBell m) (eFd entry) (if direction == Reading then read_ else write_) oneshot 0
         (fromIntegral shard) (userDataOf (sPlace side) (fromIntegral generation))
  if h < 0 then pure (fromIntegral h) else do
    writeCounter (sHandle side) (fromIntegral h)
    when (at < 0) $ writeCounter (eShard entry) shard
    pure 0

-- | Ends the registration of a direction. Under the lock of the entry.
leave :: Manager -> Side -> IO ()
leave m side = do
  handle <- swapCounter (sHandle side) 0
  when (handle /= 0) $ void $ bell_unregister (mBell m) (fromIntegral handle) 0

-- | The file of a registration is gone. Those who wait may mean a new file with the same number: registers for them
-- again. If the number is not open, they are told by the error of that.
revive :: Manager -> Entry -> Direction -> Int -> IO ()
revive m entry direction generation = withMVar (eLock entry) $ \() -> do
  let side = sideOf direction entry
  now <- readCounter (sGeneration side)
  when (now == generation) $ do
    leave m side
    waiting <- readIORef (sWaiters side)
    unless (null waiting) $ do
      shard <- readCounter (eShard entry)
      e <- enter m entry direction (max 0 shard)
      when (e < 0) $ wakeAll side (if e == e_CLOSED then eBADF_ else e)

-- | Takes a waiter out of its list. It may have been told meanwhile.
cancelWait :: Maybe Side -> Waiter -> IO ()
cancelWait Nothing _ = pure ()
cancelWait (Just side) waiter = atomicModifyIORef' (sWaiters side) (\l -> (filter (/= waiter) l, ()))

-- | Runs an action that closes an fd between @bell_close_begin@ and @bell_close_end@, and tells its waiters.
closeFdThrough :: Manager -> IO () -> Fd -> IO ()
closeFdThrough m close (Fd number) = mask_ $ alloca $ \out -> do
  -- Not a safe call: where many close at once, each would hand the capability to another OS thread.
  begun <- closeBeginNow (mBell m) (fromIntegral number) out
  if begun == e_FORKED then afterFork m >> defaultManager >>= \new -> closeFdThrough new close (Fd number)
  else if begun == e_CLOSED then untilClosed >> closeFdThrough m close (Fd number)
  else if begun < 0 then close   -- a number that cannot be an fd: let the action say so
  else do
    ticket <- peek out
    -- Whoever arms from here on is refused; whoever armed before is in the lists. Taken before the close, because
    -- after it the number may be that of a new file, with waiters of its own.
    entry <- readBuckets (mEntries m) (fromIntegral number)
    waiters <- case entry of
      NoEntry -> pure []
      Entry {} -> (++) <$> takeAll (eReading entry) <*> takeAll (eWriting entry)
    (close `finally` bell_close_end (mBell m) (fromIntegral number) ticket) `finally` mapM_ (wake eBADF_) waiters
