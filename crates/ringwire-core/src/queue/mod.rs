//! Step 5 of a send: one socket's ordered queue, and what of it leaves as one request. Pure.

pub(crate) mod gathered;
pub(crate) mod gso;
pub(crate) mod pace;
pub(crate) mod retry;
pub(crate) mod stream;
