-- | Runs the measurements, G1 to G5, and says how each row stands against its target. Writes a JSON file and a plot for each group.
--
-- > doorbell-bench-report QUICK|FULL DIRECTORY THREADED ORDINARY WARP-COMPARE WARP-SERVER [GROUP...]
module Main (main) where

import Control.Exception (IOException, try)
import Control.Monad
import Data.List (intercalate, isInfixOf, isPrefixOf, sort)
import Data.Maybe (fromMaybe, mapMaybe)
import System.Directory (createDirectoryIfMissing, findExecutable)
import System.Environment (getArgs)
import System.Exit (ExitCode (..))
import System.Info (compilerVersion)
import Data.Version (showVersion)
import System.IO
import System.Process (readProcess, readProcessWithExitCode)

-- | What is to be reached.
data Target = AtLeast Double | AtMost Double

-- | A result: what it is, the figure, the target, and both sides' medians if there are two sides.
data Row = Row
  { rowName :: String
  , unit :: String            -- "ratio" to GHC's own or to Warp as it is, or a unit
  , figure :: Double
  , target :: Target
  , sides :: [(String, Double)]
  , rounds :: Int
  }

type Samples = [((String, String), [Double])]

data Setup = Setup
  { quick :: Bool
  , threaded, ordinary, compareScript, server :: FilePath
  }

main :: IO ()
main = do
  hSetBuffering stdout LineBuffering
  speed : directory : t : o : c : w : groups <- getArgs
  let setup = Setup (speed == "QUICK") t o c w
      chosen g = null groups || g `elem` groups
  createDirectoryIfMissing True directory
  about <- machine
  forM_ [("g1", "Ping-pong: round trips per second, to GHC's own", g1), ("g2", "Timeouts, to GHC's own", g2)
        , ("g3", "Warp on Doorbell, to Warp as it is", g3), ("g4", "The ordinary runtime, to GHC's own", g4)
        , ("g5", "From the event to the thread, to GHC's own", g5)] $ \(g, title, measure) -> when (chosen g) $ do
    rows <- measure setup
    writeFile (directory ++ "/" ++ g ++ ".json") (json about speed rows)
    writeFile (directory ++ "/" ++ g ++ ".svg") (plot title rows)

-- | Prints a row as soon as it is known.
tell :: Row -> IO Row
tell r = do
  unless (null (sides r)) $ putStrLn ("  " ++ rowName r ++ ": " ++ intercalate ", " [s ++ " " ++ short x | (s, x) <- sides r])
  putStrLn ("row " ++ rowName r ++ ": " ++ unit r ++ "=" ++ short (figure r) ++ " target=" ++ shown (target r) ++ " "
            ++ (if holds r then "holds" else "falls short"))
  unless (holds r) $ forM_ (take 1 [t | (p, t) <- tried, p `isPrefixOf` rowName r]) $ \t -> putStrLn ("  known: " ++ t)
  pure r
  where
    shown (AtLeast x) = ">=" ++ short x
    shown (AtMost x) = "<=" ++ short x

-- | What is known of rows that fell short at some time, and what was tried. The first that fits.
tried :: [(String, String)]
tried =
  [ ("g1-n1-N2", "GHC pushes a thread that is woken beside the dispatcher to an idle capability, so on both sides the pair jumps between CPUs, one to four \
      \switches of OS threads a round trip; single rounds gave 0.4 to 16. Tried: to sleep at once after a single news, so that nothing is pushed (5 \
      \switches in place of 2); to move a registration only after three waits elsewhere (4 in place of 0.03).")
  , ("g1-n1-", "4 of 5 samples of perf are in the kernel: a round trip is 4 recv, 2 send, 2 epoll_wait, to which GHC adds 2 epoll_ctl. Tried: no \
      \question for the capability when there is one.")
  , ("g1-n100-", "as g1-n1; see there.")
  , ("g1-cpu-n1-N2", "as g1-n1-N2; see there.")
  , ("g1-stream-n1-N2", "as g1-n1-N2; see there.")
  , ("g1-stream-cpu-n1-N2", "as g1-n1-N2; see there.")
  , ("g1", "floor, beside the figures, is the same program where an MVar says that there is something: 2 recv and 2 send a round trip, and no waiting for \
      \fds. Ours adds 2 recv that find nothing and the kernel's news of 2 fds; by recvBufStream (g1-stream) it does without those recv. On a busy machine \
      \the floor had 1.8 to 2.2 times GHC's rate at n=1000 -N1, by recvBufStream ours had 1.9 to 2.2, and by recv, wait, recv 1.5 to 1.6. Tried: registrations follow their \
      \waiter at once; no closure and no allocation per event; no question for the capability when there is one.")
  , ("g2-register-cancel", "24 bytes, and no call of the library. Of 53 to 60 ns the clock takes 30, as in GHC's 100 to 120. Tried: an atomic add in place of \
      \GHC 9.0's atomic write, which is an mfence (30 ns); the clock without the library between (3 ns); no question for the capability when there is \
      \one (2 ns).")
  , ("g3-rate", "saturating, hardly anybody waits: 2.0 to 2.2 system calls a request on both sides.")
  , ("g3", "system calls a request with 100 connections that think: 2.3, Warp as it is 4.2; user instructions 0.87 (valgrind, before the recv went). Found and \
      \mended: the dispatcher slept while threads that had yielded were runnable (0.28 futex calls a request, 0.005 now); a recv that found nothing before \
      \each wait; a safe call for each connection that is closed (0.22 futex calls a request with 4000 short-lived ones, 0.008 now). The rest is Warp's own and the kernel's TCP (6 of 10 samples). At -N2 GHC pushes woken threads to the idle capability, on both sides: 1.2 to \
      \1.4 futex calls and 0.8 to 1 switches a request.")
  , ("g5-busy-61ms", "61 ms is longer than what GHC's manager takes to fall asleep: both sleep in the kernel then, and the call that returns waits for the end of \
      \the running thread's slice, 0 to 20 ms, 10 in the middle (both had 11 to 12). Nothing in GHC's public interface ends a slice.")
  , ("g5-busy", "on a busy machine 1.0 to 1.8. The dispatcher sleeps in the kernel beside threads that compute, so it waits for the end of a time slice once; GHC \
      \then puts the thread that it wakes behind those that compute. Nothing in GHC's public interface puts it first, or ends a slice.")
  ]

holds :: Row -> Bool
holds r = case target r of
  AtLeast x -> figure r >= x
  AtMost x -> figure r <= x

short :: Double -> String
short x
  | abs x >= 1000 = show (round x :: Int)
  | otherwise = show (fromIntegral (round (x * 1000) :: Int) / 1000 :: Double)

median :: [Double] -> Double
median [] = 0 / 0
median l = let s = sort l; n = length s in if odd n then s !! (n `div` 2) else (s !! (n `div` 2 - 1) + s !! (n `div` 2)) / 2

-- ---------------------------------------------------------------------------------------------------------------

run :: FilePath -> [String] -> [String] -> IO Samples
run program args flags = do
  (code, out, err) <- readProcessWithExitCode "timeout" (["-s", "KILL", "300", program] ++ args ++ ["+RTS"] ++ flags ++ ["-RTS"]) ""
  when (code /= ExitSuccess) $ putStrLn ("  " ++ unwords (args ++ flags) ++ ": " ++ show code ++ " " ++ err)
  pure (collect [((side, metric), read value) | ["sample", side, metric, value] <- map words (lines out)])

collect :: [((String, String), Double)] -> Samples
collect l = [(k, [v | (k', v) <- l, k' == k]) | k <- unique (map fst l)]
  where unique = foldr (\x seen -> if x `elem` seen then seen else x : seen) []

samplesOf :: Samples -> String -> String -> [Double]
samplesOf s side metric = fromMaybe [] (lookup (side, metric) s)

-- | The median of the rounds' ratios, ours to GHC's.
ratioRow :: String -> String -> Target -> Samples -> Row
ratioRow name metric t s = Row name "ratio" (median (zipWith (/) ours ghc)) t
    [("ghc", median ghc), ("doorbell", median ours)] (length ours)
  where ours = samplesOf s "doorbell" metric
        ghc = samplesOf s "ghc" metric

valueRow :: String -> String -> String -> Target -> Samples -> Row
valueRow name u metric t s = Row name u (median ours) t [(side, median x) | side <- ["ghc", "doorbell"], let x = samplesOf s side metric, not (null x)]
    (length ours)
  where ours = samplesOf s "doorbell" metric

g1 :: Setup -> IO [Row]
g1 setup = do
  pings <- forM [(n, caps) | caps <- [1, 2 :: Int], n <- if quick setup then [1, 100, 1000] else [1, 100, 1000, 9900 :: Int]] $ \(n, caps) -> do
    let at = "-n" ++ show n ++ "-N" ++ show caps
        least = fromMaybe 0 (lookup (n, caps) targets)
    s <- run (threaded setup) ["pingpong", show n, if quick setup then "3" else "9", if quick setup then "150" else "400"] ["-N" ++ show caps]
    -- What else there is to know: the same program without waiting for fds.
    least_ <- run (threaded setup) ["floor", show n, if quick setup then "1" else "3", if quick setup then "150" else "400"] ["-N" ++ show caps]
    let with metric r = r { sides = sides r ++ [("floor", median (samplesOf least_ "floor" metric))] }
        most = AtMost (if n >= 1000 then 0.5 else 1)
        byStream = [((if side == "stream" then "doorbell" else side, metric), x) | ((side, metric), x) <- s, side /= "doorbell"]
    rate <- tell (with "rate" (ratioRow ("g1" ++ at) "rate" (AtLeast least) s))
    cpu <- tell (with "cpu_us" (ratioRow ("g1-cpu" ++ at) "cpu_us" most s))
    -- Ours as one would write it for a stream, by recvBufStream; above, both sides look, and wait when there is nothing.
    streamRate <- tell (ratioRow ("g1-stream" ++ at) "rate" (AtLeast least) byStream)
    streamCpu <- tell (ratioRow ("g1-stream-cpu" ++ at) "cpu_us" most byStream)
    bytes <- tell (valueRow ("g1-bytes" ++ at) "bytes_per_wait" "bytes_per_wait" (AtMost 40) s)
    pure [rate, cpu, streamRate, streamCpu, bytes]
  calls <- systemCalls setup
  pure (concat pings ++ calls)
  where
    targets = zip [(n, caps) | caps <- [1, 2], n <- [1, 100, 1000, 9900]] [1.15, 1.2, 2, 2.2, 1.25, 1.3, 1.9, 2.3]

-- | Counted by strace: what 2000 waits of a pair cost beyond what 1 costs, per wait.
systemCalls :: Setup -> IO [Row]
systemCalls setup = findExecutable "strace" >>= \found -> case found of
  Nothing -> putStrLn "  g1-calls: no strace" >> pure []
  Just _ -> do
    counts <- forM ["ghc", "doorbell"] $ \side -> do
      few <- count side 1
      many <- count side 1001
      pure (side, [(what, (lookupOr what many - lookupOr what few) / 2000) | what <- ["epoll_ctl", "epoll_wait"]])
    forM ["epoll_ctl", "epoll_wait"] $ \what -> tell $
      Row ("g1-" ++ what ++ "-per-wait") "calls" (lookupOr what (fromMaybe [] (lookup "doorbell" counts)))
        (AtMost (if what == "epoll_ctl" then 0.01 else 1.01)) [(side, lookupOr what c) | (side, c) <- counts] 1
  where
    lookupOr k = fromMaybe 0 . lookup k
    count side n = do
      (_, _, err) <- readProcessWithExitCode "strace"
        ["-f", "-c", "-e", "trace=epoll_ctl,epoll_wait,epoll_pwait,epoll_pwait2", threaded setup, "waits", side, show (n :: Int), "0", "+RTS", "-N1", "-RTS"] ""
      let counted = [(if "epoll_pwait" `isPrefixOf` what then "epoll_wait" else what, read calls :: Double) | l <- lines err, _ : _ : _ : calls : rest@(_ : _) <- [words l], let what = last rest, "epoll" `isPrefixOf` what]
      pure [(what, sum [c | (w, c) <- counted, w == what]) | what <- ["epoll_ctl", "epoll_wait"]]

g2 :: Setup -> IO [Row]
g2 setup = do
  t <- run (threaded setup) ["timers", if quick setup then "200000" else "1000000", if quick setup then "3" else "7", "0"] ["-N1"]
  rate <- tell (ratioRow "g2-register-cancel" "rate" (AtLeast 2) t)
  bytes <- tell (valueRow "g2-bytes" "bytes" "bytes" (AtMost 40) t)
  delays <- forM [(100 :: Int, 0.1), (1500, 0.2)] $ \(us, most) -> do
    s <- run (threaded setup) ["delay", show us, if quick setup then "3" else "7", "100"] ["-N1"]
    late <- tell (ratioRow ("g2-delay-" ++ show us ++ "us") "late_us" (AtMost most) (map (fmap (chunked 100)) s))
    let earliest = minimum (1 / 0 : samplesOf s "doorbell" "late_us")
    early <- tell (Row ("g2-earliest-" ++ show us ++ "us") "us" earliest (AtLeast 0) [] (length (samplesOf s "doorbell" "late_us")))
    pure [late, early]
  pure (rate : bytes : concat delays)

-- | The median of each round.
chunked :: Int -> [Double] -> [Double]
chunked _ [] = []
chunked n l = let (a, b) = splitAt n l in median a : chunked n b

g3 :: Setup -> IO [Row]
g3 setup = concat <$> forM cells (\(c, think, flags) -> do
  (code, out, err) <- readProcessWithExitCode (compareScript setup)
    [server setup, show c, show think, flags, if quick setup then "2" else "6", if quick setup then "1" else "3"] ""
  when (code /= ExitSuccess) $ putStrLn ("  compare: " ++ show code ++ " " ++ out ++ err)
  let fields = [(k, read (drop 1 v)) | l <- take 1 (reverse (lines out)), word <- words l, let (k, v) = break (== '=') word, "_ratio" `isInfixOf` k]
      at = (if think == 0 then "-saturating" else "-think") ++ "-c" ++ show c ++ flags
      row kind k t = Row ("g3-" ++ kind ++ at) "ratio" (fromMaybe (0 / 0) (lookup k fields)) t [] (if quick setup then 2 else 6)
  mapM tell $ if think == 0 then [row "rate" "rps_ratio" (AtLeast 0.97)]
              else [row "cpu" "cpu_ratio" (AtMost (if flags == "-N1" then 0.85 else 0.92)), row "p50" "p50_ratio" (AtMost 0.9)])
  where
    cells = [(100, 5, "-N1"), (1000, 55, "-N1"), (1000, 55, "-N2"), (100, 0, "-N1")]
      ++ (if quick setup then [] else [(4000, 220, "-N1"), (1000, 0, "-N1"), (100, 0 :: Int, "-N2")]) :: [(Int, Int, String)]

g4 :: Setup -> IO [Row]
g4 setup = do
  below <- forM (if quick setup then [1, 100] else [1, 100, 400 :: Int]) $ \n -> do
    s <- run (ordinary setup) ["pingpong", show n, if quick setup then "3" else "7", if quick setup then "150" else "400"] []
    tell (ratioRow ("g4-n" ++ show n) "rate" (AtLeast 0.85) s)
  s <- run (ordinary setup) ["beyond", "1000", "0", "0"] []
  above <- tell (valueRow "g4-highest-fd" "fd" "highest_fd" (AtLeast 1025) s)
  pure (below ++ [above])

-- | Busy: 23 to 46 ms between the events is a time slice of the runtime or two, so that GHC's manager is often still in the run queue; after 61 to
-- 122 ms it sleeps in the kernel, as ours does.
g5 :: Setup -> IO [Row]
g5 setup = forM cells $ \(row, how, most, count) -> do
  s <- run (threaded setup) ["wake", how, if quick setup then "2" else "7", show count] ["-N1"]
  tell (ratioRow ("g5-" ++ row) "latency_us" (AtMost most) (map (fmap (chunked count)) s))
  where
    few = quick setup
    cells = [("busy-23ms", "23", 0.5, if few then 20 else 40), ("busy-61ms", "61", 0.5, if few then 10 else 20)
            , ("idle", "idle", 0.9, if few then 100 else 300)] :: [(String, String, Double, Int)]

-- ---------------------------------------------------------------------------------------------------------------
-- Output

machine :: IO [(String, String)]
machine = do
  kernel <- command "uname" ["-srm"]
  date <- command "date" ["-u", "+%Y-%m-%d %H:%M UTC"]
  load <- firstLine "/proc/loadavg"
  cpu <- either none (take 1 . mapMaybe model . lines) <$> (try (readFile "/proc/cpuinfo") :: IO (Either IOException String))
  cores <- command "nproc" []
  pure [("date", date), ("kernel", kernel), ("cpu", concat cpu), ("cores", cores), ("load_before", load)
       , ("ghc", showVersion compilerVersion)]
  where
    none _ = []
    command c a = either (const "") (takeWhile (/= '\n')) <$> (try (readProcess c a "") :: IO (Either IOException String))
    firstLine f = either (const "") (takeWhile (/= '\n')) <$> (try (readFile f) :: IO (Either IOException String))
    model l = if "model name" `isPrefixOf` l then Just (drop 2 (dropWhile (/= ':') l)) else Nothing

json :: [(String, String)] -> String -> [Row] -> String
json about speed rows = "{\n" ++ concatMap (\(k, v) -> "  " ++ show k ++ ": " ++ show v ++ ",\n") (about ++ [("mode", speed)])
  ++ "  \"rows\": [\n" ++ intercalate ",\n" (map one rows) ++ "\n  ]\n}\n"
  where
    one r = "    {\"row\": " ++ show (rowName r) ++ ", \"unit\": " ++ show (unit r) ++ ", \"figure\": " ++ number (figure r)
      ++ ", \"target\": " ++ show (case target r of AtLeast x -> ">= " ++ short x; AtMost x -> "<= " ++ short x)
      ++ ", \"holds\": " ++ (if holds r then "true" else "false")
      ++ concatMap (\(s, x) -> ", " ++ show s ++ ": " ++ number x) (sides r) ++ ", \"rounds\": " ++ show (rounds r) ++ "}"
    number x = if isNaN x || isInfinite x then "null" else short x

-- | A bar for each ratio: 1 is the peer, the red mark is the target.
plot :: String -> [Row] -> String
plot title allRows = unlines $
  [ "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"820\" height=\"" ++ show height ++ "\" font-family=\"sans-serif\" font-size=\"13\">"
  , "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
  , "<text x=\"10\" y=\"22\" font-size=\"16\">" ++ title ++ "</text>"
  , "<text x=\"10\" y=\"40\" fill=\"#555\">Medians of ratios; 1 (grey line) is the peer. Red: the target; an arrow says which side of it is good.</text>" ]
  ++ ["<line x1=\"" ++ px 1 ++ "\" y1=\"50\" x2=\"" ++ px 1 ++ "\" y2=\"" ++ show (height - 8) ++ "\" stroke=\"#888\"/>"]
  ++ concat (zipWith bar [0 :: Int ..] rows) ++ ["</svg>"]
  where
    rows = [r | r <- allRows, unit r == "ratio", not (isNaN (figure r))]
    height = 70 + 26 * length rows
    top = maximum (1.2 : concat [[figure r, at (target r)] | r <- rows])
    at (AtLeast x) = x
    at (AtMost x) = x
    px x = show (260 + round (x / top * 470) :: Int)
    bar i r = let y = 58 + 26 * i in
      [ "<text x=\"10\" y=\"" ++ show (y + 13) ++ "\">" ++ rowName r ++ "</text>"
      , "<rect x=\"260\" y=\"" ++ show y ++ "\" width=\"" ++ show (max 1 (round (figure r / top * 470) :: Int)) ++ "\" height=\"18\" fill=\""
        ++ (if holds r then "#4a90c2" else "#d9a441") ++ "\"/>"
      , "<line x1=\"" ++ px (at (target r)) ++ "\" y1=\"" ++ show (y - 2) ++ "\" x2=\"" ++ px (at (target r)) ++ "\" y2=\"" ++ show (y + 20)
        ++ "\" stroke=\"#c00\" stroke-width=\"2\"/>"
      , "<text x=\"" ++ show (740 :: Int) ++ "\" y=\"" ++ show (y + 13) ++ "\">" ++ short (figure r)
        ++ (case target r of AtLeast _ -> " \8594"; AtMost _ -> " \8592") ++ "</text>" ]
