//! `ringwire-peers`: other people's ways to send, measured by ringwire's own harness.
//!
//! ```text
//! main.rs          which methods there are; answers `ringwire bench` in lines of JSON
//! with_tokio.rs    tokio: write_all, write_vectored
//! with_compio.rs   compio: write_zerocopy, write_zerocopy_vectored
//!   pieces.rs      what is handed to compio: parts of the working set that own it
//!   held.rs        calls whose memory the kernel may still read
//! ```
//!
//! A process of its own, so that nobody who does not ask for these runtimes builds them. Wire,
//! memory, order and measuring are `ringwire-bench`'s, so that all methods differ in how they send
//! and in nothing else. Each is written as its own users would at their best: one thread, nothing
//! copied that need not be, and what its documentation offers for speed switched on.
#![forbid(unsafe_code)]

mod held;
mod pieces;
mod with_compio;
mod with_tokio;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let say = |what: &str| {
        // A closed stderr changes nothing.
        let _ = writeln!(io::stderr(), "ringwire-peers: {what}");
        ExitCode::from(2)
    };
    let input = io::stdin();
    if input.is_terminal() {
        return say("this is not for people: `ringwire bench` beside it asks it for measurements");
    }
    let recipes =
        [with_tokio::ALL, with_tokio::VECTORED, with_compio::ZEROCOPY, with_compio::VECTORED];
    match ringwire_bench::serve::serve(&recipes, input.lock(), io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => say(&error.to_string()),
    }
}
