//! The library as a file: what it exports and needs, how it was linked, and that the header suits every compiler.
mod common;
use common::*;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Exported with the feature `test-hooks`, which only tests have; in no header.
const HOOK: &str = "bell_test_panic";

#[test]
fn header_exports_and_decls_have_the_same_functions() {
    let mut exported = dynamic_symbols("--defined-only", library("libdoorbell.so"));
    exported.retain(|n| n != HOOK);
    let header = fs::read_to_string(include().join("doorbell.h")).unwrap();
    let declared = function_names(&header, |l| {
        !l.starts_with([' ', '/', '#']) && !l.starts_with("typedef") && !l.starts_with("static")
    });
    assert!(declared.len() > 20, "the search for declarations finds too little: {declared:?}");
    assert_eq!(declared, exported, "declared in doorbell.h on the left, exported by the library on the right");
    let decls = fs::read_to_string(c_tests().join("src/decls.rs")).unwrap();
    let decls = function_names(&decls, |l| l.trim_start().starts_with("pub fn "));
    assert_eq!(decls, exported, "src/decls.rs on the left, exported by the library on the right");
}

/// pthread_cond_signal of glibc before 2.41 can lose a wake-up (glibc bug 25847).
#[test]
fn museum_077_no_condition_variables_of_glibc() {
    let needed = dynamic_symbols("--undefined-only", library("libdoorbell.so"));
    assert!(needed.iter().any(|n| n == "close"), "nm does not tell what the library needs: {needed:?}");
    let bad: Vec<_> = needed.iter().filter(|n| n.starts_with("pthread_cond_")).collect();
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn linked_with_soname_nodelete_and_without_lazy_binding() {
    let dynamic = succeed(Command::new("readelf").args(["-W", "-d"]).arg(library("libdoorbell.so")));
    let entry = |tag: &str| {
        dynamic.lines().find(|l| l.contains(tag)).unwrap_or_else(|| panic!("no {tag} in\n{dynamic}"))
    };
    assert!(entry("(SONAME)").ends_with("[libdoorbell.so.0]"), "{dynamic}");
    let flags = entry("(FLAGS_1)");
    assert!(flags.contains("NODELETE") && flags.contains("NOW"), "{flags}");
    let segments = succeed(Command::new("readelf").args(["-W", "-l"]).arg(library("libdoorbell.so")));
    assert!(segments.contains("GNU_RELRO"), "{segments}");
}

#[test]
fn header_compiles_alone_and_twice() {
    let dir = folder("header");
    for std in ["c99", "c11", "c17", "c++17"] {
        if std.starts_with("c++") && !has_cplusplus("header as C++") {
            continue;
        }
        for times in [1, 2] {
            let source = dir.join(if std.starts_with("c++") { "header.cc" } else { "header.c" });
            fs::write(&source, "#include <doorbell.h>\n".repeat(times)).unwrap();
            succeed(cc(std).arg("-fsyntax-only").arg(source));
        }
    }
}

fn has_cplusplus(test: &str) -> bool {
    let there = is_there("c++") || std::env::var_os("CXX").is_some();
    if !there {
        say_skipped(test, "no C++ compiler");
    }
    there
}

const ONE_TURN: &str = r#"
#include <doorbell.h>
#include <cstdio>
int main()
{
    bell_t *bell;
    bell_handle handle;
    bell_event event;
    bell_target target{};
    target.kind = BELL_TARGET_POLL;
    int32_t r;
    if ((r = bell_create(nullptr, &bell)) == 0 && (r = bell_register_user(bell, 0, &target, 7, &handle)) == 0 &&
        (r = bell_post(bell, handle, 1)) == 0 && (r = bell_poll(bell, 0, &event, 1, BELL_NEVER)) == 1 &&
        event.user_data == 7 && (r = bell_destroy(bell, 0)) == 0)
        return 0;
    std::fprintf(stderr, "%d: %s\n", r, bell_strerror(r));
    return 1;
}
"#;

#[test]
fn cplusplus_program_runs() {
    if !has_cplusplus("cplusplus_program_runs") {
        return;
    }
    let dir = folder("cplusplus");
    let source = dir.join("turn.cc");
    fs::write(&source, ONE_TURN).unwrap();
    let program = link_shared("c++17", &source, &[], &dir);
    run("cplusplus_program_runs", &dir, Command::new(program), Duration::from_secs(60));
}
