//! What the names in the code mean: which file takes what from which other.
//!
//! A name is followed through modules, imports and re-exports to the file that defines it, so that
//! a file which only declares modules and re-exports has nothing that anybody could take. Left out
//! are tests, and what takes more than names to know: methods, and what a macro makes.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Spacing, TokenStream, TokenTree};
use syn::UseTree;
use syn::visit::{self, Visit};

use super::packages::Packages;
use super::source::{Source, Sources};

/// What all files take.
#[derive(Default)]
pub(crate) struct Names {
    /// By the file that takes and the one that defines.
    pub(crate) arrows: BTreeMap<(String, String), Taken>,
    /// What is taken from outside of the workspace.
    pub(crate) outside: Vec<Outside>,
}

/// What one file takes from another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Where the first of it is named.
    pub(crate) line: usize,
    pub(crate) names: BTreeSet<String>,
}

/// A path that leaves the workspace.
pub(crate) struct Outside {
    pub(crate) file: String,
    pub(crate) line: usize,
    /// From the crate's name on: `std::time::Instant::now`.
    pub(crate) path: String,
    /// All that is under this path: `std::time::*`.
    pub(crate) all: bool,
}

/// A module, wherever it lies.
struct Scope<'a> {
    file: &'a str,
    root: usize,
    parent: Option<usize>,
    names: BTreeMap<String, Vec<Meaning<'a>>>,
    /// Which of the imports bring all of something.
    globs: Vec<usize>,
}

/// What a name stands for. It may stand for several things at once: a module and a function.
#[derive(Clone, Copy)]
enum Meaning<'a> {
    Scope(usize),
    Item(&'a str),
    Import(usize),
}

/// A path as it is written somewhere.
struct Written {
    scope: usize,
    line: usize,
    path: Vec<String>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Import,
    Glob,
    Code,
    /// A macro's name, which is also that of macros which were defined further up.
    Macro,
}

/// What a path leads to.
#[derive(Clone, PartialEq, Eq)]
enum Found<'a> {
    Scope(usize),
    Item { file: &'a str, name: String },
    Outside(String),
}

/// All modules of all crates.
#[derive(Default)]
struct House<'a> {
    scopes: Vec<Scope<'a>>,
    imports: Vec<Written>,
    code: Vec<Written>,
    /// The libraries of the workspace, by the names that code has for them.
    libraries: BTreeMap<String, usize>,
}

impl Names {
    pub(crate) fn read(sources: &Sources, packages: &Packages) -> Names {
        let mut house = House::default();
        for (path, source) in sources.roots() {
            let root = house.scopes.len();
            house.enter(path, None, root);
            house.read(sources, path, source, root);
            let library = |dir: &str| path.strip_prefix(dir) == Some("/src/lib.rs");
            if let Some(package) = packages.of(path).filter(|package| library(&package.dir)) {
                house.libraries.insert(package.name.replace('-', "_"), root);
            }
        }
        let mut names = Names::default();
        for written in house.imports.iter().chain(&house.code) {
            names.follow(&house, written);
        }
        names
    }

    fn follow(&mut self, house: &House, written: &Written) {
        let from = house.scopes[written.scope].file;
        for found in house.meant(written) {
            let (file, name) = match found {
                Found::Item { file, name } => (file, name),
                Found::Scope(scope) if written.kind == Kind::Glob => {
                    (house.scopes[scope].file, "*".to_owned())
                }
                // What is in the module, and is taken, is named elsewhere.
                Found::Scope(_) => continue,
                Found::Outside(path) => {
                    let (file, all) = (from.to_owned(), written.kind == Kind::Glob);
                    self.outside.push(Outside { file, line: written.line, path, all });
                    continue;
                }
            };
            if file == from {
                continue;
            }
            let taken = self.arrows.entry((from.to_owned(), file.to_owned())).or_default();
            if taken.names.is_empty() || written.line < taken.line {
                taken.line = written.line;
            }
            taken.names.insert(name);
        }
    }
}

impl<'a> House<'a> {
    fn enter(&mut self, file: &'a str, parent: Option<usize>, root: usize) -> usize {
        let (names, globs) = (BTreeMap::new(), Vec::new());
        self.scopes.push(Scope { file, root, parent, names, globs });
        self.scopes.len() - 1
    }

    fn read(&mut self, sources: &'a Sources, path: &'a str, source: &'a Source, scope: usize) {
        let is_root = self.scopes[scope].parent.is_none();
        let inside = Vec::new();
        if let Some(file) = &source.file {
            Reading { house: self, sources, path, source, is_root, scope, inside }.visit_file(file);
        }
    }

    fn define(&mut self, scope: usize, name: String, meaning: Meaning<'a>) {
        self.scopes[scope].names.entry(name).or_default().push(meaning);
    }

    /// What a path means where it is written.
    fn meant(&self, written: &Written) -> Vec<Found<'a>> {
        let scope = &self.scopes[written.scope];
        let single = written.kind == Kind::Code && written.path.len() == 1;
        match written.path.as_slice() {
            // Either it was defined here, or an import has told of it, or it is a variable: but for
            // imports that bring all.
            [name] if single && scope.names.contains_key(name) => Vec::new(),
            [name] if single => self.by_globs(written.scope, name, &mut Vec::new()),
            [name] if written.kind == Kind::Macro => {
                let mut at = Some(written.scope);
                while let Some(scope) = at {
                    let found = self.look_up(scope, name, &mut Vec::new());
                    if found.iter().any(|found| !matches!(found, Found::Scope(_))) {
                        return found;
                    }
                    at = self.scopes[scope].parent;
                }
                Vec::new()
            }
            path => self.walk(written.scope, path, &mut Vec::new()),
        }
    }

    /// What a path leads to. `via` has the imports that are being followed.
    fn walk(&self, scope: usize, path: &[String], via: &mut Vec<usize>) -> Vec<Found<'a>> {
        let Some((first, rest)) = path.split_first() else { return Vec::new() };
        let mut found = match first.as_str() {
            "crate" => vec![Found::Scope(self.scopes[scope].root)],
            "self" => vec![Found::Scope(scope)],
            "super" => self.scopes[scope].parent.map(Found::Scope).into_iter().collect(),
            // A path from a crate's name on.
            "" => Vec::new(),
            name => self.look_up(scope, name, via),
        };
        let outside = found.is_empty();
        let (first, rest) = match (first.as_str(), rest.split_first()) {
            ("", Some((first, rest))) => (first, rest),
            _ => (first, rest),
        };
        if outside {
            found.push(match self.libraries.get(first) {
                Some(library) => Found::Scope(*library),
                None => Found::Outside(first.clone()),
            });
        }
        for name in rest {
            // What a module and something else are called is the module, if it goes on.
            if found.iter().any(|found| matches!(found, Found::Scope(_))) {
                found.retain(|found| matches!(found, Found::Scope(_)));
            }
            let steps = found.into_iter().flat_map(|found| match found {
                Found::Scope(scope) => match name.as_str() {
                    "super" => self.scopes[scope].parent.map(Found::Scope).into_iter().collect(),
                    "self" => vec![Found::Scope(scope)],
                    name => self.look_up(scope, name, via),
                },
                Found::Outside(path) => vec![Found::Outside(format!("{path}::{name}"))],
                // A variant, a constant, a function of a type.
                item @ Found::Item { .. } => vec![item],
            });
            found = steps.collect();
        }
        found
    }

    /// What a module calls by this name.
    fn look_up(&self, scope: usize, name: &str, via: &mut Vec<usize>) -> Vec<Found<'a>> {
        let Some(meanings) = self.scopes[scope].names.get(name) else {
            return self.by_globs(scope, name, via);
        };
        let mut found = Vec::new();
        for meaning in meanings {
            match *meaning {
                Meaning::Scope(scope) => found.push(Found::Scope(scope)),
                Meaning::Item(file) => found.push(Found::Item { file, name: name.to_owned() }),
                Meaning::Import(import) => found.extend(self.import(import, via)),
            }
        }
        let mut once: Vec<Found> = Vec::new();
        for one in found {
            if !once.contains(&one) {
                once.push(one);
            }
        }
        once
    }

    fn by_globs(&self, scope: usize, name: &str, via: &mut Vec<usize>) -> Vec<Found<'a>> {
        let mut found = Vec::new();
        for glob in &self.scopes[scope].globs {
            for source in self.import(*glob, via) {
                if let Found::Scope(scope) = source {
                    via.push(*glob);
                    found.extend(self.look_up(scope, name, via));
                    via.pop();
                }
            }
        }
        found
    }

    fn import(&self, import: usize, via: &mut Vec<usize>) -> Vec<Found<'a>> {
        if via.contains(&import) {
            return Vec::new();
        }
        let Written { scope, path, .. } = &self.imports[import];
        via.push(import);
        let found = self.walk(*scope, path, via);
        via.pop();
        found
    }
}

/// Reads one file into the house, and the files of its modules.
struct Reading<'a, 'h> {
    house: &'h mut House<'a>,
    sources: &'a Sources,
    path: &'a str,
    source: &'a Source,
    is_root: bool,
    scope: usize,
    /// The names of the inline modules around.
    inside: Vec<String>,
}

impl<'a> Reading<'a, '_> {
    fn define(&mut self, name: &syn::Ident) {
        if !self.source.is_test(name.span()) {
            self.house.define(self.scope, name.to_string(), Meaning::Item(self.path));
        }
    }

    fn import(&mut self, tree: &UseTree, before: &[String]) {
        let mut path = before.to_vec();
        let (name, last) = match tree {
            UseTree::Path(tree) => {
                path.push(tree.ident.to_string());
                return self.import(&tree.tree, &path);
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.import(tree, before));
            }
            UseTree::Name(tree) => (Some(&tree.ident), Some(&tree.ident)),
            UseTree::Rename(tree) => (Some(&tree.rename), Some(&tree.ident)),
            UseTree::Glob(_) => (None, None),
        };
        let line = syn::spanned::Spanned::span(tree).start().line;
        // `use a::b::{self}` is `use a::b`.
        let own = last.is_some_and(|last| last == "self") && !path.is_empty();
        path.extend(last.filter(|_| !own).map(ToString::to_string));
        let import = self.house.imports.len();
        let kind = match name {
            Some(name) => {
                let name = if own && name == "self" {
                    path.last().cloned().unwrap_or_default()
                } else {
                    name.to_string()
                };
                self.house.define(self.scope, name, Meaning::Import(import));
                Kind::Import
            }
            None => {
                self.house.scopes[self.scope].globs.push(import);
                Kind::Glob
            }
        };
        self.house.imports.push(Written { scope: self.scope, line, path, kind });
    }

    fn code(&mut self, path: Vec<String>, line: usize, kind: Kind) {
        self.house.code.push(Written { scope: self.scope, line, path, kind });
    }

    /// The paths among a macro's tokens: names with `::` between them.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = Vec::new();
        let (mut line, mut signs, mut field) = (0, String::new(), false);
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if signs == "::" && !path.is_empty() {
                        path.push(name.to_string());
                    } else {
                        self.end(&mut path, line, field);
                        field = signs == ".";
                        path.push(name.to_string());
                        line = name.span().start().line;
                    }
                    signs.clear();
                }
                TokenTree::Punct(sign) => {
                    signs.push(sign.as_char());
                    let joint = sign.spacing() == Spacing::Joint;
                    if signs == "!" && !joint && !field && path.len() == 1 {
                        self.code(std::mem::take(&mut path), line, Kind::Macro);
                    } else if !(signs == "::" || signs == ":" && joint) {
                        self.end(&mut path, line, field);
                    }
                }
                TokenTree::Group(group) => {
                    self.end(&mut path, line, field);
                    signs.clear();
                    self.tokens(group.stream());
                }
                TokenTree::Literal(_) => {
                    self.end(&mut path, line, field);
                    signs.clear();
                }
            }
        }
        self.end(&mut path, line, field);
    }

    fn end(&mut self, path: &mut Vec<String>, line: usize, field: bool) {
        let path = std::mem::take(path);
        if !path.is_empty() && !field {
            self.code(path, line, Kind::Code);
        }
    }
}

impl<'a> Visit<'a> for Reading<'a, '_> {
    fn visit_item(&mut self, item: &'a syn::Item) {
        use syn::Item;
        match item {
            Item::Const(item) => self.define(&item.ident),
            Item::Enum(item) => self.define(&item.ident),
            Item::Fn(item) => self.define(&item.sig.ident),
            Item::Static(item) => self.define(&item.ident),
            Item::Struct(item) => self.define(&item.ident),
            Item::Trait(item) => self.define(&item.ident),
            Item::TraitAlias(item) => self.define(&item.ident),
            Item::Type(item) => self.define(&item.ident),
            Item::Union(item) => self.define(&item.ident),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_foreign_item(&mut self, item: &'a syn::ForeignItem) {
        match item {
            syn::ForeignItem::Fn(item) => self.define(&item.sig.ident),
            syn::ForeignItem::Static(item) => self.define(&item.ident),
            syn::ForeignItem::Type(item) => self.define(&item.ident),
            _ => {}
        }
        visit::visit_foreign_item(self, item);
    }

    fn visit_item_macro(&mut self, item: &'a syn::ItemMacro) {
        if let Some(name) = &item.ident {
            self.define(name);
            let exported = |attribute: &syn::Attribute| attribute.path().is_ident("macro_export");
            let root = self.house.scopes[self.scope].root;
            if root != self.scope && item.attrs.iter().any(exported) {
                self.house.define(root, name.to_string(), Meaning::Item(self.path));
            }
        }
        visit::visit_item_macro(self, item);
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if self.source.is_test(item.ident.span()) {
            return;
        }
        let name = item.ident.to_string();
        let root = self.house.scopes[self.scope].root;
        self.inside.push(name.clone());
        if item.content.is_some() {
            let scope = self.house.enter(self.path, Some(self.scope), root);
            self.house.define(self.scope, name, Meaning::Scope(scope));
            let outer = std::mem::replace(&mut self.scope, scope);
            visit::visit_item_mod(self, item);
            self.scope = outer;
        } else {
            let source = self.source;
            for module in source.modules.iter().filter(|module| module.path == self.inside) {
                for file in module.candidates(self.path, self.is_root) {
                    let Some((path, source)) = self.sources.get(&file) else { continue };
                    let scope = self.house.enter(path, Some(self.scope), root);
                    self.house.define(self.scope, name.clone(), Meaning::Scope(scope));
                    self.house.read(self.sources, path, source, scope);
                }
            }
        }
        self.inside.pop();
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        if !self.source.is_test(item.use_token.span) {
            let before = item.leading_colon.as_ref().map(|_| String::new());
            self.import(&item.tree, before.as_slice());
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        if let Some(first) = path.segments.first().map(|segment| &segment.ident)
            && !self.source.is_test(first.span())
        {
            let before = path.leading_colon.as_ref().map(|_| String::new());
            let names = path.segments.iter().map(|segment| segment.ident.to_string());
            let names = before.into_iter().chain(names).collect();
            self.code(names, first.span().start().line, Kind::Code);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'a syn::Macro) {
        let Some(first) = call.path.segments.first().map(|segment| &segment.ident) else { return };
        if self.source.is_test(first.span()) {
            return;
        }
        match call.path.get_ident() {
            Some(name) => {
                self.code(vec![name.to_string()], name.span().start().line, Kind::Macro);
            }
            None => self.visit_path(&call.path),
        }
        self.tokens(call.tokens.clone());
    }

    /// `#[derive(…)]` and the like name what is made elsewhere; documentation is no code.
    fn visit_attribute(&mut self, _: &'a syn::Attribute) {}
}
