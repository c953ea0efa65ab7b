//! Step 2 of a send: what is decided, each by a file that knows nothing of the others' matters.

pub(crate) mod decide;
pub(crate) mod faults;
pub(crate) mod gso_limits;
pub(crate) mod mtu;
pub(crate) mod path;
pub(crate) mod pinned;
