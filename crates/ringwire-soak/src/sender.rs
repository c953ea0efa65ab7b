//! A sending process: one ring after the other, until it is told to stop, has lost too much memory
//! to the kernel by design, exits in the middle, or is killed.
//!
//! ```text
//! sender.rs                  the process
//!   session.rs                 the life of one ring
//!     feed.rs                    gives it payloads       conn_end.rs   ends connections
//!       interference.rs          others send, and fork   ring_end.rs   ends it
//!         live_ring.rs             the ring and what belongs to it
//!           conn.rs  notifiers.rs  datagrams.rs  plan.rs
//!             state.rs  failure.rs   what outlives a ring; why the process gives up
//! ```
//!
//! A file knows those below it alone. `main.rs` is above; the first process is told everything by
//! lines on stdout (`control.rs`), and ends this one by closing its stdin.

mod conn;
mod conn_end;
mod datagrams;
mod failure;
mod feed;
mod interference;
mod live_ring;
mod notifiers;
mod plan;
mod ring_end;
mod session;
mod state;

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::buffers::ToDrop;
use crate::control::Line;
use crate::pattern;
use crate::task::Task;
use failure::Failure;
use ring_end::AfterRing;
use state::SenderState;

/// What dropped and forgotten rings may cost one process; then the next one starts.
const LOST_BYTES_MAX: u64 = 512 << 20;
/// An ordinary user's locked memory comes back a while after the ring that had it.
const RING_PATIENCE: Duration = Duration::from_secs(10);
/// Forgotten rings keep descriptors.
const RINGS_MAX: u64 = 100;
/// How long a process that asked for it may live before it is killed.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// Does its task and exits.
#[expect(clippy::exit, reason = "exiting in the middle is one of the things to soak")]
pub(crate) fn run(task: Task) -> ! {
    let (dropper, to_drop) = mpsc::sync_channel::<ToDrop>(64);
    thread::spawn(move || to_drop.into_iter().for_each(ToDrop::overwrite));
    let mut state = SenderState::new(task, dropper);
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        // The first process closes the pipe, or is gone.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        told.store(true, Ordering::Relaxed);
    });
    let started = Instant::now();
    for _ in 0..RINGS_MAX {
        if state.lost_bytes >= LOST_BYTES_MAX || stop.load(Ordering::Relaxed) {
            break;
        }
        let failed = match session::run(&mut state) {
            Ok(AfterRing::GoOn) => state.say_counted().map_err(Failure::from),
            Ok(AfterRing::Exit) => {
                let _ = state.say_counted();
                process::exit(0);
            }
            Ok(AfterRing::AwaitSignal) => {
                let _ = state.say_counted().and_then(|()| state.say(&Line::Kill));
                let _ = state.flush();
                await_signal()
            }
            Err(Failure::NoRing(_)) if state.lost_bytes > 0 => process::exit(0),
            Err(Failure::NoRing(_)) if started.elapsed() < RING_PATIENCE => {
                thread::sleep(Duration::from_millis(10));
                Ok(())
            }
            Err(failure) => Err(failure),
        };
        if let Err(failure) = failed {
            let what = match failure {
                Failure::Violation(what) => what,
                Failure::NoRing(why) => format!("no ring within {RING_PATIENCE:?}: {why}"),
                Failure::Io(error) => format!("the sender: {error}"),
            };
            let _ = state.say_counted().and_then(|()| state.say(&Line::Violation(what)));
            let _ = state.flush();
            process::exit(1);
        }
    }
    process::exit(0);
}

/// Overwrites memory until the process is killed.
#[expect(clippy::exit, reason = "the last resort of a process that nobody kills")]
fn await_signal() -> ! {
    let deadline = Instant::now() + KILL_PATIENCE;
    while Instant::now() < deadline {
        let mut bytes = vec![0; 1 << 20];
        pattern::overwrite(&mut bytes);
    }
    process::exit(3);
}
