//! Compiling C against the header and the library, and running it with a time limit.
#![allow(dead_code)] // each test takes what it needs
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

pub fn c_tests() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn include() -> PathBuf {
    c_tests().join("../include")
}

/// Where cargo puts the libraries of a path dependency, and this test: `target/<profile>/deps`.
pub fn library(name: &str) -> PathBuf {
    let path = env::current_exe().unwrap().with_file_name(name);
    assert!(path.exists(), "cargo did not make {}", path.display());
    path
}

/// An empty folder of this test's own.
pub fn folder(test: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

pub fn compiler(variable: &str, default: &str) -> Command {
    let named = env::var(variable).unwrap_or_default();
    // CC may hold flags too ("ccache gcc -m64").
    let mut words = named.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or(default));
    command.args(words);
    command
}

pub const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

/// The C compiler, with all warnings as errors and the header in its path. `std` tells C from C++.
pub fn cc(std: &str) -> Command {
    let mut c = if std.starts_with("c++") { compiler("CXX", "c++") } else { compiler("CC", "cc") };
    c.arg(format!("-std={std}")).args(STRICT).arg("-I").arg(include());
    c
}

/// Compiles `source` against the header and the shared library, found at run time by its soname.
pub fn link_shared(std: &str, source: &Path, flags: &[&str], dir: &Path) -> PathBuf {
    let so = library("libdoorbell.so");
    for name in ["libdoorbell.so", "libdoorbell.so.0"] {
        std::os::unix::fs::symlink(&so, dir.join(name)).unwrap();
    }
    let program = dir.join(source.file_stem().unwrap());
    let mut c = cc(std);
    c.args(["-O1", "-g", "-pthread"]).args(flags).arg(source).arg("-o").arg(&program);
    // As needed: dlopen.c must not have the library loaded before it asks for it.
    c.arg("-L").arg(dir).args(["-Wl,--as-needed", "-ldoorbell", "-ldl"]);
    c.arg(format!("-Wl,-rpath,{}", dir.display()));
    succeed(&mut c);
    program
}

/// Compiles `source` against the header and the static library.
pub fn link_static(std: &str, source: &Path, flags: &[&str], dir: &Path) -> PathBuf {
    let program = dir.join(source.file_stem().unwrap());
    let mut c = cc(std);
    c.args(["-O1", "-g", "-pthread"]).args(flags).arg(source).arg("-o").arg(&program);
    // What `rustc --print native-static-libs` names.
    c.arg(library("libdoorbell.a")).args(["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc"]);
    succeed(&mut c);
    let dynamic = succeed(Command::new("readelf").arg("-d").arg(&program));
    assert!(!dynamic.contains("libdoorbell"), "{dynamic}");
    program
}

/// Runs a tool that has to succeed; its standard output.
pub fn succeed(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

pub fn is_there(tool: &str) -> bool {
    Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Past libtest's capture, which would hide it.
pub fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A test that was skipped counts as passed, so it must be told.
pub fn say_skipped(test: &str, why: &str) {
    say(&format!("skipped: {test}: {}", why.trim().trim_start_matches("skipped: ")));
}

/// Runs a C test: exit code 0 is passed, 77 skipped, all else failed. What it printed is shown if it failed.
pub fn run(test: &str, dir: &Path, mut command: Command, limit: Duration) {
    let log = dir.join("output");
    let file = File::create(&log).unwrap();
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    // A group of its own, so that children it left behind end too.
    command.process_group(0);
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > end {
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    // SAFETY: our child's own group. It is empty if all went well, and its number is not in use again so soon.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
    if status.is_none() {
        child.wait().unwrap();
    }
    let output = || String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
    match status {
        Some(s) if s.success() => {}
        Some(s) if s.code() == Some(77) => say_skipped(test, &output()),
        Some(s) => panic!("{command:?}: {s}\n{}", output()),
        None => panic!("{command:?}: killed after {limit:?}\n{}", output()),
    }
}

/// The words of `text` that are followed by a parenthesis and begin with `bell_`, from lines that `keep` likes.
pub fn function_names(text: &str, keep: impl Fn(&str) -> bool) -> Vec<String> {
    let mut names = Vec::new();
    for line in text.lines().filter(|l| keep(l)) {
        let Some((head, _)) = line.split_once('(') else { continue };
        let name = head.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
        if name.starts_with("bell_") {
            names.push(name.to_owned());
        }
    }
    names.sort();
    names
}

/// Column-wise output of `nm -D`: the names, without versions (`read@GLIBC_2.2.5`).
pub fn dynamic_symbols(which: &str, library: impl AsRef<OsStr>) -> Vec<String> {
    let out = succeed(Command::new("nm").args(["-D", which]).arg(library));
    let name = |l: &str| l.split_whitespace().last().map(|s| s.split('@').next().unwrap().to_owned());
    let mut names: Vec<_> = out.lines().filter_map(name).collect();
    names.sort();
    names
}
