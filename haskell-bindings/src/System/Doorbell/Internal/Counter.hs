{-# LANGUAGE MagicHash #-}
{-# LANGUAGE UnboxedTuples #-}
-- | An 'Int' in memory that is changed without allocating.
module System.Doorbell.Internal.Counter
  ( Counter, newCounter, readCounter, writeCounter, addCounter, swapCounter, casCounter
  ) where

import GHC.Exts
import GHC.IO (IO (..))

-- | The memory. All functions are atomic.
data Counter = Counter (MutableByteArray# RealWorld)

-- | With a first value.
newCounter :: Int -> IO Counter
newCounter (I# n) = IO $ \s -> case newByteArray# 8# s of
  (# s1, a #) -> case writeIntArray# a 0# n s1 of s2 -> (# s2, Counter a #)

-- | What is there.
readCounter :: Counter -> IO Int
readCounter (Counter a) = IO $ \s -> case atomicReadIntArray# a 0# s of (# s1, n #) -> (# s1, I# n #)
{-# INLINE readCounter #-}

-- | Overwrites.
writeCounter :: Counter -> Int -> IO ()
writeCounter (Counter a) (I# n) = IO $ \s -> case atomicWriteIntArray# a 0# n s of s1 -> (# s1, () #)
{-# INLINE writeCounter #-}

-- | Adds; returns what was there before.
addCounter :: Counter -> Int -> IO Int
addCounter (Counter a) (I# n) = IO $ \s -> case fetchAddIntArray# a 0# n s of (# s1, old #) -> (# s1, I# old #)
{-# INLINE addCounter #-}

-- | Writes; returns what was there before.
swapCounter :: Counter -> Int -> IO Int
swapCounter c@(Counter a) new@(I# n) = do
  I# old <- readCounter c
  seen <- IO $ \s -> case casIntArray# a 0# old n s of (# s1, was #) -> (# s1, I# was #)
  if seen == I# old then pure seen else swapCounter c new

-- | Writes the third if the second is there; whether it was.
casCounter :: Counter -> Int -> Int -> IO Bool
casCounter (Counter a) (I# old) (I# new) = IO $ \s -> case casIntArray# a 0# old new s of
  (# s1, was #) -> (# s1, isTrue# (was ==# old) #)
{-# INLINE casCounter #-}
