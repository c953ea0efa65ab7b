//! The system calls of a test, as strace shows them, between marks that it leaves in its trace.

use std::fs;
use std::process::{Command, ExitStatus};

use ringwire_wire::skip;

use super::run_child;

/// A system call that nothing else makes, to find the place in a trace. (Not `getsid`: in a PID
/// namespace whose session was begun outside it is 0, which rustix holds for impossible.)
pub(crate) fn mark() {
    let _ = rustix::process::getppid();
}

/// Runs a test once more, under strace, and says what the thread that makes marks calls before the
/// first, between each two, and behind the last. `None`, and a skip, where strace does not work.
pub(crate) fn sections(module: &str, test: &str) -> Option<Vec<Vec<String>>> {
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    if !works.as_ref().is_ok_and(ExitStatus::success) {
        skip(test, &format!("strace does not work here: {works:?}"));
        return None;
    }
    let trace = std::env::temp_dir().join(format!("ringwire-trace-{}", std::process::id()));
    let path = trace.to_str().expect("a name in UTF-8");
    run_child(module, test, &["strace", "-f", "-o", path]);
    let text = fs::read_to_string(&trace).expect("a trace");
    fs::remove_file(&trace).expect("it was there");
    Some(between_marks(&text))
}

/// Of lines like `1234  getppid() = 1`.
fn between_marks(text: &str) -> Vec<Vec<String>> {
    let is_mark = |call: &str| call.starts_with("getppid(");
    let lines = || text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let (marking, _) = lines().find(|(_, call)| is_mark(call.trim_start())).expect("a mark");
    let mut calls: Vec<String> = Vec::new();
    for (_, call) in lines().filter(|(thread, _)| *thread == marking) {
        let call = call.trim_start();
        match call.strip_prefix("<... ").and_then(|call| call.split_once(" resumed>")) {
            // Another thread's came into it.
            Some((_, rest)) => {
                let call = calls.last_mut().expect("its beginning");
                *call = call.replace(" <unfinished ...>", rest);
            }
            // A host without a fast clock asks the kernel for the time.
            None if call.starts_with("clock_gettime(") => {}
            None => calls.push(call.to_owned()),
        }
    }
    calls.split(|call| is_mark(call)).map(<[String]>::to_vec).collect()
}
