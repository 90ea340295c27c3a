//! The guard of the binary interface: what doorbell.h promises to programs that are compiled already is held against
//! `doorbell-0.abi`. What was removed or changed fails, what was added is listed. `make abi-bless` writes the
//! record anew, on purpose (see docs/versioning.md).
//!
//! The header alone tells it all: that the library agrees with it is what `tests/layout.rs` and `tests/library.rs` ask.
//! Types and names are read from what the C preprocessor leaves of the header; sizes, offsets and values come from a C
//! program.
#[path = "../tests/common/mod.rs"]
mod common;
use common::{compiler, folder, say, say_skipped, succeed};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What (`function bell_poll`, `field bell_event.ready`) and how it is (types, offset, size, value).
type Interface = BTreeMap<String, String>;

fn record() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("doorbell-0.abi")
}

fn include() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../include")
}

/// Words and signs. Strings do not occur in what is left of the header, except in `extern "C"`, which is for C++.
fn tokens(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut in_word = false;
    for c in text.chars() {
        let word = c.is_alphanumeric() || c == '_';
        if word && in_word {
            all.last_mut().unwrap().push(c);
        } else if !c.is_whitespace() {
            all.push(c.into());
        }
        in_word = word;
    }
    all
}

/// Splits at a sign that is in no parentheses or braces.
fn split(tokens: &[String], at: &str) -> Vec<Vec<String>> {
    let mut parts = vec![Vec::new()];
    let mut depth = 0;
    for t in tokens {
        match t.as_str() {
            "(" | "{" | "[" => depth += 1,
            ")" | "}" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 && t == at {
            parts.push(Vec::new());
        } else {
            parts.last_mut().unwrap().push(t.clone());
        }
    }
    parts.retain(|p| !p.is_empty());
    parts
}

fn is_name(token: &str) -> bool {
    const OF_C: [&str; 11] =
        ["void", "char", "short", "int", "long", "unsigned", "signed", "float", "double", "const", "volatile"];
    token.starts_with(|c: char| c.is_alphabetic() || c == '_') && !OF_C.contains(&token)
}

/// Takes the declared name out of a declaration: its place is where the name of a variable stands in C. The type that
/// is left says `struct x` and `x` the same way, as each struct has a typedef of its name.
fn name_and_type(declaration: &[String]) -> (Option<String>, String) {
    let mut d: Vec<String> =
        declaration.iter().filter(|t| !["struct", "union", "enum"].contains(&t.as_str())).cloned().collect();
    let place = match d.iter().position(|t| t == "(") {
        // A pointer to a function: ( * name ) ( .. )
        Some(p) if d.get(p + 1).is_some_and(|t| t == "*") => {
            // The parameters of the function behind it may have names too, which do not matter.
            let end = d.iter().position(|t| t == ")").expect("a parenthesis");
            let list = parameters(&d[end + 1..]);
            d.truncate(end + 1);
            d.push(list);
            d.get(p + 2).filter(|t| is_name(t)).map(|_| p + 2)
        }
        Some(_) => panic!("cannot read {declaration:?}"),
        None => {
            let end = d.iter().position(|t| t == "[").unwrap_or(d.len());
            // `uint32_t` alone is a type; a name has a type before it.
            let typed = end >= 2 && d[..end - 1].iter().any(|t| t != "const");
            (typed && is_name(&d[end - 1])).then(|| end - 1)
        }
    };
    let name = place.map(|p| d.remove(p));
    (name, d.join(" "))
}

/// `( a, b )` as types.
fn parameters(list: &[String]) -> String {
    assert!(list.first().is_some_and(|t| t == "(") && list.last().is_some_and(|t| t == ")"), "cannot read {list:?}");
    let types: Vec<String> = split(&list[1..list.len() - 1], ",").iter().map(|p| name_and_type(p).1).collect();
    format!("({})", types.join(", "))
}

/// The interface that a folder's doorbell.h describes.
fn read(folder: &Path, scratch: &Path) -> Interface {
    let header = folder.join("doorbell.h");
    let run_cc = |flags: &[&str], input: &Path| succeed(cc_for(folder).args(flags).arg(input));
    let mut is = Interface::new();
    // Lines of C that print `key = value`, for what only the compiler knows.
    let mut asked = String::new();

    for line in run_cc(&["-E", "-dM"], &header).lines() {
        let Some(rest) = line.strip_prefix("#define BELL_") else { continue };
        let name = format!("BELL_{}", rest.split_whitespace().next().unwrap());
        assert!(!name.contains('('), "cannot read {line}: a macro with arguments");
        let _ = writeln!(asked, "    VALUE(\"define {name}\", {name});");
    }

    // Only the header's own lines: the preprocessor says which they are.
    let mut own = false;
    let mut text = String::new();
    for line in run_cc(&["-E"], &header).lines() {
        if line.starts_with('#') {
            own = line.contains("doorbell.h\"");
        } else if own {
            text += line;
            text.push('\n');
        }
    }
    let mut rest = &tokens(&text)[..];
    while !rest.is_empty() {
        // A declaration ends by a semicolon outside of braces; a function with a body by its brace.
        let mut depth = 0;
        let end = rest.iter().position(|t| {
            match t.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            depth == 0 && (t == ";" || (t == "}" && rest[0] == "static"))
        });
        let end = end.unwrap_or_else(|| panic!("cannot read {rest:?}"));
        let (declaration, after) = rest.split_at(end + 1);
        rest = after;
        declare(declaration, &mut is, &mut asked);
    }
    assert!(is.keys().any(|k| k.starts_with("function ")), "no function found in {}", header.display());

    let source = scratch.join("ask.c");
    let program = scratch.join("ask");
    fs::write(&source, format!("{ASK}int main(void)\n{{\n{asked}    return 0;\n}}\n")).unwrap();
    succeed(cc_for(folder).arg(&source).arg("-o").arg(&program));
    parse(&succeed(&mut Command::new(&program)), &mut is);
    is
}

fn cc_for(folder: &Path) -> Command {
    let mut c = compiler("CC", "cc");
    c.args(["-std=gnu11", "-w"]);
    c.arg("-I").arg(folder);
    c
}

const ASK: &str = r#"#include <doorbell.h>
#include <stddef.h>
#include <stdio.h>
#define TYPE(x) _Generic((x), int: "int", unsigned: "unsigned", long: "long", unsigned long: "unsigned long", \
    long long: "long long", unsigned long long: "unsigned long long")
#define VALUE(what, x) printf("%s = %s %lld\n", what, TYPE(x), (long long)(x))
#define LAYOUT(type) printf("type %s = size %zu align %zu\n", #type, sizeof(type), _Alignof(type))
#define FIELD(type, field, of) printf("field %s.%s = %s, offset %zu size %zu\n", #type, #field, of, \
    offsetof(type, field), sizeof(((type *)0)->field))
"#;

/// Enters one declaration: by its words, or by a question to the compiler.
fn declare(declaration: &[String], is: &mut Interface, asked: &mut String) {
    let d = &declaration[..declaration.len() - 1];
    let words: Vec<&str> = d.iter().map(String::as_str).collect();
    match words[..] {
        ["typedef", "struct", tag, name] if tag == name => {
            is.insert(format!("opaque {name}"), "struct".into());
        }
        ["typedef", kind @ ("struct" | "union"), _, "{", ref inside @ .., "}", name] => {
            is.insert(format!("kind of {name}"), kind.into());
            let _ = writeln!(asked, "    LAYOUT({name});");
            let inside: Vec<String> = inside.iter().map(|t| t.to_string()).collect();
            for field in split(&inside, ";") {
                let (field, of) = name_and_type(&field);
                let field = field.expect("a field without a name");
                let _ = writeln!(asked, "    FIELD({name}, {field}, \"{of}\");");
            }
        }
        ["typedef", "enum", _, "{", ref inside @ .., "}", name]
        | ["typedef", "enum", "{", ref inside @ .., "}", name] => {
            let _ = writeln!(asked, "    LAYOUT({name});");
            let inside: Vec<String> = inside.iter().map(|t| t.to_string()).collect();
            for value in split(&inside, ",") {
                let _ = writeln!(asked, "    VALUE(\"value {name}.{0}\", {0});", value[0]);
            }
        }
        ["typedef", ..] => {
            let (name, of) = name_and_type(&d[1..]);
            let name = name.unwrap_or_else(|| panic!("cannot read {words:?}"));
            let _ = writeln!(asked, "    LAYOUT({name});");
            is.insert(format!("typedef {name}"), of);
        }
        _ => {
            let inline = words[0] == "static";
            let d = if inline { &d[d.iter().position(|t| t == "inline").expect("static inline") + 1..] } else { d };
            let open = d.iter().position(|t| t == "(").unwrap_or_else(|| panic!("cannot read {words:?}"));
            let mut depth = 0;
            let close = d.iter().position(|t| {
                depth += (t == "(") as i32 - (t == ")") as i32;
                t == ")" && depth == 0
            });
            let close = close.unwrap_or_else(|| panic!("cannot read {words:?}"));
            assert!(inline || close + 1 == d.len(), "cannot read {words:?}");
            let (name, returned) = name_and_type(&d[..open]);
            let name = name.unwrap_or_else(|| panic!("cannot read {words:?}"));
            let kind = if inline { "inline" } else { "function" };
            is.insert(format!("{kind} {name}"), format!("{returned} {}", parameters(&d[open..=close])));
        }
    }
}

fn parse(text: &str, is: &mut Interface) {
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let (what, how) = line.split_once(" = ").unwrap_or_else(|| panic!("cannot read {line}"));
        assert!(is.insert(what.into(), how.into()).is_none(), "twice: {what}");
    }
}

/// What a program that was compiled against `old` would miss or misread, and what is new.
fn compare(old: &Interface, new: &Interface) -> (Vec<String>, Vec<String>) {
    let mut broken = Vec::new();
    let mut added = Vec::new();
    let grew = |how: &str, now: &str| number(now) > number(how);
    for (what, how) in old {
        match new.get(what) {
            None => broken.push(format!("removed: {what} ({how})")),
            Some(now) if now == how => {}
            // The one number that is there to grow.
            Some(now) if what == "define BELL_ABI_MINOR" && grew(how, now) => added.push(format!("{what}: {now}")),
            Some(now) => broken.push(format!("changed: {what}: {how}\n     now: {now}")),
        }
    }
    let in_use = |field: &str| {
        let of = field.strip_prefix("field ").and_then(|f| f.split('.').next());
        of.is_some_and(|of| old.contains_key(&format!("type {of}")))
    };
    for (what, how) in new.iter().filter(|(what, _)| !old.contains_key(*what)) {
        match in_use(what) {
            true => broken.push(format!("changed: a new {what} ({how}) in a struct that is in use")),
            false => added.push(format!("added: {what} ({how})")),
        }
    }
    (broken, added)
}

/// Of `int 7`.
fn number(value: &str) -> Option<i64> {
    value.rsplit(' ').next().unwrap().parse().ok()
}

fn recorded() -> Interface {
    let path = record();
    let mut is = Interface::new();
    parse(&fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())), &mut is);
    is
}

#[test]
fn nothing_that_compiled_programs_rely_on_has_changed() {
    if cfg!(not(target_pointer_width = "64")) {
        return say_skipped("abi", "the record is of 64-bit systems");
    }
    let now = read(&include(), &folder("abi"));
    if env::var_os("BELL_BLESS").is_some() {
        let mut text =
            String::from("# The binary interface, as guard.rs reads it from doorbell.h on 64-bit systems.\n");
        text += "# Written by `make abi-bless`: see docs/versioning.md before you do.\n";
        for (what, how) in &now {
            let _ = writeln!(text, "{what} = {how}");
        }
        fs::write(record(), text).unwrap();
    }
    let (broken, added) = compare(&recorded(), &now);
    for line in &added {
        say(&format!("abi: {line}"));
    }
    assert!(broken.is_empty(), "the binary interface is broken:\n{}", broken.join("\n"));
}

/// The guard read with a changed header: what it finds broken and added.
fn with(name: &str, changes: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let dir = folder(&format!("abi-{name}"));
    let mut header = fs::read_to_string(include().join("doorbell.h")).unwrap();
    for (from, to) in changes {
        assert_eq!(header.matches(from).count(), 1, "{from}: the header has changed, so this test must");
        header = header.replace(from, to);
    }
    fs::write(dir.join("doorbell.h"), header).unwrap();
    let as_is = folder(&format!("abi-{name}-as-is"));
    compare(&read(&include(), &as_is), &read(&dir, &dir))
}

#[track_caller]
fn is_broken(name: &str, changes: &[(&str, &str)], line: &str) {
    let (broken, _) = with(name, changes);
    assert!(broken.iter().any(|b| b.starts_with(line)), "expected {line}, got {broken:#?}");
}

mod selftest {
    use super::*;

    #[test]
    fn a_changed_argument_type_is_seen() {
        is_broken(
            "argument",
            &[(
                "int32_t bell_post(struct bell_t *bell, bell_handle handle, uint32_t bits);",
                "int32_t bell_post(struct bell_t *bell, bell_handle handle, uint64_t bits);",
            )],
            "changed: function bell_post",
        );
    }

    #[test]
    fn a_changed_result_type_is_seen() {
        is_broken("result", &[("int64_t bell_now(", "uint64_t bell_now(")], "changed: function bell_now");
    }

    #[test]
    fn a_reordered_field_is_seen() {
        is_broken(
            "order",
            &[
                ("    uint32_t rd;\n", "    uint32_t x;\n"),
                ("    uint32_t wr;\n", "    uint32_t rd;\n"),
                ("    uint32_t x;\n", "    uint32_t wr;\n"),
            ],
            "changed: field bell_slot.rd",
        );
    }

    #[test]
    fn a_changed_type_of_a_field_of_the_same_size_is_seen() {
        is_broken(
            "field",
            &[("    int64_t slack_ns;", "    uint64_t slack_ns;")],
            "changed: field bell_timeout_spec.slack_ns",
        );
    }

    #[test]
    fn a_changed_callback_type_is_seen() {
        is_broken(
            "callback",
            &[("(*try_putmvar)(int32_t, void*)", "(*try_putmvar)(int64_t, void*)")],
            "changed: field bell_ghc_ops.try_putmvar",
        );
    }

    #[test]
    fn a_field_more_is_seen() {
        is_broken(
            "grown",
            &[("    uint64_t heap_bytes;", "    uint64_t heap_bytes;\n    uint64_t more;")],
            "changed: type bell_counters",
        );
        is_broken(
            "padding",
            &[(
                "    struct bell_target target;\n} bell_fd_spec;",
                "    struct bell_target target;\n    char more[0];\n} bell_fd_spec;",
            )],
            "changed: a new field bell_fd_spec.more",
        );
    }

    #[test]
    fn a_changed_constant_is_seen() {
        is_broken("constant", &[("#define BELL_HUP 16\n", "#define BELL_HUP 17\n")], "changed: define BELL_HUP");
        is_broken("sign", &[("#define BELL_HUP 16\n", "#define BELL_HUP 16u\n")], "changed: define BELL_HUP");
    }

    #[test]
    fn a_removed_define_is_seen() {
        is_broken("define", &[("#define BELL_FEATURE_CLOCKS 16\n", "")], "removed: define BELL_FEATURE_CLOCKS");
    }

    #[test]
    fn a_changed_value_of_an_enum_is_seen() {
        let dir = folder("abi-enum");
        let at = |values: &str| {
            let header = fs::read_to_string(include().join("doorbell.h")).unwrap();
            let header = header.replace(
                "typedef struct bell_t bell_t;",
                &format!("typedef struct bell_t bell_t;\ntypedef enum bell_e {{ {values} }} bell_e;"),
            );
            fs::write(dir.join("doorbell.h"), header).unwrap();
            read(&dir, &dir)
        };
        let (broken, added) = compare(&at("BELL_ONE, BELL_TWO"), &at("BELL_TWO, BELL_ONE, BELL_THREE"));
        assert_eq!(broken.len(), 2, "{broken:#?}");
        assert_eq!(added, ["added: value bell_e.BELL_THREE (int 2)"]);
    }

    #[test]
    fn a_removed_function_is_seen() {
        is_broken(
            "function",
            &[("int32_t bell_wake(struct bell_t *bell, uint32_t shard);\n", "")],
            "removed: function bell_wake",
        );
    }

    #[test]
    fn a_changed_type_of_handles_is_seen() {
        is_broken(
            "typedef",
            &[("typedef uint64_t bell_handle;", "typedef int64_t bell_handle;")],
            "changed: typedef bell_handle",
        );
    }

    #[test]
    fn an_added_function_passes_with_a_note() {
        let (broken, added) = with(
            "added",
            &[(
                "int32_t bell_verify(struct bell_t *bell);",
                "int32_t bell_verify(struct bell_t *bell);\nint32_t bell_more(struct bell_t *bell, uint32_t *n);",
            )],
        );
        assert_eq!(broken, Vec::<String>::new());
        assert_eq!(added, ["added: function bell_more (int32_t (bell_t *, uint32_t *))"]);
    }

    #[test]
    fn the_minor_number_may_only_grow() {
        let (broken, added) = with("minor", &[("#define BELL_ABI_MINOR 1\n", "#define BELL_ABI_MINOR 2\n")]);
        assert_eq!((broken, added), (Vec::new(), vec!["define BELL_ABI_MINOR: int 2".to_owned()]));
        let shrunk = [("#define BELL_ABI_MINOR 1\n", "#define BELL_ABI_MINOR 0\n")];
        is_broken("shrunk", &shrunk, "changed: define BELL_ABI_MINOR");
    }

    #[test]
    fn renamed_parameters_and_comments_are_no_change() {
        let (broken, added) = with(
            "renamed",
            &[(
                "int32_t bell_wake(struct bell_t *bell, uint32_t shard);",
                "int32_t bell_wake(bell_t *b, /* which */ uint32_t);",
            )],
        );
        assert_eq!((broken, added), Default::default());
    }
}
