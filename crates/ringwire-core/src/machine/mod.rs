//! The machine itself. `state.rs` says what it is made of, and in which order its steps stand.

mod aborts;
mod admission;
mod chance;
mod clock;
mod datagram_state;
mod datagrams;
mod ends;
mod fair;
mod grant;
mod learn;
mod memory_faults;
mod pins;
mod repeat;
mod requests;
mod sending;
mod sockets;
mod stall_looks;
mod stalls;
pub(crate) mod state;
mod streams;
mod turn;

#[cfg(test)]
pub(crate) mod tests;
