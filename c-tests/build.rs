//! Lets ctest2 write a program that compares `decls.rs` with `doorbell.h`; `tests/layout.rs` runs it.
use std::path::PathBuf;
use std::{env, fs};

fn main() {
    const PARTS: [&str; 2] = ["../src/abi.rs", "src/decls.rs"];
    for file in ["build.rs", "../include/doorbell.h"].iter().chain(&PARTS) {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=BELL_BLESS");
    if env::var_os("BELL_BLESS").is_some() {
        return; // `make header`: the committed header is old, and may lack what the program would ask for
    }
    // One text for ctest2 and for rustc. abi.rs takes `c_void` from around it and has no `use` of its own, and
    // ctest2's parser does not look into `include!`.
    let mut text = String::from("use core::ffi::{c_char, c_void};\n");
    for part in PARTS {
        text += &fs::read_to_string(part).expect(part);
    }
    let decls = PathBuf::from(env::var_os("OUT_DIR").unwrap()).join("decls.rs");
    fs::write(&decls, text).unwrap();

    ctest2::TestGenerator::new()
        .include("../include")
        .header("doorbell.h")
        .flag("-Werror")
        .generate(decls, "all.rs");
}
