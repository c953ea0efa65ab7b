//! Threads, or an error where there can be none.
//!
//! Neighbours: whatever waits beside a main thread, in all crates of the program. Invariant: no
//! thread of the program is started but by [`start`] and [`scoped`], as `std::thread::spawn` ends
//! it where there is none to be had, and a thread for which there is no memory ends it, too.
#![forbid(unsafe_code)]

use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// A thread's stack, what it is by default.
const STACK_BYTES: usize = 2 << 20;

/// What must be free for a thread: its stack, its alternative stack for signals, what its work
/// begins with (1 MiB and little more, in this program), and the small things that everybody asks
/// for meanwhile. Where one of these cannot be had, the standard library ends the program. More
/// than glibc ever takes from its own heap (DEFAULT_MMAP_THRESHOLD_MAX, 32 MiB), where room says
/// nothing of a limit.
const ROOM_BYTES: usize = 33 << 20;

/// Starts a thread inside a scope.
///
/// # Errors
/// There is no thread, or no memory for one.
pub fn scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    look_for_memory()?;
    builder(name).spawn_scoped(scope, work)
}

/// Starts a thread.
///
/// # Errors
/// There is no thread, or no memory for one.
pub fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    look_for_memory()?;
    builder(name).spawn(work)
}

fn builder(name: &str) -> Builder {
    Builder::new().name(name.into()).stack_size(STACK_BYTES)
}

/// Whether there is room for a thread under RLIMIT_AS: found out here, because what a new thread
/// asks for first ends the program where it is refused.
fn look_for_memory() -> io::Result<()> {
    let mut room = Vec::<u8>::new();
    room.try_reserve_exact(ROOM_BYTES).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // Or the compiler might leave the pair of calls out.
    std::hint::black_box(&room);
    Ok(())
}

/// The way out where a thread or memory for it is lacking.
pub fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::OutOfMemory => "raise \"ulimit -v\", or end what else has the memory",
        _ => {
            "raise the limit of threads: \"ulimit -u\" for a user, TasksMax for a service, the \
             limit of pids for a container"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_told_apart() {
        let of = |errno| hint(&io::Error::from_raw_os_error(errno)).split('"').nth(1).unwrap();
        // EAGAIN, ENOMEM.
        assert_eq!((of(11), of(12)), ("ulimit -u", "ulimit -v"));
        assert_eq!(start("one", || 7).unwrap().join().unwrap(), 7);
    }
}
