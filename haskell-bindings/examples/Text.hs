-- | What the examples share.
module Text (readText) where

import Foreign (allocaBytes, castPtr)
import Foreign.C.String (peekCStringLen)
import System.Posix.IO (fdReadBuf)
import System.Posix.Types (Fd)

-- | Reads so many bytes at most. (The types of @fdRead@ differ from version to version of @unix@.)
readText :: Fd -> Int -> IO String
readText fd n = allocaBytes n $ \p -> do
  got <- fdReadBuf fd p (fromIntegral n)
  peekCStringLen (castPtr p, fromIntegral got)
