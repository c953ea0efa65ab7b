//! What payloads cost on the perfect wire, on the engine `msg-zerocopy`. A program of its own,
//! since the counting allocator counts for all of it.

#[path = "contract/costs.rs"]
mod costs;
#[path = "contract/counting.rs"]
mod counting;
#[path = "contract/engine.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod engine;
#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use costs::Calls;
use engine::Engine;

/// The engine that this program's rings get.
const ENGINE: Engine = Engine::MSG_ZEROCOPY;

/// Its system calls.
const CALLS: Calls = Calls {
    first: &[
        // SO_ZEROCOPY is looked at, set, and looked at again.
        "getsockopt",
        "setsockopt",
        "getsockopt",
        // It is still set; nothing was written before; nobody's notifications are out.
        "getsockopt",
        "ioctl",
        "getsockopt",
        "getsockopt",
        // The error queue is watched from now on.
        "epoll_ctl",
        "send",
        "epoll_wait",
    ],
    // The first byte is copied: on a path that is not known to be fast it ends what is under one
    // notification (K43).
    next: &["getsockopt", "recvmmsg", "send", "send", "epoll_wait"],
    copy: &["send"],
    // Nothing is out any more.
    last: &["epoll_wait", "recvmmsg", "getsockopt"],
};
