//! What a guest's kernel wrote to its console: pure.

/// How much of a console is shown of a guest that did not end well, in lines.
const LINES_SHOWN: usize = 40;

/// What the guest's first process writes into the kernel's log before a step, with its number.
pub(super) const MARK: &str = "cargo xtask kernels: step ";

/// What makes a line of the log a complaint.
const WORDS: [&str; 10] = [
    "BUG: ",
    "kernel BUG at",
    "WARNING: ",
    "cut here",
    "Oops",
    // The first, second … of its kind; before 6.x all that some traps say.
    "[#",
    "Kernel panic",
    "general protection fault",
    "refcount_t: ",
    "Out of memory: ",
];

/// Stalls, which an emulated processor has.
const STALLS: [&str; 2] = ["soft lockup", "BUG: workqueue lockup"];

/// What a kernel complains of, with the step in which it did: none while it boots.
pub(super) fn complaints(console: &str) -> Vec<(Option<usize>, String)> {
    let mut step = None;
    let mut found = Vec::new();
    for line in console.lines() {
        let has = |words: &[&str]| words.iter().any(|word| line.contains(word));
        if let Some((_, number)) = line.split_once(MARK) {
            step = number.trim().parse().ok();
        } else if has(&WORDS) && !has(&STALLS) {
            found.push((step, line.trim().to_owned()));
        }
    }
    found
}

/// The last lines.
pub(super) fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_complains_but_not_of_a_slow_processor() {
        let console = "[ 1.0] WARNING: CPU: 1 PID: 7 at net/core/x.c:1 f+0x1/0x2\n[ 1.1] fine\n\
                       [ 2.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\n\
                       [ 3.0] BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0\n\
                       [ 4.0] kernel BUG at io_uring/net.c:1!\n\
                       [ 5.0] divide error: 0000 [#1] SMP PTI\n\
                       [ 6.0] ------------[ cut here ]------------\n";
        let found: Vec<_> = complaints(console).into_iter().map(|(_, line)| line).collect();
        assert_eq!(
            found,
            [
                "[ 1.0] WARNING: CPU: 1 PID: 7 at net/core/x.c:1 f+0x1/0x2",
                "[ 4.0] kernel BUG at io_uring/net.c:1!",
                "[ 5.0] divide error: 0000 [#1] SMP PTI",
                "[ 6.0] ------------[ cut here ]------------",
            ]
        );
    }

    #[test]
    fn complaints_are_of_the_step_before_which_the_log_was_marked() {
        let console = "[ 0.1] WARNING: boots\n[ 1.0] cargo xtask kernels: step 0\n\
                       [ 1.1] cargo xtask kernels: step 12\r\n[ 2.0] Oops: one\n[ 2.1] Oops: two\n";
        let found = complaints(console);
        let found: Vec<_> = found.iter().map(|(step, line)| (*step, line.as_str())).collect();
        let of = |step, line| (step, line);
        assert_eq!(
            found,
            [
                of(None, "[ 0.1] WARNING: boots"),
                of(Some(12), "[ 2.0] Oops: one"),
                of(Some(12), "[ 2.1] Oops: two"),
            ]
        );
    }

    #[test]
    fn the_end_is_shown() {
        let console: String = (1..=50).map(|line| format!("{line}\n")).collect();
        assert!(tail(&console).starts_with("11\n12\n"));
        assert_eq!(tail("one\n"), "one");
    }
}
