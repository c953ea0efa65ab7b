//! The order of the workspace: which crate may use which, and in which order a crate's modules may
//! take from each other.

pub(crate) const TABLE: &str = "xtask/src/tidy/layers.rs";

/// A crate's place.
#[derive(Clone)]
pub(crate) struct Layer {
    /// The package.
    pub(crate) name: &'static str,
    /// The packages of the workspace that it may need; their rows are before this one. What only
    /// its tests need is not held.
    pub(crate) uses: &'static [&'static str],
    /// The modules that it is made of, from the ground up: each may take from those on the floors
    /// below its own, not from its neighbours. None, if the crate has no such order.
    pub(crate) floors: &'static [&'static [&'static str]],
    /// What it has to do without.
    pub(crate) pure: Option<Pure>,
}

/// What a pure crate has to do without.
#[derive(Clone)]
pub(crate) struct Pure {
    /// Packages that it does not need, nor does anything that it needs.
    pub(crate) without: &'static [&'static str],
    /// Paths that its code does not name, nor anything under them.
    pub(crate) unnamed: &'static [&'static str],
    /// Its root says `#![forbid(unsafe_code)]`.
    pub(crate) forbids_unsafe: bool,
}

/// Packages through which a kernel is reached.
pub(super) const KERNEL: &[&str] = &["io-uring", "libc", "rustix"];

/// What the machine has no part in: descriptors, system calls, clocks, threads.
pub(super) const OUTSIDE: &[&str] = &[
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os::fd",
    "std::os::unix",
    "std::thread",
    "std::time::Instant::now",
    "std::time::SystemTime",
];

/// All crates, from the ground up.
pub(crate) const LAYERS: &[Layer] = &[
    Layer {
        name: "ringwire-threads",
        uses: &[],
        floors: &[],
        pure: Some(Pure { without: KERNEL, unnamed: &[], forbids_unsafe: false }),
    },
    Layer {
        name: "ringwire-units",
        uses: &[],
        floors: &[],
        pure: Some(Pure { without: KERNEL, unnamed: &[], forbids_unsafe: true }),
    },
    Layer {
        name: "ringwire-arena",
        uses: &[],
        floors: &[&["backing", "blocks"], &["tables"], &["memory"], &["handles"]],
        pure: Some(Pure { without: KERNEL, unnamed: &[], forbids_unsafe: false }),
    },
    Layer {
        name: "ringwire-core",
        uses: &["ringwire-arena"],
        floors: &[
            &["words"],
            &["engine", "headers", "payload", "running", "stats"],
            &["ledger", "policy", "segments"],
            &["queue"],
            &["machine"],
            &["driver"],
            &["costs", "testing"],
        ],
        pure: Some(Pure { without: KERNEL, unnamed: OUTSIDE, forbids_unsafe: true }),
    },
    Layer {
        name: "ringwire-sys",
        uses: &["ringwire-arena", "ringwire-core", "ringwire-threads"],
        floors: &[],
        pure: None,
    },
    Layer {
        name: "ringwire",
        uses: &["ringwire-arena", "ringwire-core", "ringwire-sys"],
        floors: &[
            &["arena", "select"],
            &["segments"],
            &["inner"],
            &["builder"],
            &["ring", "shared", "vouch"],
        ],
        pure: None,
    },
    Layer { name: "ringwire-wire", uses: &["ringwire-threads"], floors: &[], pure: None },
    Layer {
        name: "ringwire-reach",
        uses: &["ringwire-core", "ringwire-threads"],
        floors: &[],
        pure: None,
    },
    Layer {
        name: "ringwire-bench",
        uses: &["ringwire", "ringwire-core", "ringwire-threads", "ringwire-units", "ringwire-wire"],
        floors: &[],
        pure: None,
    },
    Layer { name: "ringwire-soak", uses: &["ringwire", "ringwire-wire"], floors: &[], pure: None },
    Layer { name: "ringwire-peers", uses: &["ringwire-bench"], floors: &[], pure: None },
    Layer {
        name: "ringwire-doctor",
        uses: &[
            "ringwire",
            "ringwire-core",
            "ringwire-reach",
            "ringwire-threads",
            "ringwire-units",
            "ringwire-wire",
        ],
        floors: &[&["facts", "report"], &["judge"], &["gather"]],
        pure: None,
    },
    Layer {
        name: "ringwire-cli",
        uses: &[
            "ringwire",
            "ringwire-bench",
            "ringwire-core",
            "ringwire-doctor",
            "ringwire-reach",
            "ringwire-threads",
            "ringwire-units",
        ],
        floors: &[
            &["exit", "name", "poll", "signals", "units"],
            &["protocol", "threads"],
            &["args", "output"],
            &["bench", "doctor", "recv", "send"],
        ],
        pure: None,
    },
    Layer {
        name: "xtask",
        uses: &["ringwire-bench", "ringwire-units"],
        floors: &[
            &["bytes", "error", "workspace"],
            &["cargo"],
            &["costs", "demo", "soak", "test"],
            &["gates", "kernels", "timing"],
            &["figures"],
            &["tidy"],
        ],
        pure: None,
    },
];
