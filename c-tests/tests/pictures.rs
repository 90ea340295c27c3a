//! The pictures of docs/ are what their sources say. `make pictures` draws them anew.
use pikchr::{Pikchr, PikchrFlags};
use std::path::Path;
use std::{env, fs};

/// As pikchr draws, but readable on a dark page too, small enough for one, and with text in the middle also for
/// programs that do not know `dominant-baseline`.
fn draw(source: &str) -> String {
    let mut flags = PikchrFlags::default();
    flags.generate_plain_errors();
    let picture = Pikchr::render(source, None, flags).unwrap();
    let size = format!("width=\"{}\" height=\"{}\"", picture.width() * 4 / 5, picture.height() * 4 / 5);
    let svg = picture
        .to_string()
        .replacen("<svg ", &format!("<svg {size} font-family=\"Helvetica, Arial, sans-serif\" "), 1)
        .replace("dominant-baseline=\"central\"", "dy=\"0.35em\"");
    let head = svg.find('>').unwrap() + 1;
    format!("{}\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>{}", &svg[..head], &svg[head..])
}

#[test]
fn committed_pictures_are_what_their_sources_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pictures");
    let mut seen = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let source = entry.unwrap().path();
        if source.extension().is_none_or(|e| e != "pikchr") {
            continue;
        }
        seen += 1;
        let made = draw(&fs::read_to_string(&source).unwrap());
        let svg = source.with_extension("svg");
        if env::var_os("BELL_BLESS").is_some() {
            fs::write(&svg, &made).unwrap();
        }
        let committed = fs::read_to_string(&svg).unwrap_or_default();
        assert!(made == committed, "{} is stale: make pictures draws it anew", svg.display());
    }
    assert!(seen > 3, "{} has {seen} pictures", folder.display());
}
