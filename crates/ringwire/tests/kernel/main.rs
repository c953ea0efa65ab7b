//! The kernel facts that ringwire is built on: one test at least for each entry of docs/KERNEL.md.
//!
//! Nothing of ringwire runs here. The tests ask the kernel itself, by the `io-uring` crate, and
//! fail where it disagrees with the entry that names them: then the code that cites the entry has
//! to be looked at. What a kernel, a host or a user without rights cannot show is skipped, with the
//! reason.

mod aborts;
mod chains;
mod completions;
mod error_queue;
mod lifetimes;
mod limits;
mod paths;
mod pinning;
mod probes;
mod registration;
mod results;
mod rig;
mod sockets;
mod trains;
mod usage;
mod wire;
mod witness;

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;
