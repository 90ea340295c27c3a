//! How the shared library is linked, and the generated header (feature `regen-header`). Writes nothing outside `OUT_DIR`.
use std::env;
use std::path::PathBuf;

fn main() {
    let dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap());
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::metadata=include={}", dir.join("include").display());
    let os = env::var("CARGO_CFG_TARGET_OS").unwrap();
    // Only ELF linkers know these options.
    if matches!(os.as_str(), "linux" | "android" | "freebsd" | "netbsd" | "openbsd" | "dragonfly") {
        // cargo-c, which sets the feature, gives a soname of its own.
        if env::var_os("CARGO_FEATURE_CAPI").is_none() {
            println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdoorbell.so.0");
        }
        // A thread that once was inside runs destructors of std's thread-locals when it ends. After a dlclose
        // they would be unmapped code, so the library stays (rust-lang/rust#91979).
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
        // No lazy binding: a first call must not take the dynamic linker's locks in a signal handler or after fork.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,relro,-z,now");
    }
    #[cfg(feature = "regen-header")]
    header(&dir);
}

#[cfg(feature = "regen-header")]
fn header(dir: &std::path::Path) {
    // The order of the header. What is not listed (test_hooks.rs) stays out of it.
    const SOURCES: [&str; 10] = [
        "abi",
        "ffi/mod",
        "ffi/identity",
        "ffi/life",
        "ffi/drive",
        "ffi/fds",
        "ffi/slots",
        "ffi/queues",
        "ffi/timeouts",
        "ffi/ops",
    ];
    let config = dir.join("cbindgen.toml");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    println!("cargo::rerun-if-changed={}", config.display());
    let mut builder = cbindgen::Builder::new().with_config(cbindgen::Config::from_file(config).expect("cbindgen.toml"));
    for name in SOURCES {
        let source = dir.join("src").join(name).with_extension("rs");
        println!("cargo::rerun-if-changed={}", source.display());
        // cbindgen follows `mod x;`, so the order would be that of mod.rs, with all its modules. It does not find
        // them from a copy elsewhere, and goes on.
        let copy = out.join(format!("{}.rs.copy", name.replace('/', "_")));
        std::fs::copy(&source, &copy).expect("src");
        builder = builder.with_src(copy);
    }
    let out = out.join("doorbell.h");
    builder.generate().expect("cbindgen").write_to_file(&out);
    println!("cargo::rustc-env=DOORBELL_GENERATED_HEADER={}", out.display());
}
