//! The committed header is the one that cbindgen makes of the sources now. `make header` rewrites it.
use std::path::Path;
use std::{env, fs};

#[test]
fn committed_header_is_what_the_sources_say() {
    let made = fs::read_to_string(doorbell::generated_header()).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/doorbell.h");
    let committed = fs::read_to_string(&path).unwrap_or_default();
    if made == committed {
        return;
    }
    if env::var_os("BELL_BLESS").is_some() {
        return fs::write(&path, &made).unwrap();
    }
    let line = made.lines().zip(committed.lines()).take_while(|(m, c)| m == c).count();
    panic!(
        "include/doorbell.h is stale from line {} on.\n  made:      {:?}\n  committed: {:?}\nmake header rewrites it.",
        line + 1,
        made.lines().nth(line),
        committed.lines().nth(line)
    );
}
