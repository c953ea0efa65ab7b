//! What passed, failed and was skipped: pure.

use std::collections::BTreeSet;

/// Reasons that a host's kernel gives, so that nobody can do anything about them in a test run.
/// A skip with another reason fails where skips are judged.
const KERNEL_REASONS: [&str; 4] = [
    "the kernel has no dummy device",
    "the kernel has no netem",
    "the kernel has no TLS",
    "the kernel offers no 64 KiB folios",
];

/// What an ordinary user may skip as well: rights, and locked memory, of which there are 8 MiB for
/// everything that the user runs, what earlier tests left with the kernel included.
const ORDINARY_REASONS: [&str; 4] = [
    "needs root",
    "needs CAP_IPC_LOCK",
    "RLIMIT_MEMLOCK is below",
    "io_uring is not available: RLIMIT_MEMLOCK",
];

/// A test that did not run, or not wholly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Skip {
    pub(crate) test: String,
    pub(crate) reason: String,
}

/// The sum over all test programs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    ignored: u64,
    /// What failed, by name.
    pub(crate) failures: Vec<String>,
    pub(crate) skips: BTreeSet<Skip>,
}

impl Tally {
    /// Takes a line of a test program's output.
    pub(crate) fn take(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            for part in result.split([';', '.']) {
                let mut words = part.split_whitespace();
                let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
                let Ok(number) = number.parse::<u64>() else { continue };
                match what {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    "ignored" => self.ignored += number,
                    _ => {}
                }
            }
        } else if let Some(test) = line.strip_prefix("test ")
            && let Some(test) = test.strip_suffix(" ... FAILED")
        {
            self.failures.push(test.to_owned());
        }
    }

    /// Says of the failures from the `since`th on in which program they were.
    pub(crate) fn place(&mut self, since: usize, program: &str) {
        self.failures.iter_mut().skip(since).for_each(|test| *test += &format!(" in {program}"));
    }

    /// Counts a failure that no test program counted.
    pub(crate) fn fail(&mut self, what: &str) {
        self.failed += 1;
        self.failures.push(what.to_owned());
    }

    /// Tests that skipped, and those that the harness left out.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipping_tests() + self.ignored
    }

    /// Tests that passed and skipped nothing. A harness takes a test that skips for passed.
    pub(crate) fn passed_wholly(&self) -> u64 {
        self.passed.saturating_sub(self.skipping_tests())
    }

    fn skipping_tests(&self) -> u64 {
        let names: BTreeSet<&str> = self.skips.iter().map(|skip| skip.test.as_str()).collect();
        names.len() as u64
    }
}

/// The lines that tests append to the file of `RINGWIRE_SKIPS`: `SKIP test: reason`.
pub(crate) fn parse_skips(text: &str) -> BTreeSet<Skip> {
    let skip = |line: &str| {
        let (test, reason) = line.strip_prefix("SKIP ")?.split_once(": ")?;
        Some(Skip { test: test.to_owned(), reason: reason.to_owned() })
    };
    text.lines().filter_map(skip).collect()
}

/// Whether a test may skip for this reason where skips are judged.
pub(crate) fn is_allowed(reason: &str, root: bool) -> bool {
    KERNEL_REASONS.iter().any(|allowed| reason.starts_with(allowed))
        || (!root && ORDINARY_REASONS.iter().any(|known| reason.starts_with(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test sends ... ok
test waits ... FAILED
test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.4s
   Doc-tests ringwire
test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 7 filtered out; finished in 0.00s";

    fn tally(skips: &str) -> Tally {
        let mut tally = Tally::default();
        OUTPUT.lines().for_each(|line| tally.take(line));
        tally.skips = parse_skips(skips);
        tally
    }

    #[test]
    fn results_add_up() {
        let tally = tally("");
        assert_eq!((tally.passed_wholly(), tally.failed, tally.skipped()), (7, 1, 2));
        assert_eq!(tally.failures, ["waits"]);
        let mut two = tally;
        two.fail("it crashed");
        two.place(1, "tests/a.rs");
        assert_eq!(two.failures, ["waits", "it crashed in tests/a.rs"]);
    }

    #[test]
    fn a_test_that_skips_twice_is_one_skipped_test_and_none_that_passed() {
        let skips = "SKIP a: no IPv6\nSKIP b: needs root: memlock\nSKIP a: no IPv6\n\
                     SKIP a: no veth\nnoise\n";
        let tally = tally(skips);
        assert_eq!(tally.skips.len(), 3);
        assert_eq!((tally.passed_wholly(), tally.failed, tally.skipped()), (5, 1, 4));
    }

    #[test]
    fn only_what_the_kernel_lacks_may_be_skipped() {
        assert!(is_allowed("the kernel has no netem: unknown qdisc", true));
        assert!(!is_allowed("cannot make a user namespace", true));
        assert!(!is_allowed("needs root", true));
        assert!(is_allowed("needs root", false));
        assert!(is_allowed("RLIMIT_MEMLOCK is below 512 MiB", false));
        assert!(!is_allowed("RLIMIT_MEMLOCK is below 512 MiB", true));
    }
}
