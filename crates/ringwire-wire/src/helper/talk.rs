//! What the helper's two sides say to each other. Pure.

/// A reply's step and its errno.
pub(super) const REPLY_BYTES: usize = 5;
/// The longest request: a path of `/proc/sys` and a little.
pub(super) const REQUEST_BYTES_MAX: usize = 256;
/// The most descriptors a reply carries: the three namespaces.
pub(super) const FDS_MAX: usize = 3;

pub(super) const OP_SOCKET: u8 = b's';
pub(super) const OP_OPEN: u8 = b'o';
pub(super) const OP_READ: u8 = b'r';

pub(super) const NEAR: u8 = 0;
pub(super) const FAR: u8 = 1;

/// How many network namespaces the child makes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    One,
    Two,
}

/// What the child was doing; a reply's first byte.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Step {
    CloseFiles = 1,
    UserNamespace,
    IdMaps,
    NetNamespace,
    NamespaceFile,
    Serve,
}

impl Step {
    pub(super) fn describe(step: u8) -> &'static str {
        match step {
            s if s == Step::CloseFiles as u8 => "close_range failed (Linux 5.9 has it)",
            s if s == Step::UserNamespace as u8 => {
                "cannot make a user namespace; root needs none, and for others \
                 user.max_user_namespaces, kernel.unprivileged_userns_clone or a container's \
                 seccomp profile may forbid it"
            }
            s if s == Step::IdMaps as u8 => "cannot write the user namespace's id maps",
            s if s == Step::NetNamespace as u8 => {
                "cannot make a network namespace, not even inside a user namespace; AppArmor \
                 (kernel.apparmor_restrict_unprivileged_userns) or seccomp may forbid it"
            }
            s if s == Step::NamespaceFile as u8 => "cannot open /proc/self/ns; is /proc mounted?",
            _ => "the wire's helper failed",
        }
    }
}
