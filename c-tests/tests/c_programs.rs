//! Builds each program of `c/` against the header and the shared library and runs it: as it is, with the sanitizers of
//! the C compiler, and under valgrind. Data races are looked for by `tsan.sh`.
mod common;
use common::*;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
/// Valgrind runs one thread at a time, 20 to 50 times slower.
const VALGRIND_LIMIT: Duration = Duration::from_secs(300);

/// The program, and what it is called with.
fn build(variant: &str, name: &str, flags: &[&str]) -> (PathBuf, Vec<PathBuf>) {
    let dir = folder(&format!("{variant}-{name}"));
    let source = c_tests().join("c").join(name).with_extension("c");
    let link = if name == "static_link" { link_static } else { link_shared };
    let mut line = vec![link("c11", &source, flags, &dir)];
    if name == "dlopen" {
        line.push(dir.join("libdoorbell.so"));
    }
    (dir, line)
}

fn plain(name: &str) {
    let (dir, line) = build("plain", name, &[]);
    let mut c = Command::new(&line[0]);
    c.args(&line[1..]);
    run(name, &dir, c, LIMIT);
}

/// The Rust code is not instrumented, but its allocations go through the sanitizer's malloc: leaks, and what is
/// wrong with memory that crosses the border, are seen.
fn sanitized(name: &str) {
    let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];
    let (dir, line) = build("sanitized", name, &flags);
    let mut c = Command::new(&line[0]);
    c.args(&line[1..]).env("BELL_TEST_SLOW", "1");
    run(name, &dir, c, LIMIT);
}

fn memcheck(name: &str) {
    if !is_there("valgrind") {
        return say_skipped(name, "no valgrind");
    }
    let (dir, line) = build("memcheck", name, &[]);
    // A forked child has lost the other threads, but not their stacks, and leaks on purpose what they may have been
    // changing. The parent's leaks are looked for in `sanitized`.
    // A poisoned manager is leaked too.
    let leaks = if ["fork", "poison", "museum_h"].contains(&name) { "--leak-check=no" } else { "--leak-check=full" };
    let mut c = Command::new("valgrind");
    c.args(["-q", "--error-exitcode=99", leaks, "--num-callers=30"])
        .args(["--show-leak-kinds=definite,indirect,possible"])
        .args(["--errors-for-leak-kinds=definite,indirect,possible"])
        // Else a thread that spins starves the one it waits for.
        .arg("--fair-sched=yes")
        .arg(format!("--suppressions={}", c_tests().join("valgrind.supp").display()))
        .args(&line)
        .env("BELL_TEST_SLOW", "1");
    run(name, &dir, c, VALGRIND_LIMIT);
}

macro_rules! programs {
    ($($name:ident)*) => {
        const LISTED: &[&str] = &[$(stringify!($name)),*];
        mod plain { $(#[test] fn $name() { super::plain(stringify!($name)) })* }
        mod sanitized { $(#[test] fn $name() { super::sanitized(stringify!($name)) })* }
        mod memcheck { $(#[test] fn $name() { super::memcheck(stringify!($name)) })* }
    };
}

programs! {
    close
    corners
    dlopen
    drive_poll
    drive_threads
    drive_wait
    eintr
    exclusive
    faults
    features
    fork
    io_uring
    limits
    misuse
    modes
    museum_a
    museum_b
    museum_c
    museum_d
    museum_e
    museum_f
    museum_h
    museum_j
    museum_l
    nesting
    poison
    queues
    real_fds
    seccomp
    retarget
    side_by_side
    slots
    static_link
    stats
    threads_come_and_go
    timeouts
    unregister
    user_events
}

#[test]
fn every_program_is_listed() {
    let files = std::fs::read_dir(c_tests().join("c")).unwrap().map(|f| f.unwrap().path());
    let there: BTreeSet<String> = files
        .filter(|f| f.extension().is_some_and(|e| e == "c"))
        .map(|f| f.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let listed: BTreeSet<String> = LISTED.iter().map(|n| n.to_string()).collect();
    assert_eq!(there, listed, "c/*.c on the left, programs! in this file on the right");
}

/// MUSEUM.md names each test of an entry that is here, and none that is not there.
#[test]
fn the_index_of_the_museum_is_true() {
    /// `museum_017_what_it_asks`.
    fn is_name(word: &str) -> bool {
        let question = word.strip_prefix("museum_").and_then(|rest| rest.split_once('_'));
        question.is_some_and(|(number, rest)| number.bytes().all(|b| b.is_ascii_digit()) && !rest.is_empty())
    }
    fn names(text: &str) -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.filter(|w| is_name(w)).map(str::to_owned).collect()
    }
    fn names_in(folder: &str) -> BTreeSet<String> {
        let files = std::fs::read_dir(c_tests().join(folder)).unwrap().map(|f| f.unwrap().path());
        // This file speaks of the names.
        let files = files.filter(|f| f.is_file() && !f.ends_with("c_programs.rs"));
        files.flat_map(|f| names(&std::fs::read_to_string(f).unwrap())).collect()
    }
    let here: BTreeSet<_> = ["c", "tests"].into_iter().flat_map(names_in).collect();
    let everywhere = &here | &names_in("../src/tests");
    let indexed = names(&std::fs::read_to_string(c_tests().join("MUSEUM.md")).unwrap());
    assert!(indexed.len() > 60, "{indexed:?}");
    assert_eq!(&indexed - &everywhere, BTreeSet::new(), "in MUSEUM.md, but nowhere else");
    assert_eq!(&here - &indexed, BTreeSet::new(), "not in MUSEUM.md");
}
