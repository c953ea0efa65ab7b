//! Steps 5 and 6 of a send: the engines, one beside the other, and `any.rs` above them.

pub(crate) mod any;
pub(crate) mod epoll;
mod msg_zerocopy;
#[cfg(test)]
mod tests;
pub(crate) mod uring;
