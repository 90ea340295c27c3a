//! All mutants in one build: what cargo-mutants would write in place of a text is put beside it, and a number in the
//! environment chooses. So a mutant costs no compilation.
//!
//! usage: weave LIST ROOT TREE [NUMBER...]
//!
//! LIST: what `cargo mutants --list --json` says. A mutant's number is its place there. ROOT: where the sources are.
//! TREE: where they are written to. NUMBER: mutants to leave out. Prints the numbers of those that it cannot write:
//! what is computed when the program is compiled cannot be chosen when it runs.
//!
//! Each alternative stands between `/*m17*/` and `/*m*/`: so an error of the compiler says whose it is.
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// The start, and the end the other way round: of two that begin together the longer one is first.
type Order = (usize, std::cmp::Reverse<usize>);

/// What is put in place of a text.
enum Edit {
    /// An expression, or another one in its place.
    Instead(Vec<(usize, String)>),
    /// Something more before it: numbers and texts.
    Before(Vec<(usize, String)>),
}

struct Mutant {
    number: usize,
    genre: String,
    span: Range<usize>,
    replacement: String,
}

struct File<'a> {
    text: &'a str,
    /// By where the text begins.
    mutants: BTreeMap<usize, Vec<&'a Mutant>>,
    /// Texts that are computed by the compiler.
    constant: Vec<Range<usize>>,
    edits: BTreeMap<Order, Edit>,
    /// Of the matches that we are in: is there an arm for whatever the others leave?
    can_skip_arms: Vec<bool>,
}

impl<'a> File<'a> {
    fn at(&self, start: usize, genre: &str) -> Vec<&'a Mutant> {
        let here = self.mutants.get(&start).map_or(&[][..], |m| m);
        here.iter().copied().filter(|m| m.genre == genre).collect()
    }
    fn put(&mut self, range: Range<usize>, edit: Edit) {
        self.edits.insert((range.start, std::cmp::Reverse(range.end)), edit);
    }
    fn instead(&mut self, range: Range<usize>, of: impl IntoIterator<Item = (usize, String)>) {
        let alternatives: Vec<_> = of.into_iter().collect();
        if !alternatives.is_empty() {
            self.put(range, Edit::Instead(alternatives));
        }
    }

    fn emit(&self, range: Range<usize>, within: Option<Order>, out: &mut String) {
        let mut at = range.start;
        for (order @ (start, std::cmp::Reverse(end)), edit) in &self.edits {
            if *start < at || *end > range.end || within.is_some_and(|w| *order <= w) {
                continue;
            }
            out.push_str(&self.text[at..*start]);
            at = *end;
            match edit {
                Edit::Before(texts) => texts.iter().for_each(|(_, t)| out.push_str(t)),
                Edit::Instead(alternatives) => {
                    // In parentheses, because a statement may begin here, and `{ a } < b` is none.
                    out.push('(');
                    for (n, t) in alternatives {
                        write!(out, "if crate::mutants::on({n}) {{ (/*m{n}*/ {t} /*m*/) }} else ").unwrap();
                    }
                    out.push_str("{ (");
                    self.emit(*start..*end, Some(*order), out);
                    out.push_str(") })");
                }
            }
        }
        out.push_str(&self.text[at..range.end]);
    }
}

fn range(of: &impl Spanned) -> Range<usize> {
    of.span().byte_range()
}

fn has_let(e: &syn::Expr) -> bool {
    match e {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(b) => has_let(&b.left) || has_let(&b.right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for File<'_> {
    fn visit_item_const(&mut self, i: &'ast syn::ItemConst) {
        self.constant.push(range(i));
    }
    fn visit_impl_item_const(&mut self, i: &'ast syn::ImplItemConst) {
        self.constant.push(range(i));
    }
    fn visit_item_static(&mut self, i: &'ast syn::ItemStatic) {
        self.constant.push(range(i));
    }
    fn visit_expr_const(&mut self, i: &'ast syn::ExprConst) {
        self.constant.push(range(i));
    }
    fn visit_type_array(&mut self, i: &'ast syn::TypeArray) {
        self.constant.push(range(&i.len));
    }
    fn visit_expr_repeat(&mut self, i: &'ast syn::ExprRepeat) {
        self.constant.push(range(&i.len));
        self.visit_expr(&i.expr);
    }
    fn visit_item_fn(&mut self, i: &'ast syn::ItemFn) {
        if i.sig.constness.is_some() {
            return self.constant.push(range(i));
        }
        visit::visit_item_fn(self, i);
    }
    fn visit_impl_item_fn(&mut self, i: &'ast syn::ImplItemFn) {
        if i.sig.constness.is_some() {
            return self.constant.push(range(i));
        }
        visit::visit_impl_item_fn(self, i);
    }

    fn visit_expr_binary(&mut self, i: &'ast syn::ExprBinary) {
        let (whole, op) = (range(i), range(&i.op));
        let text = self.text;
        // `let` in a condition cannot be put in parentheses.
        if !has_let(&i.left) && !has_let(&i.right) {
            let mutants = self.at(op.start, "BinaryOperator");
            let before = &text[whole.start..op.start];
            let after = &text[op.end..whole.end];
            self.instead(whole.clone(), mutants.iter().map(|m| (m.number, format!("{before}{}{after}", m.replacement))));
        }
        visit::visit_expr_binary(self, i);
    }
    fn visit_expr_unary(&mut self, i: &'ast syn::ExprUnary) {
        let mutants = self.at(range(&i.op).start, "UnaryOperator");
        let operand = &self.text[range(&i.expr)];
        self.instead(range(i), mutants.iter().map(|m| (m.number, operand.to_owned())));
        visit::visit_expr_unary(self, i);
    }
    fn visit_expr_match(&mut self, i: &'ast syn::ExprMatch) {
        // An arm with a condition covers nothing.
        let rest = i.arms.iter().any(|a| matches!(a.pat, syn::Pat::Wild(_)) && a.guard.is_none());
        self.can_skip_arms.push(rest);
        visit::visit_expr_match(self, i);
        self.can_skip_arms.pop();
    }
    fn visit_arm(&mut self, i: &'ast syn::Arm) {
        let arms = if self.can_skip_arms.last() == Some(&true) { self.at(range(i).start, "MatchArm") } else { vec![] };
        for m in arms {
            let end = range(&i.pat).end;
            let n = m.number;
            self.put(end..end, Edit::Before(vec![(n, format!(" if /*m{n}*/ !crate::mutants::on({n}) /*m*/"))]));
        }
        if let Some((_, guard)) = &i.guard {
            let mutants = self.at(range(guard).start, "MatchArmGuard");
            // Not parentheses in parentheses of the guard's own edit: one of them is of the same text then.
            let place = range(guard);
            let same = self.edits.contains_key(&(place.start, std::cmp::Reverse(place.end)));
            assert!(!same);
            self.visit_expr(guard);
            let order = (place.start, std::cmp::Reverse(place.end));
            let alternatives = mutants.iter().map(|m| (m.number, m.replacement.clone()));
            match self.edits.get_mut(&order) {
                Some(Edit::Instead(of)) => of.extend(alternatives),
                _ => self.instead(place, alternatives),
            }
        }
        self.visit_pat(&i.pat);
        self.visit_expr(&i.body);
    }
    fn visit_expr_struct(&mut self, i: &'ast syn::ExprStruct) {
        visit::visit_expr_struct(self, i);
        let Some(base) = &i.rest else { return };
        for field in &i.fields {
            let syn::Member::Named(name) = &field.member else { continue };
            let place = range(field);
            for m in self.at(place.start, "StructField") {
                let n = m.number;
                let text = format!("({}).{name}", &self.text[range(base)]);
                let value = range(&field.expr);
                if field.colon_token.is_none() {
                    let end = place.end;
                    let more = format!(": (if crate::mutants::on({n}) {{ /*m{n}*/ {text} /*m*/ }} else {{ {name} }})");
                    self.put(end..end, Edit::Before(vec![(n, more)]));
                } else if let Some(Edit::Instead(of)) =
                    self.edits.get_mut(&(value.start, std::cmp::Reverse(value.end)))
                {
                    of.push((n, text));
                } else {
                    self.instead(value, [(n, text)]);
                }
            }
        }
    }
    fn visit_block(&mut self, i: &'ast syn::Block) {
        if let Some(first) = i.stmts.first() {
            let start = range(first).start;
            let values = self.at(start, "FnValue");
            let end = i.stmts.last().map_or(start, |s| range(s).end);
            let values: Vec<_> = values.iter().filter(|m| m.span == (start..end)).collect();
            if !values.is_empty() {
                let text = |m: &&&Mutant| {
                    let n = m.number;
                    (n, format!("if crate::mutants::on({n}) {{ /*m{n}*/ return {}; /*m*/ }}\n", m.replacement))
                };
                self.put(i.brace_token.span.open().byte_range().end..i.brace_token.span.open().byte_range().end,
                    Edit::Before(values.iter().map(text).collect()));
            }
        }
        visit::visit_block(self, i);
    }
}

/// Lines and columns (both from 1, columns in characters) to a place in the text.
fn place(text: &str, lines: &[usize], at: &Value) -> usize {
    let number = |of: &str| at[of].as_u64().expect("a position") as usize;
    let start = lines[number("line") - 1];
    let line = &text[start..];
    start + line.char_indices().nth(number("column") - 1).map_or(line.len(), |(i, _)| i)
}

/// `-> impl Iterator` is one type, and not another one in its place.
fn returns_hidden_type(m: &Value) -> bool {
    m["genre"] == "FnValue" && m["function"]["return_type"].as_str().is_some_and(|t| t.contains("impl "))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [list, root, tree, left_out @ ..] = &args[..] else { panic!("usage: weave LIST ROOT TREE [NUMBER...]") };
    let left_out: BTreeSet<usize> = left_out.iter().map(|n| n.parse().expect("a number")).collect();
    let list: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(list).expect("LIST")).expect("JSON");
    let mut files: BTreeMap<&str, Vec<(usize, &Value)>> = BTreeMap::new();
    for (n, m) in list.iter().enumerate() {
        files.entry(m["file"].as_str().expect("a file")).or_default().push((n, m));
    }
    let mut written = BTreeSet::new();
    for (name, of) in files {
        let text = std::fs::read_to_string(format!("{root}/{name}")).expect("a source file");
        let lines: Vec<usize> = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        let mutants: Vec<Mutant> = of
            .iter()
            .filter(|(n, m)| !left_out.contains(n) && !returns_hidden_type(m))
            .map(|(n, m)| Mutant {
                number: *n,
                genre: m["genre"].as_str().expect("a genre").to_owned(),
                span: place(&text, &lines, &m["span"]["start"])..place(&text, &lines, &m["span"]["end"]),
                replacement: m["replacement"].as_str().expect("a replacement").to_owned(),
            })
            .collect();
        let mut file =
            File { text: &text, mutants: BTreeMap::new(), constant: Vec::new(), edits: BTreeMap::new(), can_skip_arms: vec![] };
        for m in &mutants {
            file.mutants.entry(m.span.start).or_default().push(m);
        }
        file.visit_file(&syn::parse_file(&text).expect("Rust"));
        let constant = std::mem::take(&mut file.constant);
        file.edits.retain(|(start, _), _| !constant.iter().any(|c| c.contains(start)));
        for edit in file.edits.values() {
            let (Edit::Instead(of) | Edit::Before(of)) = edit;
            written.extend(of.iter().map(|(n, _)| *n));
        }
        let mut out = String::new();
        file.emit(0..text.len(), None, &mut out);
        std::fs::write(format!("{tree}/{name}"), out).expect("TREE");
    }
    for n in (0..list.len()).filter(|n| !written.contains(n)) {
        println!("{n}");
    }
}
