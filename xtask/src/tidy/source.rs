//! Rust files, parsed, and which of them and of their parts are a test's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proc_macro2::{Delimiter, LineColumn, Span, TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Expr, Lit, Meta, Token};

use super::tree::Tree;

/// A word of code: an identifier, a sign, a literal, or a bracket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) line: usize,
    /// Inside of something under `#[cfg(test)]` or `#[test]`.
    pub(crate) test: bool,
}

/// A file of Rust.
#[derive(Default)]
pub(crate) struct Source {
    pub(crate) words: Vec<Word>,
    /// What the parser made of it.
    pub(crate) file: Option<syn::File>,
    /// The whole file is a test's: it lies in `tests/` or `benches/`, or is a module of such.
    pub(crate) test: bool,
    /// Some crate has it as a module.
    pub(crate) reachable: bool,
    /// What the parser says about it, if it is no Rust.
    pub(crate) error: Option<(usize, String)>,
    pub(crate) modules: Vec<Module>,
    tests: Vec<Range<LineColumn>>,
}

/// A module that lies in another file than the one that declares it.
pub(crate) struct Module {
    /// The names of the inline modules around it, and its own.
    pub(crate) path: Vec<String>,
    /// What `#[path]` says.
    file: Option<String>,
    pub(crate) test: bool,
}

/// All Rust files of the tree.
pub(crate) struct Sources {
    files: BTreeMap<String, Source>,
    /// Where crates begin that are no tests.
    roots: Vec<String>,
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
        let roots = open.iter().filter(|(_, test, _)| !test).map(|(path, ..)| path.clone());
        let roots = roots.collect();
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
        Sources { files, roots }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.files.iter().map(|(path, source)| (path.as_str(), source))
    }

    pub(crate) fn get(&self, path: &str) -> Option<(&str, &Source)> {
        self.files.get_key_value(path).map(|(path, source)| (path.as_str(), source))
    }

    /// Where crates begin that are no tests.
    pub(crate) fn roots(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.roots.iter().filter_map(|path| self.get(path))
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
    // `examples/NAME/main.rs`, `tests/kernel/main.rs`.
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
    pub(crate) fn candidates(&self, from: &str, from_is_root: bool) -> Vec<String> {
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
        let fails = |error: &dyn ToString, span: Span| Some((span.start().line, error.to_string()));
        match text.parse::<TokenStream>() {
            Ok(tokens) => {
                match syn::parse2::<syn::File>(tokens.clone()) {
                    Ok(file) => {
                        let mut look = Look::default();
                        look.visit_file(&file);
                        let Look { modules, tests, .. } = look;
                        source.tests = tests;
                        let modules = modules.into_iter();
                        let modules = modules
                            .map(|(module, span)| Module { test: source.is_test(span), ..module });
                        source.modules = modules.collect();
                        source.file = Some(file);
                    }
                    Err(error) => source.error = fails(&error, error.span()),
                }
                source.push(tokens);
            }
            Err(error) => source.error = fails(&error, error.span()),
        }
        source
    }

    /// Whether this part of the file is a test's, also where the file is not.
    pub(crate) fn is_test(&self, span: Span) -> bool {
        self.is_test_at(span.start())
    }

    fn is_test_at(&self, at: LineColumn) -> bool {
        self.tests.iter().any(|test| test.contains(&at))
    }

    fn push(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => {
                    let (open, close) = match group.delimiter() {
                        Delimiter::Parenthesis => ("(", ")"),
                        Delimiter::Brace => ("{", "}"),
                        Delimiter::Bracket => ("[", "]"),
                        Delimiter::None => ("", ""),
                    };
                    self.word(open.to_owned(), group.span_open());
                    self.push(group.stream());
                    self.word(close.to_owned(), group.span_close());
                }
                other => self.word(other.to_string(), other.span()),
            }
        }
    }

    fn word(&mut self, text: String, span: Span) {
        let at = span.start();
        self.words.push(Word { text, line: at.line, test: self.is_test_at(at) });
    }
}

/// Looks for what is a test's, and for modules.
#[derive(Default)]
struct Look<'a> {
    /// What the attribute that is looked at may be of: the innermost is last.
    around: Vec<&'a dyn Spanned>,
    /// The names of the inline modules that are looked into.
    inside: Vec<String>,
    tests: Vec<Range<LineColumn>>,
    modules: Vec<(Module, Span)>,
}

/// Everything that may have an attribute.
macro_rules! remember {
    ($($visit:ident($node:ty);)*) => {
        $(fn $visit(&mut self, node: &'a $node) {
            self.around.push(node);
            visit::$visit(self, node);
            self.around.pop();
        })*
    };
}

impl<'a> Visit<'a> for Look<'a> {
    remember! {
        visit_arm(syn::Arm);
        visit_expr(Expr);
        visit_field(syn::Field);
        visit_field_value(syn::FieldValue);
        visit_foreign_item(syn::ForeignItem);
        visit_impl_item(syn::ImplItem);
        visit_item(syn::Item);
        visit_stmt(syn::Stmt);
        visit_trait_item(syn::TraitItem);
        visit_variant(syn::Variant);
    }

    fn visit_attribute(&mut self, attribute: &'a syn::Attribute) {
        if !is_test(&attribute.meta) {
            return;
        }
        self.tests.push(match self.around.last() {
            Some(node) => node.span().start()..node.span().end(),
            // `#![cfg(test)]`: the whole file.
            None => LineColumn { line: 0, column: 0 }..LineColumn { line: usize::MAX, column: 0 },
        });
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        self.inside.push(item.ident.to_string());
        if item.content.is_none() {
            let path = self.inside.clone();
            let file = item.attrs.iter().find_map(|attribute| path_of(&attribute.meta));
            self.modules.push((Module { path, file, test: false }, item.ident.span()));
        }
        visit::visit_item_mod(self, item);
        self.inside.pop();
    }
}

/// `test`, and a `cfg` that holds in tests only.
fn is_test(meta: &Meta) -> bool {
    let inner = |list: &syn::MetaList| {
        list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default()
    };
    match meta {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("cfg") || list.path.is_ident("all") => {
            inner(list).iter().any(is_test)
        }
        Meta::List(list) if list.path.is_ident("any") => {
            let inner = inner(list);
            !inner.is_empty() && inner.iter().all(is_test)
        }
        _ => false,
    }
}

/// `path = "file.rs"`.
fn path_of(meta: &Meta) -> Option<String> {
    let Meta::NameValue(meta) = meta else { return None };
    match &meta.value {
        Expr::Lit(syn::ExprLit { lit: Lit::Str(file), .. }) if meta.path.is_ident("path") => {
            Some(file.value())
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
    fn a_part_of_an_item_can_be_a_tests() {
        let text = "struct S { #[cfg(test)] t1: u8, t2: u8 }\n\
            fn f(s: S) { #[cfg(test)] t3(); t4();\n\
            match s { #[cfg(test)] _ if t5 => {} _ => t6() } S { #[cfg(test)] t1: 1, t2: t7 } }\n\
            impl S { #[cfg(test)] const T: u8 = t8; } trait T { #[cfg(test)] fn t9(); fn t10(); }";
        let words = test_words(text);
        let words: Vec<_> = words.iter().filter(|word| *word != "test").collect();
        assert_eq!(words, ["t1", "t3", "t5", "t1", "t8", "t9"]);
        assert!(Source::parse("#![cfg(test)] fn f() {}").words.iter().all(|word| word.test));
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
