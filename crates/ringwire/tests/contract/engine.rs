//! In what the engines differ that the contract knows of. Everything else is the same for all, and
//! every test runs on each: where a test must know, it asks this table, so what an engine does not
//! do is said here and nowhere else.

use ringwire::EngineChoice;

/// One engine, and what the contract asks of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Engine {
    pub(crate) choice: EngineChoice,
    /// What `Ring::engine` says.
    pub(crate) name: &'static str,
    /// Requests go zero-copy where they may; otherwise all of them are copied, and released with
    /// their result.
    pub(crate) zero_copy: bool,
    /// Blocks of the ring's arena go from their registration.
    pub(crate) registers: bool,
    /// Results and notifications come by a completion ring: it has a length, runs over, is counted
    /// against RLIMIT_MEMLOCK, and can be forbidden.
    pub(crate) completion_ring: bool,
    /// A stream's request waits in the kernel until all of it was accepted. Otherwise it ends with
    /// what the send buffer took, and the rest is another request.
    pub(crate) whole_requests: bool,
    /// `SO_ZEROCOPY` set by somebody else does not matter. Otherwise such a socket is copied,
    /// because notifications could not be told apart.
    pub(crate) shares_zero_copy: bool,
}

#[allow(dead_code, reason = "each test program is one of them")]
impl Engine {
    pub(crate) const URING: Engine = Engine {
        choice: EngineChoice::Uring,
        name: "uring",
        zero_copy: true,
        registers: true,
        completion_ring: true,
        whole_requests: true,
        shares_zero_copy: true,
    };
    pub(crate) const MSG_ZEROCOPY: Engine = Engine {
        choice: EngineChoice::MsgZerocopy,
        name: "msg-zerocopy",
        zero_copy: true,
        registers: false,
        completion_ring: false,
        whole_requests: false,
        shares_zero_copy: false,
    };
    pub(crate) const COPY: Engine = Engine {
        choice: EngineChoice::Copy,
        name: "copy",
        zero_copy: false,
        registers: false,
        completion_ring: false,
        whole_requests: false,
        shares_zero_copy: true,
    };
}
