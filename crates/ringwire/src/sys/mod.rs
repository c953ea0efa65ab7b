//! The only system calls of the crate, thin; what they answer is decoded by pure functions.

pub(crate) mod close;
pub(crate) mod control;
pub(crate) mod cqe;
pub(crate) mod epoll;
pub(crate) mod errqueue;
pub(crate) mod home;
pub(crate) mod memlock;
pub(crate) mod probe;
pub(crate) mod register;
pub(crate) mod ring;
pub(crate) mod socket;
pub(crate) mod sqe;
pub(crate) mod witness;
