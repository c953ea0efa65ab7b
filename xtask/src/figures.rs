//! `cargo xtask figures`: README's figures, from the JSON of a measurement.
//!
//! The JSON is committed (`docs/figures.json`; `cargo xtask gates --json` writes it, with `--wires`
//! adds the figures of wires that copy, and with `--before` those of an earlier measurement). What
//! it comes to in words is [`mod@render`], which is pure; `cargo xtask tidy` holds that README says
//! the same, so no figure is ever typed.

mod compared;
mod goals;
mod minimal;
mod render;
mod scale;
mod text;
mod wires;

use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) use render::render;

use crate::error::{Error, Result};
use crate::gates;
use crate::gates::report::Gates;
use crate::workspace::workspace;

/// The measurement, from the workspace's directory.
pub(crate) const JSON: &str = "docs/figures.json";
/// Where they are shown.
pub(crate) const README: &str = "README.md";
const BEGIN: &str = "<!-- figures: written by `cargo xtask figures` from docs/figures.json -->";
const END: &str = "<!-- end of figures -->";

/// Where the figures come from.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure first (`cargo xtask gates --full --json docs/figures.json`, then the same with
    /// --wires); on a quiet machine, as root, twenty minutes
    #[arg(long)]
    measure: bool,
}

/// Writes README's figures. With `--measure`, exits with 1 when a gate failed; the figures are
/// written all the same, and say so.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let at = |path: &str| -> PathBuf { workspace().join(path) };
    let read = |path: &str| {
        std::fs::read_to_string(at(path)).map_err(Error::from(format_args!("read {path}")))
    };
    let mut code = ExitCode::SUCCESS;
    if args.measure {
        for measured in [gates::Args::full(at(JSON)), gates::Args::wires(at(JSON))] {
            let ended = gates::run(&measured)?;
            if ended != ExitCode::SUCCESS {
                code = ended;
            }
        }
    }
    let readme = with_block(&read(README)?, &render(&Gates::parse(&read(JSON)?)?))?;
    std::fs::write(at(README), readme).map_err(Error::from(format_args!("write {README}")))?;
    println!("{README} has the figures of {JSON}");
    Ok(code)
}

/// What README says between its marks, with the line it begins on.
pub(crate) fn block(readme: &str) -> Option<(usize, &str)> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (block, _) = rest.split_once(END)?;
    Some((before.lines().count() + 1, block.trim_matches('\n')))
}

/// README with another block between its marks.
fn with_block(readme: &str, block: &str) -> Result<String> {
    let parts = readme.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let Some((before, after)) = parts else {
        return Err(Error::new(format!("{README} has no place for figures: {BEGIN} … {END}")));
    };
    Ok(format!("{before}{BEGIN}\n\n{block}\n\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_take_the_place_of_others_and_of_nothing_else() {
        let old = format!("# r\nText\n{BEGIN}\n\nold\n\n{END}\nMore\n");
        let new = with_block(&old, "| new |").map_err(|Error(what)| what).expect("a place");
        assert_eq!(new, format!("# r\nText\n{BEGIN}\n\n| new |\n\n{END}\nMore\n"));
        assert_eq!(block(&new), Some((3, "| new |")));
        assert!(with_block("# r\n", "x").is_err());
        assert!(with_block(&format!("{END}{BEGIN}"), "x").is_err());
    }
}
