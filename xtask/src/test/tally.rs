//! What passed, failed and was skipped: pure.

use std::collections::BTreeSet;
use std::fmt;

/// Reasons that a host's kernel gives, so that nobody can do anything about them in a test run.
/// A skip with another reason fails where skips are judged.
const KERNEL_REASONS: [&str; 7] = [
    "the kernel has no dummy device",
    "the kernel has no FUSE",
    "the kernel has no netem",
    "the kernel has no TLS",
    "the kernel offers no 64 KiB folios",
    "the kernel has no secret memory",
    "the kernel has no performance events",
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
    pub(crate) program: String,
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

    /// The sum, where a skip is a failure unless `may_skip` says otherwise.
    pub(crate) fn sum(&self, may_skip: impl Fn(&Skip) -> bool) -> Sum {
        let skipping = tests(self.skips.iter());
        let refused = tests(self.skips.iter().filter(|skip| !may_skip(skip)));
        Sum {
            // A harness takes a test that skips for passed.
            passed: self.passed.saturating_sub(skipping),
            failed: self.failed + refused,
            skipped: skipping - refused + self.ignored,
        }
    }
}

/// How many tests those are.
fn tests<'a>(skips: impl Iterator<Item = &'a Skip>) -> u64 {
    let tests: BTreeSet<_> = skips.map(|skip| (&skip.program, &skip.test)).collect();
    tests.len() as u64
}

/// What comes of all tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    /// Those that skipped nothing.
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Those that skipped, and those that the harness left out.
    pub(crate) skipped: u64,
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sum { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// The lines that tests of a program append to the file of `RINGWIRE_SKIPS`: `SKIP test: reason`.
pub(crate) fn parse_skips(program: &str, text: &str) -> BTreeSet<Skip> {
    let skip = |line: &str| {
        let (test, reason) = line.strip_prefix("SKIP ")?.split_once(": ")?;
        let [program, test, reason] = [program, test, reason].map(str::to_owned);
        Some(Skip { program, test, reason })
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

    fn tally() -> Tally {
        let mut tally = Tally::default();
        OUTPUT.lines().for_each(|line| tally.take(line));
        tally
    }

    #[test]
    fn results_add_up() {
        let mut tally = tally();
        let sum = tally.sum(|_| false);
        assert_eq!(sum, Sum { passed: 7, failed: 1, skipped: 2 });
        assert_eq!(sum.to_string(), "7 passed, 1 failed, 2 skipped");
        assert_eq!(tally.failures, ["waits"]);
        tally.fail("it crashed");
        tally.place(1, "tests/a.rs");
        assert_eq!(tally.failures, ["waits", "it crashed in tests/a.rs"]);
    }

    #[test]
    fn a_test_that_skips_twice_is_one_test_and_none_that_passed() {
        let mut tally = tally();
        let text = "SKIP a: no IPv6\nSKIP b: needs root: memlock\nSKIP a: no IPv6\n\
                    SKIP a: no veth\nnoise\n";
        tally.skips = parse_skips("one", text);
        assert_eq!(tally.skips.len(), 3);
        assert_eq!(tally.sum(|_| true), Sum { passed: 5, failed: 1, skipped: 4 });
        assert_eq!(tally.sum(|_| false), Sum { passed: 5, failed: 3, skipped: 2 });
        let of_b = |skip: &Skip| skip.test == "b";
        assert_eq!(tally.sum(of_b), Sum { passed: 5, failed: 2, skipped: 3 });
        // One of the same name elsewhere.
        tally.skips.extend(parse_skips("two", "SKIP a: no veth\n"));
        assert_eq!(tally.sum(of_b), Sum { passed: 4, failed: 3, skipped: 3 });
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
