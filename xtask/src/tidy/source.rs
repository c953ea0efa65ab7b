//! Rust files as words, and which of them are a test's: no regular expression over raw text can
//! tell code from a comment, a string, or a module under `#[cfg(test)]`.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::Tree;

/// A word of code: an identifier, a sign, a literal, or a bracket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) line: usize,
    /// Inside an item under `#[cfg(test)]` or `#[test]`.
    pub(crate) test: bool,
}

/// A file of Rust.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) words: Vec<Word>,
    /// The whole file is a test's: it lies in `tests/` or `benches/`, or is a module of such.
    pub(crate) test: bool,
    /// Some crate has it as a module.
    pub(crate) reachable: bool,
    /// What the tokenizer says about it, if it is no Rust.
    pub(crate) error: Option<(usize, String)>,
    modules: Vec<Module>,
}

#[derive(Debug)]
struct Module {
    /// The names of the inline modules around it, and its own.
    path: Vec<String>,
    /// What `#[path]` says.
    file: Option<String>,
    test: bool,
}

/// All Rust files of the tree.
pub(crate) struct Sources {
    files: BTreeMap<String, Source>,
}

impl Sources {
    pub(crate) fn read(tree: &Tree) -> Sources {
        let mut files: BTreeMap<_, _> =
            tree.rust().map(|(path, text)| (path.to_owned(), Source::parse(text))).collect();
        let mut reached = BTreeSet::new();
        let mut open: Vec<(String, bool, bool)> = files
            .keys()
            .filter_map(|path| root(tree, path).map(|test| (path.clone(), test, true)))
            .collect();
        while let Some((path, test, is_root)) = open.pop() {
            let Some(source) = files.get_mut(&path) else { continue };
            // A file that is both a test's and not is judged as not.
            let first = reached.insert(path.clone());
            if !first && (test || !source.test) {
                continue;
            }
            source.reachable = true;
            source.test = test;
            for module in &source.modules {
                for candidate in module.candidates(&path, is_root) {
                    open.push((candidate, test || module.test, false));
                }
            }
        }
        Sources { files }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.files.iter().map(|(path, source)| (path.as_str(), source))
    }
}

/// Whether a file is where a crate begins, and if so whether that crate is a test.
fn root(tree: &Tree, path: &str) -> Option<bool> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let package = |dir: &str| tree.get(&format!("{dir}/Cargo.toml")).is_some();
    let (parent, last) = dir.rsplit_once('/').unwrap_or(("", dir));
    match (last, name) {
        ("src", "lib.rs" | "main.rs") if package(parent) => return Some(false),
        ("tests" | "benches", _) if package(parent) => return Some(true),
        ("examples" | "fuzz_targets", _) if package(parent) => return Some(false),
        (_, "build.rs") if package(dir) => return Some(false),
        _ => {}
    }
    if let Some(package_dir) = dir.strip_suffix("/src/bin") {
        return package(package_dir).then_some(false);
    }
    // `examples/soak/main.rs`, `tests/matrix/main.rs`.
    if name == "main.rs" {
        let (package_dir, kind) = parent.rsplit_once('/').unwrap_or(("", parent));
        let test = kind == "tests" || kind == "benches";
        return ((test || kind == "examples") && package(package_dir)).then_some(test);
    }
    let (package_dir, _) = path.split_once("/tests/")?;
    let inside = path.strip_prefix(package_dir)?.trim_start_matches('/');
    // Programs that the manifest places: `path = "tests/timing/kernel.rs"`.
    let manifest = tree.get(&format!("{package_dir}/Cargo.toml")).unwrap_or_default();
    if manifest.lines().any(|line| line.trim() == format!("path = \"{inside}\"")) {
        return Some(true);
    }
    // Programs that a test hands to the compiler: `compile_fail("tests/ui/*.rs")`.
    let named = |text: &str| {
        text.split('"').filter(|literal| literal.starts_with("tests/")).any(|literal| match literal
            .split_once('*')
        {
            Some((before, after)) => inside.starts_with(before) && inside.ends_with(after),
            None => inside == literal,
        })
    };
    let tests = format!("{package_dir}/tests/");
    let handed = tree.rust().any(|(path, text)| path.starts_with(&tests) && named(text));
    handed.then_some(true)
}

impl Module {
    /// Where the file of this module, which `from` declares, may lie.
    fn candidates(&self, from: &str, from_is_root: bool) -> Vec<String> {
        let (dir, name) = from.rsplit_once('/').unwrap_or(("", from));
        if let Some(file) = &self.file {
            return vec![format!("{dir}/{file}")];
        }
        let stem = name.trim_end_matches(".rs");
        let base = if from_is_root || stem == "mod" { dir.to_owned() } else { join(dir, stem) };
        let module = join(&base, &self.path.join("/"));
        vec![format!("{module}.rs"), format!("{module}/mod.rs")]
    }
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

impl Source {
    pub(crate) fn parse(text: &str) -> Source {
        let mut source = Source::default();
        match text.parse::<TokenStream>() {
            Ok(tokens) => source.walk(tokens, false, &[]),
            Err(error) => {
                source.error = Some((error.span().start().line, error.to_string()));
            }
        }
        source
    }

    fn walk(&mut self, tokens: TokenStream, outer_test: bool, inside: &[String]) {
        let mut test = outer_test;
        let mut file = None;
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if let Some((inner, attribute, length)) = attribute(&tokens[at..]) {
                let words = idents(attribute.clone());
                test |= is_test(&words);
                if inner && is_test(&words) {
                    // `#![cfg(test)]`: everything here.
                    return self.rest(&tokens, true, inside);
                }
                file = path_of(attribute).or(file);
                for token in &tokens[at..at + length] {
                    self.push(token, test, inside);
                }
                at += length;
                continue;
            }
            if let Some(name) = module_name(&tokens[at..]) {
                let mut path = inside.to_vec();
                path.push(name.clone());
                match &tokens[at + 2] {
                    TokenTree::Group(body) => {
                        self.push(&tokens[at], test, inside);
                        self.push(&tokens[at + 1], test, inside);
                        self.walk(body.stream(), test, &path);
                    }
                    _ => self.modules.push(Module { path, file: file.take(), test }),
                }
                at += 3;
                (test, file) = (outer_test, None);
                continue;
            }
            let token = &tokens[at];
            self.push(token, test, inside);
            at += 1;
            // The end of an item, and of what its attributes say.
            let ends = match token {
                TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                TokenTree::Punct(sign) => sign.as_char() == ';',
                _ => false,
            };
            if ends {
                (test, file) = (outer_test, None);
            }
        }
    }

    fn rest(&mut self, tokens: &[TokenTree], test: bool, inside: &[String]) {
        for token in tokens {
            self.push(token, test, inside);
        }
    }

    fn push(&mut self, token: &TokenTree, test: bool, inside: &[String]) {
        let word = |text: &str, line| Word { text: text.to_owned(), line, test };
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                self.words.push(word(open, group.span_open().start().line));
                self.walk(group.stream(), test, inside);
                self.words.push(word(close, group.span_close().start().line));
            }
            other => self.words.push(word(&other.to_string(), other.span().start().line)),
        }
    }
}

/// `#[…]` or `#![…]` at the front: whether it is the inner one, what is in it, and its length.
fn attribute(tokens: &[TokenTree]) -> Option<(bool, TokenStream, usize)> {
    let is = |token: Option<&TokenTree>, sign: char| match token {
        Some(TokenTree::Punct(punct)) => punct.as_char() == sign,
        _ => false,
    };
    if !is(tokens.first(), '#') {
        return None;
    }
    let inner = is(tokens.get(1), '!');
    let at = if inner { 2 } else { 1 };
    match tokens.get(at)? {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => {
            Some((inner, group.stream(), at + 1))
        }
        _ => None,
    }
}

/// `mod name` at the front, with a body or a file of its own.
fn module_name(tokens: &[TokenTree]) -> Option<String> {
    let [TokenTree::Ident(keyword), TokenTree::Ident(name), after, ..] = tokens else {
        return None;
    };
    let body = match after {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(sign) => sign.as_char() == ';',
        _ => false,
    };
    (keyword == "mod" && body).then(|| name.to_string())
}

fn idents(tokens: TokenStream) -> Vec<String> {
    let mut words = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => words.extend(idents(group.stream())),
            TokenTree::Ident(ident) => words.push(ident.to_string()),
            _ => {}
        }
    }
    words
}

/// `test`, `cfg(test)`, `cfg(all(test, …))`; not `cfg(not(test))`.
fn is_test(words: &[String]) -> bool {
    match words.first().map(String::as_str) {
        Some("test") => true,
        Some("cfg") => {
            let test = words.iter().position(|word| word == "test");
            test.is_some_and(|at| words[at - 1] != "not" && !words.contains(&"any".to_owned()))
        }
        _ => false,
    }
}

/// `path = "file.rs"`.
fn path_of(attribute: TokenStream) -> Option<String> {
    let mut tokens = attribute.into_iter();
    match (tokens.next()?, tokens.next()?, tokens.next()?) {
        (TokenTree::Ident(name), TokenTree::Punct(_), TokenTree::Literal(file))
            if name == "path" =>
        {
            Some(file.to_string().trim_matches('"').to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_words(text: &str) -> Vec<String> {
        let words = Source::parse(text).words.into_iter();
        words.filter(|word| word.test && word.text.starts_with('t')).map(|w| w.text).collect()
    }

    #[test]
    fn what_is_a_tests_is_known() {
        let text = "use t0; #[cfg(test)] use t1::{t2}; fn f() { t3() }\n\
            #[test] fn t4() { t5() } #[cfg(not(test))] fn t6() {} #[cfg(any(test, x))] fn t7() {}\n\
            #[cfg(all(test, loom))] mod t8 { fn t9() { t10 } } struct S { t11: u8 }";
        let words = test_words(text);
        let words: Vec<_> = words.iter().filter(|word| *word != "test").collect();
        assert_eq!(words, ["t1", "t2", "t4", "t5", "t8", "t9", "t10"]);
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        let source = Source::parse(
            "// unsafe\n/* unsafe */ const A: &str = \"unsafe\"; /// unsafe\nfn f() {}",
        );
        assert!(source.words.iter().all(|word| word.text != "unsafe"));
        assert_eq!(source.words.last().map(|word| word.line), Some(3));
    }

    #[test]
    fn modules_are_followed() {
        let tree = Tree::of(&[
            ("a/Cargo.toml", "[[test]]\nname = \"slow\"\npath = \"tests/timing/slow.rs\"\n"),
            (
                "a/src/lib.rs",
                "mod b; mod c { mod d; } #[path = \"odd.rs\"] mod e; #[cfg(test)] mod t;",
            ),
            ("a/src/b.rs", "mod x;"),
            ("a/src/b/x.rs", ""),
            ("a/src/c/d.rs", ""),
            ("a/src/odd.rs", ""),
            ("a/src/t/mod.rs", "mod u;"),
            ("a/src/t/u.rs", ""),
            ("a/src/dead.rs", ""),
            ("a/tests/it.rs", "#[test] fn ui() { t.compile_fail(\"tests/ui/*.rs\"); } mod help;"),
            ("a/tests/help.rs", ""),
            ("a/tests/ui/no.rs", ""),
            ("a/tests/other/no.rs", ""),
            ("a/tests/timing/slow.rs", "mod more;"),
            ("a/tests/timing/more.rs", ""),
            ("a/examples/soak/main.rs", "mod y;"),
            ("a/examples/soak/y.rs", ""),
        ]);
        let sources = Sources::read(&tree);
        let dead: Vec<_> =
            sources.iter().filter(|(_, s)| !s.reachable).map(|(path, _)| path).collect();
        assert_eq!(dead, ["a/src/dead.rs", "a/tests/other/no.rs"]);
        let test: Vec<_> = sources.iter().filter(|(_, s)| s.test).map(|(path, _)| path).collect();
        assert_eq!(
            test,
            [
                "a/src/t/mod.rs",
                "a/src/t/u.rs",
                "a/tests/help.rs",
                "a/tests/it.rs",
                "a/tests/timing/more.rs",
                "a/tests/timing/slow.rs",
                "a/tests/ui/no.rs"
            ]
        );
    }
}
