-- | An array that grows without moving: reading takes no lock. Bucket 0 has 1024 places, each later one as many as
-- all before it together.
module System.Doorbell.Internal.Buckets
  ( Buckets, limit, newBuckets, readBuckets, writeBuckets, ensureBucket
    -- * Where an index is
  , bucketOf, bucketSize
  ) where

import Control.Concurrent.MVar
import Control.Monad (when)
import Data.Bits
import GHC.IOArray

-- | Lock for growing, the empty value, the buckets.
data Buckets a = Buckets !(MVar ()) !a !(IOArray Int (IOArray Int a))

-- | Indices are below this.
limit :: Int
limit = 1 `unsafeShiftL` 24

-- | An array that reads as this value everywhere.
newBuckets :: a -> IO (Buckets a)
newBuckets empty = do
  none <- newIOArray (0, -1) empty
  Buckets <$> newMVar () <*> pure empty <*> newIOArray (0, 14) none

-- | The number of a bucket, and the index in it.
bucketOf :: Int -> (Int, Int)
bucketOf i
  | i < 1024 = (0, i)
  | otherwise = let top = 63 - countLeadingZeros i in (top - 9, i - (1 `unsafeShiftL` top))
{-# INLINE bucketOf #-}

-- | How many places a bucket has.
bucketSize :: Int -> Int
bucketSize k = if k == 0 then 1024 else 1 `unsafeShiftL` (k + 9)

-- | The empty value where nothing was written. The index must be in range.
readBuckets :: Buckets a -> Int -> IO a
readBuckets (Buckets _ empty outer) i = case bucketOf i of
  (k, at) -> do
    bucket <- unsafeReadIOArray outer k
    if numElements bucket == 0 then pure empty else unsafeReadIOArray bucket at
  where numElements = numElementsIOArray
{-# INLINE readBuckets #-}

numElementsIOArray :: IOArray Int a -> Int
numElementsIOArray a = case boundsIOArray a of (lo, hi) -> hi - lo + 1
{-# INLINE numElementsIOArray #-}

-- | Makes room for an index.
ensureBucket :: Buckets a -> Int -> IO ()
ensureBucket (Buckets lock empty outer) i = withMVar lock $ \() -> do
  let k = fst (bucketOf i)
  bucket <- unsafeReadIOArray outer k
  when (numElementsIOArray bucket == 0) $ newIOArray (0, bucketSize k - 1) empty >>= unsafeWriteIOArray outer k

-- | The index must have been ensured.
writeBuckets :: Buckets a -> Int -> a -> IO ()
writeBuckets (Buckets _ _ outer) i x = case bucketOf i of
  (k, at) -> unsafeReadIOArray outer k >>= \bucket -> unsafeWriteIOArray bucket at x
{-# INLINE writeBuckets #-}
