//! Skips that are seen: a test that cannot run here says so and is counted.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Says on stderr that `test` did not run, and why; the test then returns.
///
/// The line goes past the test harness's capture, so it shows for a passing test as well. When the
/// environment's `RINGWIRE_SKIPS` names a file, the line is appended to it (one write, so that
/// lines of processes running at once stay whole); `cargo xtask test` lists and judges them.
///
/// ```no_run
/// let wire = match ringwire_wire::Veth::new() {
///     Ok(wire) => wire,
///     Err(why) => return ringwire_wire::skip("sends_over_veth", why.reason()),
/// };
/// # drop(wire);
/// ```
pub fn skip(test: &str, reason: &str) {
    let reason = reason.replace('\n', " ");
    let line = format!("SKIP {test}: {reason}\n");
    // A closed stderr is no reason to fail a test that does not run.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("RINGWIRE_SKIPS") {
        let appended = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = appended {
            panic!("cannot count the skip of {test} in {}: {error}", path.display());
        }
    }
}
