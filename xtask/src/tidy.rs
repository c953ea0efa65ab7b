//! `cargo xtask tidy`: the rules that a machine can hold.
//!
//! A rule is a function from the tree's texts to findings; it reads no file itself, so each is
//! tested on a few lines. `tree.rs` has the texts, `source.rs` makes words of Rust code and says
//! which of it is a test's, `code.rs` has the rules for it, `paper.rs` those for documents and for
//! what they promise. `packages.rs` reads the manifests, `names.rs` follows each name in the code
//! to where it is defined; `circles.rs` and `order.rs` have the rules for these, which hold what
//! `layers.rs` says.

mod circles;
mod code;
mod layers;
mod names;
mod order;
mod packages;
mod paper;
mod source;
mod tree;

use std::process::ExitCode;

use self::names::Names;
use self::packages::Packages;
use self::source::Sources;
use self::tree::{Finding, Tree};
use crate::error::Result;
use crate::workspace::workspace;

type Rule = fn(&Tree, &Sources) -> Vec<Finding>;

const RULES: &[Rule] = &[
    code::unsafe_where_listed,
    code::no_banned_call,
    code::no_module_wide_allow,
    code::no_lock_on_the_send_path,
    code::what_is_listed_is_there,
    code::lines_fit,
    code::long_files_say_why,
    code::contract_tests_say_where_they_run,
    code::no_dead_file,
    code::every_file_is_rust,
    paper::kernel_facts_are_kept,
    paper::one_minimum_version,
    paper::quick_start_is_what_ci_runs,
    paper::figures_are_measured,
    paper::what_a_ring_tells_is_listed,
    paper::crates_are_described,
    paper::crates_are_linted,
    paper::kernels_are_as_seen,
    paper::kernels_lack_nothing,
    paper::no_foreign_place,
];

type OrderRule = fn(&Tree, &Packages, &Names) -> Vec<Finding>;

/// The rules for what takes what from where.
const ORDER_RULES: &[OrderRule] =
    &[circles::no_circles, order::imports_run_downwards, order::pure_crates_stay_pure];

/// Checks the tree.
pub(crate) fn run() -> Result<ExitCode> {
    let tree = Tree::read(&workspace())?;
    let sources = Sources::read(&tree);
    let mut findings: Vec<_> = RULES.iter().flat_map(|rule| rule(&tree, &sources)).collect();
    let packages = Packages::read(&tree);
    let names = Names::read(&sources, &packages);
    findings.extend(ORDER_RULES.iter().flat_map(|rule| rule(&tree, &packages, &names)));
    findings.sort();
    findings.dedup();
    for finding in &findings {
        println!("{finding}");
    }
    println!(
        "tidy: {} files, {} rules, {} findings",
        tree.files.len(),
        RULES.len() + ORDER_RULES.len(),
        findings.len()
    );
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `rule` finds in these files, as `path:line`.
    pub(super) fn found(rule: Rule, files: &[(&str, &str)]) -> Vec<String> {
        let tree = Tree::of(files);
        let sources = Sources::read(&tree);
        rule(&tree, &sources).iter().map(|f| format!("{}:{}", f.path, f.line)).collect()
    }
}
