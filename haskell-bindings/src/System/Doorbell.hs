{-# LANGUAGE BangPatterns #-}
-- | Managers, registrations and timeouts, as "GHC.Event" has them, with a 'Target' in place of the callback: news is put
-- in an @MVar@ or a @TVar@. Nothing of yours runs on a dispatcher, so nothing of yours can block it.
--
-- > watch :: Fd -> IO Event
-- > watch fd = do
-- >   manager <- defaultManager
-- >   news <- newEmptyMVar
-- >   _ <- registerFd manager (ToMVar news) fd evtRead OneShot
-- >   takeMVar news
--
-- All functions may be called from any thread. None blocks, but 'closeManager'. Registrations go to the shard of the
-- caller's capability. Errors are IOExceptions with the errno that the kernel gave.
module System.Doorbell
  ( -- * Managers
    Manager, defaultManager, newManager, closeManager, withManager
    -- * Targets
  , Target (..)
    -- * File descriptors
  , Event, evtRead, evtWrite, evtClosed, evtHangup, evtError, includes
  , Lifetime (..), FdKey, keyFd, registerFd, unregisterFd
    -- * Timeouts
  , TimeoutKey, registerTimeout, updateTimeout, unregisterTimeout
    -- * What became of it
  , Outcome (..)
  ) where

import Control.Exception (bracket, mask_)
import Control.Monad (when)
import Data.Bits
import Data.Int (Int32)
import Data.List (intercalate)
import Data.Word (Word32)
import System.Posix.Types (Fd (..))
import System.Doorbell.Internal
import System.Doorbell.Internal.Timers
import System.Doorbell.Internal.Raw hiding (Handle)
import qualified System.Doorbell.Internal.Raw as Raw

-- | Runs an action with a manager of its own, and closes that afterwards.
withManager :: (Manager -> IO a) -> IO a
withManager = bracket newManager closeManager

-- | A set of things that are waited for, or have happened.
newtype Event = Event Word32
  deriving Eq

instance Semigroup Event where
  Event a <> Event b = Event (a .|. b)

instance Monoid Event where
  mempty = Event 0

instance Show Event where
  show e = '[' : intercalate "," [name | (name, one) <- names, e `includes` one] ++ "]"
    where names = [("evtRead", evtRead), ("evtWrite", evtWrite), ("evtClosed", evtClosed)
                  , ("evtHangup", evtHangup), ("evtError", evtError)]

-- | Reading would not block.
evtRead :: Event
evtRead = Event read_

-- | Writing would not block.
evtWrite :: Event
evtWrite = Event write_

-- | Told, never asked for: the fd was closed by 'System.Doorbell.Conc.closeFdWith', or behind our back, or the manager was.
-- Nothing more will come.
evtClosed :: Event
evtClosed = Event closed_

-- | Told, never asked for: both directions are closed. Comes with the directions that were asked for, as in "GHC.Event".
evtHangup :: Event
evtHangup = Event hup

-- | Told, never asked for: an error is pending on the fd. Comes with the directions that were asked for.
evtError :: Event
evtError = Event err

-- | Whether all of the second are in the first.
includes :: Event -> Event -> Bool
includes (Event a) (Event b) = a .&. b == b

-- | How long a registration lasts.
data Lifetime
  = OneShot     -- ^ Until its first news. What is ready already counts.
  | MultiShot
    -- ^ Until it is unregistered: news whenever something /becomes/ ready, and what is ready at the beginning. Read until
    -- EAGAIN, else the rest is not told. (GHC tells it again and again until it is read.)
  deriving (Eq, Show)

-- | Names a registration. It stays harmless when that has ended.
data FdKey = FdKey !Fd !Lifetime !Place !Raw.Handle

-- | The fd of a registration.
keyFd :: FdKey -> Fd
keyFd (FdKey fd _ _ _) = fd

-- | What became of the target.
data Outcome
  = Cancelled
    -- ^ The registration was in force; of a 'OneShot' no news was put, and none will be.
  | Fired
    -- ^ It had ended: its news was put, or is being put just now.
  deriving (Eq, Show)

-- | Watches an fd. Errors: EBADF, EPERM (the kernel cannot poll it: a regular file), EINVAL (an empty event).
registerFd :: Manager -> Target Event -> Fd -> Event -> Lifetime -> IO FdKey
registerFd m target fd (Event interest) lifetime = mask_ $ do
  shard <- currentShard m
  generation <- if lifetime == OneShot then pure 0 else freshGeneration m shard
  let tell ready _ = put target (Event (told ready))
      once = lifetime == OneShot
  place <- newCell m shard (if once then Once tell else Many generation tell)
  h <- registerFdPoll (mBell m) (fromIntegral fd) interest (if once then oneshot else edge)
         (if once then autoRelease else 0) (fromIntegral shard) (userDataOf place generation)
  when (h < 0) $ freeCell m place >> throwBell "registerFd" (fromIntegral h)
  pure (FdKey fd lifetime place (fromIntegral h))
  where
    told ready =
      (if ready .&. (hup .|. err .|. closed_) /= 0 then interest else 0)
        .|. (if ready .&. rdhup /= 0 then interest .&. read_ else 0)
        .|. ready .&. (read_ .|. write_ .|. hup .|. err .|. closed_)

-- | Ends a registration. When it has returned 'Cancelled', nothing more is put for a 'OneShot'; for a 'MultiShot', news that
-- was under way may be put yet. Unregistering twice is 'Fired'.
unregisterFd :: Manager -> FdKey -> IO Outcome
unregisterFd m (FdKey _ _ place h) = mask_ $ Raw.bell_unregister (mBell m) h 0 >>= ended m place

ended :: Manager -> Place -> Int32 -> IO Outcome
ended m place r
  | r == cancelled = freeCell m place >> pure Cancelled
  | otherwise = pure Fired

-- | Names a timeout.
newtype TimeoutKey = TimeoutKey Timer

-- | Puts @()@ in the target after so many microseconds, never before. 0 and negative ones: as soon as the dispatcher runs. Where timeouts
-- are mostly cancelled, this and 'unregisterTimeout' are no call of the library: it is left to ring once in vain, at the latest when the cancelled
-- timeout would have fired.
registerTimeout :: Manager -> Target () -> Int -> IO TimeoutKey
registerTimeout m !target !us = do
  timers <- currentTimers m
  deadline <- deadlineAfter us
  timer <- startTimer timers deadline target
  when (timerError timer < 0) $ throwBell "registerTimeout" (timerError timer)
  pure (TimeoutKey timer)

-- | Lets it fire so many microseconds from now instead. 'False': it has fired or was unregistered; nothing has changed.
updateTimeout :: Manager -> TimeoutKey -> Int -> IO Bool
updateTimeout _ (TimeoutKey timer) us = do
  deadline <- deadlineAfter us
  moveTimer timer deadline >>= either (throwBell "updateTimeout") pure

-- | Ends a timeout. After 'Cancelled' nothing was and nothing will be put, and the target is not kept.
unregisterTimeout :: Manager -> TimeoutKey -> IO Outcome
unregisterTimeout _ (TimeoutKey timer) = do
  unfired <- cancelTimer timer
  pure (if unfired then Cancelled else Fired)
