//! The kernel's version, and the bugs that apply to it. Pure.
//!
//! Versions only advise: distributors port changes both ways, so what works is found by trying
//! (`gather/uring.rs`), and what is broken can only be guessed from here.

use crate::report::Check;

/// A kernel's version without its patch level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32);

impl Version {
    /// The version in a release: `6.12.9-amd64` is 6.12.
    pub(super) fn of(release: &str) -> Option<Version> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some(Version(numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

/// `MSG_ZEROCOPY` over TCP.
const OLDEST: Version = Version(4, 14);
/// `IORING_OP_SEND_ZC`.
const SEND_ZC: Version = Version(6, 0);
/// Many pieces of registered memory in one request.
const REGISTERED_GATHERED: Version = Version(6, 15);

/// A bug, the versions that have it, and what it means for who uses ringwire.
struct Bug {
    since: Version,
    fixed: Version,
    what: &'static str,
    then: &'static str,
}

/// In the order of what they can do. The upstream commit that fixes each is beside it.
///
/// Not among them: a kernel of 6.17 or 6.18 may send the array of pieces itself where a program
/// asks for `IORING_SEND_VECTORIZED` from registered memory (c36e28becd05). ringwire never asks for
/// that, and stable kernels got the fix without a version that tells.
const BUGS: &[Bug] = &[
    Bug {
        // c265ae75f900
        since: Version(6, 15),
        fixed: Version(6, 18),
        what: "memory of registered gathered sends is let go when it is unregistered, not when it \
               is sent",
        then: "ringwire keeps registrations until the last notification; other programs may not",
    },
    Bug {
        // 2c139a47eff8
        since: Version(6, 10),
        fixed: Version(6, 17),
        what: "notifications of two rings can be chained to each other",
        then: "attach a socket, and duplicates of it, to one ring only",
    },
    Bug {
        // 4fe82aedeb8a
        since: Version(6, 1),
        fixed: Version(6, 9),
        what: "trains of datagrams lose their control data when the send buffer is full",
        then: "they can fail with EFAULT now and then",
    },
    Bug {
        // ef42b85a5609
        since: Version(6, 7),
        fixed: Version(6, 10),
        what: "whoever waits for two completions at once may sleep on",
        then: "ringwire waits for one at a time",
    },
    Bug {
        // 8e3100fcc5cb
        since: Version(6, 0),
        fixed: Version(6, 15),
        what: "a send that waits for room is charged to RLIMIT_MEMLOCK again each time it is tried",
        then: "send registered memory, or raise the limit",
    },
    Bug {
        // the tables of io_uring/rsrc.c count by node since then
        since: Version(6, 0),
        fixed: Version(6, 13),
        what: "unregistering waits for all that is in flight",
        then: "the end of an arena can wait for a peer that acknowledges nothing",
    },
];

/// Which bugs a version has.
fn bugs(version: Version) -> impl Iterator<Item = &'static Bug> {
    BUGS.iter().filter(move |bug| (bug.since..bug.fixed).contains(&version))
}

/// Whether packets that are forwarded to a card stay uncopied (d2527ad3a9e1).
pub(super) fn forwards_uncopied(release: &str) -> bool {
    Version::of(release).is_some_and(|version| version >= Version(6, 17))
}

/// Whether a packet socket that takes the packets of all interfaces has those of other network
/// namespaces copied, too: one list of them held for all, up to 6.12 as measured, and not in 6.16
/// ("net: introduce per netns packet chains", March 2025).
pub(crate) fn taps_reach_everywhere(release: &str) -> bool {
    Version::of(release).is_some_and(|version| version < Version(6, 16))
}

pub(super) fn kernel(release: &str) -> Check {
    let check = Check::ok(
        "kernel",
        format!("Linux {release}"),
        "6.0 for io_uring's zero-copy send, 6.15 for all of it, 4.14 for MSG_ZEROCOPY",
    );
    match Version::of(release) {
        None => check.warn("this is no version of Linux; what was tried below says what works"),
        Some(version) if version < OLDEST => {
            check.fail("whoever runs the host: install a kernel of 6.15 or newer")
        }
        Some(version) if version < SEND_ZC => check.warn(
            "whoever runs the host: install a kernel of 6.15 or newer; until then there is \
             MSG_ZEROCOPY alone",
        ),
        Some(version) if version < REGISTERED_GATHERED => check.warn(
            "whoever runs the host: with 6.15 or newer, sends that are gathered from registered \
             memory need no page references",
        ),
        Some(_) => check,
    }
}

pub(super) fn kernel_bugs(release: &str) -> Check {
    let name = "kernel-bugs";
    let needed = "none that zero-copy send can meet";
    let Some(version) = Version::of(release) else {
        let found = format!("cannot tell for {release}");
        return Check::ok(name, found, needed)
            .warn("whoever runs the host: compare with docs/KERNEL.md of ringwire");
    };
    let have: Vec<&Bug> = bugs(version).collect();
    let Some(newest) = have.iter().map(|bug| bug.fixed).max() else {
        return Check::ok(name, "none known of this version", needed);
    };
    let told: Vec<String> = have.iter().map(|bug| format!("{} ({})", bug.what, bug.then)).collect();
    Check::ok(name, told.join("; "), needed).warn(format!(
        "whoever runs the host: {}.{} or newer has none of these; the distributor may have fixed \
         some in this one",
        newest.0, newest.1
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    #[test]
    fn versions_are_read_from_releases() {
        let table = [
            ("6.18.44-fc-v669", Some(Version(6, 18))),
            ("6.1.0-13-amd64", Some(Version(6, 1))),
            ("5.15.167.4-microsoft-standard-WSL2", Some(Version(5, 15))),
            ("7.0-rc1", Some(Version(7, 0))),
            ("4.4.0", Some(Version(4, 4))),
            ("", None),
            ("unknown", None),
        ];
        for (release, version) in table {
            assert_eq!(Version::of(release), version, "{release}");
        }
    }

    /// How many bugs each version has, and a word of each.
    #[test]
    fn bugs_apply_from_the_version_that_brought_them_until_the_one_that_fixed_them() {
        let table: [(&str, &[&str]); 12] = [
            ("5.15.1", &[]),
            ("6.0.9", &["charged", "unregistering"]),
            ("6.1.192", &["control data", "charged", "unregistering"]),
            ("6.6.8", &["control data", "charged", "unregistering"]),
            ("6.7.2", &["control data", "sleep on", "charged", "unregistering"]),
            ("6.8.0", &["control data", "sleep on", "charged", "unregistering"]),
            ("6.9.1", &["sleep on", "charged", "unregistering"]),
            ("6.12.117", &["two rings", "charged", "unregistering"]),
            ("6.14.6", &["two rings", "charged"]),
            ("6.16.0", &["let go", "two rings"]),
            ("6.17.3", &["let go"]),
            ("6.18.44", &[]),
        ];
        for (release, words) in table {
            let found = kernel_bugs(release).found;
            let version = Version::of(release).unwrap();
            assert_eq!(bugs(version).count(), words.len(), "{release}: {found}");
            for word in words {
                assert!(found.contains(word), "{release} has {word}: {found}");
            }
        }
        assert!(kernel_bugs("6.12.0").hint.unwrap().contains("6.17 or newer"));
    }

    #[test]
    fn a_kernel_is_judged_by_what_it_can_have() {
        let table = [
            ("4.9.0", Status::Fail),
            ("4.14.0", Status::Warn),
            ("5.15.0", Status::Warn),
            ("6.1.0", Status::Warn),
            ("6.14.9", Status::Warn),
            ("6.15.0", Status::Ok),
            ("7.1.0", Status::Ok),
            ("plan9", Status::Warn),
        ];
        for (release, status) in table {
            assert_eq!(kernel(release).status, status, "{release}");
        }
    }

    #[test]
    fn forwarding_keeps_memory_since_6_17() {
        assert!(!forwards_uncopied("6.16.12"));
        assert!(forwards_uncopied("6.17.0"));
        assert!(!forwards_uncopied("unknown"));
    }
}
