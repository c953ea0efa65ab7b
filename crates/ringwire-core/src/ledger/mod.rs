//! Steps 4, 7 and 8 of a send: what is in flight, who owns it, and what callers are told.

pub(crate) mod entry;
pub(crate) mod events;
pub(crate) mod freed;
pub(crate) mod leaks;
pub(crate) mod notifier;
pub(crate) mod payload;
pub(crate) mod quiet;
mod record;
pub(crate) mod request;
pub(crate) mod tables;
