//! In what the engines differ that the contract knows of. Everything else is the same for all, and
//! every test runs on each: where a test must know, it asks this table, so what an engine does not
//! do is said here and nowhere else.

use ringwire::{Copied, CopiedBytes, EngineChoice, Errno};

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
    /// What waits for room waits in the kernel, which may read it until it has gone, copies too.
    pub(crate) waits_in_the_kernel: bool,
    /// Each request's notification says whether its bytes were copied. Otherwise several may come
    /// as one, of which only the oldest's report is known.
    pub(crate) tells_each: bool,
    /// A datagram that the kernel copied because it is larger than the MTU is let go of at once.
    /// Otherwise when its fragments are gone, on one host when their receiver has read them.
    pub(crate) lets_go_of_fragments: bool,
    /// What an MPTCP listener accepts from a plain TCP client refuses zero copy as MPTCP does.
    pub(crate) heirs_of_mptcp_refuse: bool,
    /// What a stream fails with that is reset while a request of it waits.
    pub(crate) reset_says: Errno,
    /// The system calls of a turn that sends a kilobyte over a stream, without a copy if it may.
    pub(crate) calls_of_a_turn: &'static [&'static str],
    /// Those behind them if the notification is there already.
    pub(crate) calls_if_it_has_come: &'static [&'static str],
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
        waits_in_the_kernel: true,
        tells_each: true,
        lets_go_of_fragments: true,
        heirs_of_mptcp_refuse: true,
        reset_says: Errno::PIPE,
        calls_of_a_turn: &["io_uring_enter"],
        calls_if_it_has_come: &[],
        shares_zero_copy: true,
    };
    pub(crate) const MSG_ZEROCOPY: Engine = Engine {
        choice: EngineChoice::MsgZerocopy,
        name: "msg-zerocopy",
        zero_copy: true,
        registers: false,
        completion_ring: false,
        waits_in_the_kernel: false,
        tells_each: false,
        lets_go_of_fragments: false,
        heirs_of_mptcp_refuse: false,
        reset_says: Errno::CONNRESET,
        calls_of_a_turn: &[
            // Whether the socket still has numbers, what others have sent, and whether any numbers
            // are out.
            "getsockopt",
            "ioctl",
            "getsockopt",
            "getsockopt",
            "sendto",
            "epoll_wait",
        ],
        // What it is, and whether anything is out.
        calls_if_it_has_come: &["recvmmsg", "getsockopt"],
        shares_zero_copy: false,
    };
    pub(crate) const COPY: Engine = Engine {
        choice: EngineChoice::Copy,
        name: "copy",
        zero_copy: false,
        registers: false,
        completion_ring: false,
        waits_in_the_kernel: false,
        tells_each: true,
        lets_go_of_fragments: true,
        heirs_of_mptcp_refuse: false,
        reset_says: Errno::CONNRESET,
        calls_of_a_turn: &["sendto"],
        calls_if_it_has_come: &[],
        shares_zero_copy: true,
    };

    /// Of so many requests of registered memory, how many are registered ones.
    pub(crate) fn registered(&self, requests: u64) -> u64 {
        if self.registers { requests } else { 0 }
    }

    /// Of so many requests that may go zero-copy, how many do.
    pub(crate) fn zero_copied(&self, requests: u64) -> u64 {
        if self.zero_copy { requests } else { 0 }
    }

    /// What was copied by choice, for the reason that the ring has for it on this engine: `reason`,
    /// or that it copies everything.
    pub(crate) fn copied_for(
        &self,
        copied: &CopiedBytes,
        reason: impl Fn(&CopiedBytes) -> u64,
    ) -> u64 {
        if self.zero_copy { reason(copied) } else { copied.engine_copies }
    }

    /// Whether this is what is said of bytes that the path copied.
    pub(crate) fn says_copied(&self, copied: Copied) -> bool {
        copied == Copied::Yes || !self.tells_each && copied == Copied::Unknown
    }

    /// Whether this is what is said of bytes that nothing on their path copied.
    pub(crate) fn says_not_copied(&self, copied: Copied) -> bool {
        match copied {
            Copied::No => self.zero_copy,
            Copied::Yes => !self.zero_copy,
            Copied::Unknown => !self.tells_each,
        }
    }
}
