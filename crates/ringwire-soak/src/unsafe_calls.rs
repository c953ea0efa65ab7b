//! What takes unsafe code: `fork`, and the word that nobody else sends on a ring's UDP sockets.
//!
//! The only file that has any; above it are `sender/plan.rs` and `sender/interference.rs`.
#![expect(unsafe_code, reason = "fork, and RingBuilder::vouch_for_datagrams")]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use ringwire::RingBuilder;

/// The soak alone sends on its UDP sockets.
pub(crate) fn vouch(builder: RingBuilder) -> RingBuilder {
    // SAFETY: nobody else has them, and the soak sends on them by the ring alone.
    unsafe { builder.vouch_for_datagrams() }
}

/// Does `act` in a child of `fork`, drops `value` there, and waits for its end. Returns whether all
/// went well.
///
/// # Errors
/// If there is no child to be had.
pub(crate) fn drop_in_a_child<T>(
    value: &mut T,
    act: impl FnOnce(&mut T) -> bool,
) -> io::Result<bool> {
    // SAFETY: other threads of this process hold no lock that the child takes, but for the
    // allocator's, and that is free in a child (malloc(3)).
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        let acted = catch_unwind(AssertUnwindSafe(|| {
            let well = act(value);
            // SAFETY: the child ends without looking at it again.
            unsafe { ptr::drop_in_place(value) };
            well
        }));
        let code = if acted.unwrap_or(false) { 0 } else { 1 };
        // SAFETY: it ends the child, and nothing more is done there.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: the kernel writes one `int`, inside this call.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(status == 0)
}
