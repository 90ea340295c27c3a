//! The simulator: the real library over a simulated kernel, driven through the C interface by seeded steps, and held
//! against a reference model after each of them. `RUSTFLAGS='--cfg doorbell_sim' cargo test --release sim_`; `make sim`.
//!
//! Everything above the system calls is the real thing, backends included: `kernel` and `libc` stand below them. With
//! `--cfg doorbell_backend="poll"` the same steps ask the other backend, with `--cfg doorbell_small_generations` handles
//! wrap after three uses.
pub mod cpus;
pub mod kernel;
pub mod libc;
mod model;
mod play;
mod scale;
pub mod sched;

use kernel::{FAULTS, Rng};
use play::{Op, Player, configure, play};
use std::time::Instant;

/// Where `bell_dump` writes.
pub const TEXT_FD: i32 = 1;

#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub op: Op,
    pub salt: u64,
}

const STEPS_OF_A_SEED: usize = 400;

fn draw(seed: u64, weights: &[(Op, u32)]) -> Vec<Step> {
    let mut rng = Rng(seed ^ 0xa076_1d64_78bd_642f);
    let sum: u32 = weights.iter().map(|(_, w)| w).sum();
    let n = 50 + rng.below(STEPS_OF_A_SEED);
    (0..n)
        .map(|_| {
            let mut at = rng.below(sum.max(1) as usize) as u32;
            let chosen = weights.iter().find(|(_, w)| {
                let here = at < *w;
                at = at.wrapping_sub(if here { 0 } else { *w });
                here
            });
            Step { op: chosen.map_or(Op::Poll, |c| c.0), salt: rng.next() }
        })
        .collect()
}

struct Outcome {
    violation: Option<String>,
    played: usize,
    met: [u64; FAULTS.len()],
    trace: Vec<String>,
}

fn run(seed: u64, steps: &[Step], trace: bool) -> Outcome {
    let (config, world, _) = configure(seed);
    let mut player = Box::new(Player::new(config, world, trace));
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(&mut player, steps)));
    let mut violation = sched::take_violation();
    if played.is_err() {
        violation.get_or_insert("the simulator panicked".to_owned());
    }
    let trace = player.trace.take().unwrap_or_default();
    let met = player.world.met;
    if violation.is_some() {
        // What it left behind refers to it.
        std::mem::forget(player);
    }
    Outcome { violation, played: played.unwrap_or(0), met, trace }
}

/// Leaves out what is not needed for the failure.
fn shrink(seed: u64, mut steps: Vec<Step>) -> Vec<Step> {
    let fails = |steps: &[Step]| run(seed, steps, false).violation.is_some();
    steps.truncate(run(seed, &steps, false).played);
    let mut size = steps.len() / 2;
    // `SHRINK=0`: whoever asks only whether one fails does not wait for it.
    let mut left = number("SHRINK").unwrap_or(600);
    while size > 0 && left > 0 {
        let mut at = 0;
        while at < steps.len() && left > 0 {
            let end = (at + size).min(steps.len());
            let without: Vec<Step> = steps[..at].iter().chain(&steps[end..]).copied().collect();
            left -= 1;
            if fails(&without) {
                steps = without;
            } else {
                at = end;
            }
        }
        size /= 2;
    }
    steps
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|t| !t.is_empty())?;
    Some(text.replace('_', "").parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

fn report(seed: u64) -> String {
    let (_, _, weights) = configure(seed);
    let steps = shrink(seed, draw(seed, &weights));
    let last = run(seed, &steps, true);
    let commit = std::env::var("COMMIT").unwrap_or_else(|_| "unknown".to_owned());
    format!(
        "seed {seed} at commit {commit}, {} steps:\n{}\nviolation: {}\nmake sim SEED={seed} replays it",
        steps.len(),
        last.trace.join("\n"),
        last.violation.unwrap_or_else(|| "none any more".to_owned()),
    )
}

fn fails(seed: u64) -> Option<String> {
    let (_, _, weights) = configure(seed);
    run(seed, &draw(seed, &weights), false).violation
}

/// Every seed that ever failed.
#[test]
fn sim_seeds_that_failed_once() {
    for line in include_str!("seeds.txt").lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let seed = line.split_whitespace().next().and_then(|s| s.parse().ok()).expect("a seed");
        if fails(seed).is_some() {
            panic!("{}", report(seed));
        }
    }
}

/// `STEPS` of them (a million by default), from `SEED` on if it is given; `SEED` alone plays that one.
#[test]
fn sim_random_steps() {
    if let (Some(seed), None) = (number("SEED"), number("STEPS")) {
        match fails(seed) {
            Some(_) => panic!("{}", report(seed)),
            None => return println!("seed {seed}: no violation"),
        }
    }
    let wanted = number("STEPS").unwrap_or(1_000_000);
    let jobs = number("JOBS").unwrap_or(1).max(1);
    let first = number("SEED").unwrap_or(1);
    let start = Instant::now();
    let workers: Vec<_> =
        (0..jobs).map(|job| std::thread::spawn(move || many(first + job, jobs, wanted / jobs, start))).collect();
    let mut steps = 0;
    let mut met = [0; FAULTS.len()];
    let mut bad = Vec::new();
    for w in workers {
        let (s, m, b) = w.join().expect("a worker");
        steps += s;
        bad.extend(b);
        met.iter_mut().zip(m).for_each(|(a, b)| *a += b);
    }
    for (f, name) in FAULTS {
        println!("met {name}: {}", met[f as usize]);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "sim: steps={steps} violations={} seconds={seconds:.1} steps_per_second={:.0}",
        bad.len(),
        steps as f64 / seconds
    );
    assert!(bad.is_empty(), "seeds that failed: {bad:?}");
}

fn many(first: u64, stride: u64, wanted: u64, start: Instant) -> (u64, [u64; FAULTS.len()], Vec<u64>) {
    let (mut steps, mut met, mut bad) = (0, [0; FAULTS.len()], Vec::new());
    let mut told = Instant::now();
    let mut seed = first;
    while steps < wanted && bad.is_empty() {
        let (_, _, weights) = configure(seed);
        let outcome = run(seed, &draw(seed, &weights), false);
        steps += outcome.played as u64;
        met.iter_mut().zip(outcome.met).for_each(|(a, b)| *a += b);
        if outcome.violation.is_some() {
            println!("{}", report(seed));
            bad.push(seed);
        }
        seed += stride;
        if told.elapsed().as_secs() >= 5 {
            told = Instant::now();
            let seconds = start.elapsed().as_secs_f64();
            println!("sim: {steps} of {wanted} steps, seed {seed}, {:.0} steps/s", steps as f64 / seconds);
        }
    }
    (steps, met, bad)
}
