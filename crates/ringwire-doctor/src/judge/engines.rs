//! The ways to send: io_uring, `MSG_ZEROCOPY`, what ringwire chose, and what came of it. Pure.

use std::fmt;

use super::version::{Version, taps_reach_everywhere};
use super::words::{errno, first_line, hint_of, size, without_hint};
use crate::facts::{Facts, Process, Sample, Uring};
use crate::report::Check;

const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOSYS: i32 = 38;
const ENETUNREACH: i32 = 101;
const ENOBUFS: i32 = 105;
const ETIMEDOUT: i32 = 110;

const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const SECCOMP_FILTERS: u32 = 2;

/// A `MSG_ZEROCOPY` send that is not over takes about this much of optmem (K: measured 740–830).
pub(super) const OPTMEM_SEND_BYTES: u64 = 830;

/// io_uring came with it.
const IO_URING: Version = Version(5, 1);

impl Process {
    fn has(&self, capability: u32) -> bool {
        self.host_user_namespace && self.capabilities.is_some_and(|set| set >> capability & 1 == 1)
    }

    /// Whether no limit of locked memory holds for it.
    pub(super) fn locks_freely(&self) -> bool {
        self.has(CAP_IPC_LOCK)
    }

    fn is_filtered(&self) -> bool {
        self.seccomp == Some(SECCOMP_FILTERS)
    }
}

/// Whether an engine that copies nothing is there, and has memory to work with.
pub(super) fn has_zero_copy(facts: &Facts) -> bool {
    !copies(facts) && facts.engine.is_ok() && shortage(facts).is_none()
}

/// Whether ringwire has no engine but the one that copies.
pub(super) fn copies(facts: &Facts) -> bool {
    facts.engine.as_ref().is_ok_and(|engine| engine.name == "copy")
}

/// Of what there is so little that most of what is sent has to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    Memlock,
    Optmem,
}

impl Shortage {
    fn hint(self) -> &'static str {
        match self {
            Shortage::Memlock => "see the hint of memlock",
            Shortage::Optmem => "see the hint of optmem",
        }
    }
}

pub(super) fn shortage(facts: &Facts) -> Option<Shortage> {
    let sends_so = facts.engine.as_ref().is_ok_and(|engine| engine.name == "msg-zerocopy");
    if sends_so && facts.zerocopy.send == Err(ENOBUFS) {
        // One error number for both.
        let optmem = facts.memory.optmem_max;
        return Some(match optmem.is_some_and(|bytes| bytes < OPTMEM_SEND_BYTES) {
            true => Shortage::Optmem,
            false => Shortage::Memlock,
        });
    }
    let live = facts.live.ringwire.as_ref().ok()?;
    let said = said_of(facts, live);
    matches!(said, Said::NoMemlock(Part::All | Part::Most)).then_some(Shortage::Memlock)
}

/// What keeps rings from being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    SwitchedOff,
    GroupOnly,
    SeccompDenies,
    SeccompHides,
    SecurityModule,
    NotBuilt,
    TooOld,
    Memlock,
    Descriptors,
    /// A ring can be made, and cannot send without a copy.
    NoSendZc,
    Other,
}

/// Tells apart what answers with one error number.
pub(super) fn obstacle(uring: &Uring, number: i32, process: &Process, kernel: &str) -> Obstacle {
    match number {
        EPERM | EACCES => match uring.disabled {
            Some(2) => Obstacle::SwitchedOff,
            Some(1) if !process.has(CAP_SYS_ADMIN) => Obstacle::GroupOnly,
            _ if process.is_filtered() => Obstacle::SeccompDenies,
            _ => Obstacle::SecurityModule,
        },
        // The setting is there only where io_uring is.
        ENOSYS if uring.disabled.is_some() => Obstacle::SeccompHides,
        ENOSYS => match Version::of(kernel) {
            Some(version) if version < IO_URING => Obstacle::TooOld,
            _ if process.is_filtered() => Obstacle::SeccompHides,
            _ => Obstacle::NotBuilt,
        },
        ENOMEM => Obstacle::Memlock,
        EMFILE | ENFILE => Obstacle::Descriptors,
        _ => Obstacle::Other,
    }
}

impl Obstacle {
    fn what(self) -> &'static str {
        match self {
            Obstacle::SwitchedOff => "the setting kernel.io_uring_disabled is 2",
            Obstacle::GroupOnly => {
                "the setting kernel.io_uring_disabled is 1, and this process is not in the group \
                 kernel.io_uring_group"
            }
            Obstacle::SeccompDenies => "a seccomp filter forbids it",
            Obstacle::SeccompHides => "a seccomp filter hides it",
            Obstacle::SecurityModule => "a security module (SELinux, AppArmor) forbids it",
            Obstacle::NotBuilt => "this kernel was built without it",
            Obstacle::TooOld => "this kernel does not have it yet",
            Obstacle::Memlock => "RLIMIT_MEMLOCK has no room for a ring",
            Obstacle::Descriptors => "no file descriptor is free",
            Obstacle::NoSendZc => "this kernel's rings cannot send without a copy",
            Obstacle::Other => "for a reason that is not known",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Obstacle::SwitchedOff => "root of the host: sysctl -w kernel.io_uring_disabled=0",
            Obstacle::GroupOnly => {
                "root of the host: sysctl -w kernel.io_uring_disabled=0, or set \
                 kernel.io_uring_group to a group of this user"
            }
            Obstacle::SeccompDenies | Obstacle::SeccompHides => {
                "whoever starts the container or service: allow io_uring_setup, io_uring_enter and \
                 io_uring_register in its seccomp profile (Docker and Podman: --security-opt \
                 seccomp=FILE; systemd: SystemCallFilter=@aio)"
            }
            Obstacle::SecurityModule => {
                "whoever runs the host: allow io_uring in the policy that holds for this process; \
                 the kernel's log names it"
            }
            Obstacle::NotBuilt => "whoever runs the host: a kernel with CONFIG_IO_URING",
            Obstacle::TooOld | Obstacle::NoSendZc => {
                "whoever runs the host: a kernel of 6.15 or newer"
            }
            Obstacle::Memlock => "see the hint of memlock",
            Obstacle::Descriptors => "whoever starts the program: raise \"ulimit -n\"",
            Obstacle::Other => "please report this with the kernel's version",
        }
    }
}

/// The obstacle to rings on this host, if there is one.
pub(super) fn uring_obstacle(facts: &Facts) -> Option<Obstacle> {
    match facts.uring.ring {
        Ok(()) => {
            facts.uring.features.is_some_and(|known| !known.send_zc).then_some(Obstacle::NoSendZc)
        }
        Err(number) => Some(obstacle(&facts.uring, number, &facts.process, &facts.kernel)),
    }
}

pub(super) fn uring(facts: &Facts) -> Check {
    let needed = "a ring can be made, and send without a copy";
    let Some(obstacle) = uring_obstacle(facts) else {
        return Check::ok("io_uring", "a ring was made", needed);
    };
    let found = match facts.uring.ring {
        Ok(()) => format!("a ring was made, but {}", obstacle.what()),
        Err(number) => format!("refused with {}: {}", errno(number), obstacle.what()),
    };
    let check = Check::ok("io_uring", found, needed);
    match has_zero_copy(facts) {
        true => check.warn(obstacle.hint()),
        false => check.fail(obstacle.hint()),
    }
}

pub(super) fn features(facts: &Facts) -> Check {
    let name = "io_uring-features";
    let needed = "SEND_ZC; the others where they pay";
    let Some(known) = facts.uring.features else {
        return Check::ok(name, "cannot be seen without a ring", needed)
            .warn("see the hint of io_uring");
    };
    let table = [
        (known.send_zc, "SEND_ZC"),
        (known.sendmsg_zc, "SENDMSG_ZC"),
        (known.sendmsg_zc_registered, "registered SENDMSG_ZC"),
        (known.usage_report, "usage report"),
        (known.clone_buffers, "CLONE_BUFFERS"),
        (known.defer_taskrun, "DEFER_TASKRUN"),
    ];
    let list = |wanted: bool| {
        let names: Vec<&str> =
            table.iter().filter(|(is, _)| *is == wanted).map(|(_, name)| *name).collect();
        names.join(", ")
    };
    let (has, lacks) = (list(true), list(false));
    if lacks.is_empty() {
        return Check::ok(name, has, needed);
    }
    let has = if has.is_empty() { "none".to_owned() } else { has };
    let found = format!("{has}; not {lacks}");
    let check = Check::ok(name, found, needed);
    let hint = "whoever runs the host: a kernel of 6.15 or newer has all of them (6.0 SEND_ZC; 6.1 \
                SENDMSG_ZC, DEFER_TASKRUN; 6.2 usage report; 6.12 CLONE_BUFFERS; 6.15 registered)";
    match known.send_zc || has_zero_copy(facts) {
        true => check.warn(hint),
        false => check.fail(hint),
    }
}

pub(super) fn zerocopy(facts: &Facts) -> Check {
    let name = "msg-zerocopy";
    let needed = "SO_ZEROCOPY and a notification, where io_uring is not to be had";
    let tried = &facts.zerocopy;
    let (found, hint) = match (tried.tcp, tried.udp, tried.send) {
        (Ok(()), Ok(()), Ok(())) => {
            return Check::ok(name, "TCP and UDP take it; a send was notified", needed);
        }
        (Ok(()), Err(number), Ok(())) => (
            format!("TCP takes it; UDP answers {}", errno(number)),
            "whoever runs the host: UDP takes it since Linux 5.0",
        ),
        (Ok(()), _, Err(ENOBUFS)) => (
            "a socket takes it, but a send of 64 KiB is refused with ENOBUFS".into(),
            "see the hints of memlock and optmem: one of them has no room",
        ),
        (Ok(()), _, Err(ETIMEDOUT)) => (
            "a socket takes it, but a send did not come to an end in time".into(),
            "try again when this machine is less busy",
        ),
        (Ok(()), _, Err(ENETUNREACH)) => (
            "a socket takes it; a send was not tried, for loopback is down".into(),
            "root of this network namespace: ip link set lo up",
        ),
        (Ok(()), _, Err(number)) => (
            format!("a socket takes it, but a send ended with {}", errno(number)),
            "please report this with the kernel's version",
        ),
        (Err(number), ..) => (
            format!("a TCP socket answers {}", errno(number)),
            "whoever runs the host: it takes Linux 4.14 and its own TCP (gVisor has none)",
        ),
    };
    Check::ok(name, found, needed).warn(hint)
}

pub(super) fn engine(facts: &Facts) -> Check {
    let name = "engine";
    let needed = "one that copies nothing: uring, or msg-zerocopy";
    let blocked = uring_obstacle(facts)
        .map_or("see the hints of io_uring-features and memlock", Obstacle::hint);
    match &facts.engine {
        Ok(engine) => {
            let why = engine.why.as_deref().map(without_hint);
            let found = match &why {
                Some(why) => format!("ringwire uses {} here: {why}", engine.name),
                None => format!("ringwire uses {} here", engine.name),
            };
            let check = Check::ok(name, found, needed);
            match (engine.name.as_str(), why, shortage(facts)) {
                ("copy", ..) => check.fail(blocked),
                (.., Some(shortage)) => check.fail(shortage.hint()),
                ("uring", None, _) => check,
                ("uring", Some(_), _) => check.warn(
                    "nothing breaks: what cannot be had is done in another way; memlock and \
                     io_uring-features say what would help",
                ),
                _ => check.warn(blocked),
            }
        }
        Err(why) => {
            let found = format!("ringwire cannot be used: {}", first_line(why));
            let hint = hint_of(why).map(|hint| format!("whoever starts the program: {hint}"));
            Check::ok(name, found, needed).fail(hint.unwrap_or_else(|| blocked.into()))
        }
    }
}

pub(super) fn live(facts: &Facts) -> Check {
    let name = "live-probe";
    let needed = "bytes that leave without a copy";
    let device = match &facts.live.wire {
        Ok(device) => device,
        Err(why) => {
            let why = first_line(why);
            return Check::ok(name, format!("not tried: there is no wire for it: {why}"), needed)
                .warn(
                    "whoever runs the host: it takes a user and a network namespace, and the \
                     module dummy or ifb",
                );
        }
    };
    let sample = match &facts.live.ringwire {
        Ok(sample) => sample,
        Err(why) => {
            let check = Check::ok(name, format!("nothing sent: {}", first_line(why)), needed);
            return match facts.engine {
                Err(_) => check.warn("see the hint of engine"),
                Ok(_) => check.fail("please report this with the kernel's version"),
            };
        }
    };
    let said = said_of(facts, sample);
    let found = format!("{} into the perfect wire ({device}), {said}", sent(sample));
    let check = Check::ok(name, found, needed);
    match said {
        Said::NothingCopied => check,
        Said::Silent => check.warn("whoever runs the host: the kernel says it since 6.2"),
        Said::NoMemlock(Part::Some) => check.warn("see the hint of memlock"),
        Said::NoMemlock(_) => check.fail("see the hint of memlock"),
        Said::EngineCopies => check.fail("see the hint of engine"),
        Said::MtuProbing => check.fail("see the hint of mtu-probing"),
        Said::Copied(_) if taps_reach_everywhere(&facts.kernel) => {
            match facts.packet_sockets_elsewhere {
                0 => check.fail(format!(
                    "{UNSEEN_TAP}; if there is none, please report this with the kernel's version"
                )),
                _ => check.fail("see the hint of packet-sockets"),
            }
        }
        Said::Copied(_) => {
            check.fail("please report this with the kernel's version: nothing on this wire copies")
        }
    }
}

/// What is to be thought of where the wire copies and nobody can be seen who makes it.
const UNSEEN_TAP: &str = "root of the host: run ringwire doctor there: before Linux 6.16 a packet \
                          socket on all interfaces (tcpdump -i any) of any network namespace has \
                          everything copied";

/// How much of something. In words, because numbers would differ from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    All,
    /// Half of it and more.
    Most,
    Some,
}

impl Part {
    fn of(part: u64, whole: u64) -> Part {
        match part {
            _ if part >= whole => Part::All,
            _ if part >= whole.div_ceil(2) => Part::Most,
            _ => Part::Some,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Part::All => "all",
            Part::Most => "most",
            Part::Some => "some",
        }
    }
}

/// What is to be said of bytes that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing was copied, as far as the kernel says.
    NothingCopied,
    /// It did not say anything.
    Silent,
    /// Copied by ringwire, because no memory could be locked.
    NoMemlock(Part),
    /// Copied by ringwire, which has no other engine.
    EngineCopies,
    /// Copied by ringwire, because TCP may probe for a larger MTU.
    MtuProbing,
    /// Copied on the way.
    Copied(Part),
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Said::NothingCopied => f.write_str("nothing copied, as far as the kernel says"),
            Said::Silent => f.write_str("and the kernel does not say if it was copied"),
            Said::NoMemlock(part) => {
                write!(f, "{} of it copied before it left: RLIMIT_MEMLOCK was short", part.word())
            }
            Said::EngineCopies => f.write_str("all of it copied before it left, by the engine"),
            Said::MtuProbing => {
                f.write_str("all of it copied before it left, for TCP may probe for a larger MTU")
            }
            Said::Copied(part) => write!(f, "{} of it copied on the way", part.word()),
        }
    }
}

/// How much was sent. Only a part, if the time was over.
pub(super) fn sent(sample: &Sample) -> String {
    let asked = size(sample.asked_bytes);
    match sample.bytes < sample.asked_bytes {
        true => format!("part of {asked} sent in time"),
        false => format!("{asked} sent"),
    }
}

pub(super) fn said_of(facts: &Facts, sample: &Sample) -> Said {
    if copies(facts) {
        return Said::EngineCopies;
    }
    // All samples are of TCP.
    if facts.buffers.tcp_mtu_probing != Some(0) {
        return Said::MtuProbing;
    }
    if sample.memlock_short_bytes > 0 && sample.memlock_short_bytes >= sample.copied_bytes / 2 {
        return Said::NoMemlock(Part::of(sample.copied_bytes, sample.bytes));
    }
    match (sample.copied_bytes, sample.uncopied_bytes) {
        (0, 0) => Said::Silent,
        (0, _) => Said::NothingCopied,
        (copied, _) => Said::Copied(Part::of(copied, sample.bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(capabilities: u64, seccomp: u32) -> Process {
        Process {
            uid: 1000,
            capabilities: Some(capabilities),
            host_user_namespace: true,
            seccomp: Some(seccomp),
        }
    }

    #[test]
    fn what_answers_with_one_error_number_is_told_apart() {
        let uring = |disabled| Uring { disabled, group: None, ring: Ok(()), features: None };
        let admin = process(1 << CAP_SYS_ADMIN, 0);
        let (user, filtered) = (process(0, 0), process(0, 2));
        let table = [
            (Some(2), EPERM, &admin, "6.18.0", Obstacle::SwitchedOff),
            (Some(1), EPERM, &user, "6.18.0", Obstacle::GroupOnly),
            (Some(1), EPERM, &admin, "6.18.0", Obstacle::SecurityModule),
            (Some(0), EPERM, &filtered, "6.18.0", Obstacle::SeccompDenies),
            (Some(0), EACCES, &user, "6.18.0", Obstacle::SecurityModule),
            (Some(0), ENOSYS, &filtered, "6.18.0", Obstacle::SeccompHides),
            (None, ENOSYS, &filtered, "6.1.0", Obstacle::SeccompHides),
            (None, ENOSYS, &user, "6.1.0", Obstacle::NotBuilt),
            (None, ENOSYS, &filtered, "4.19.0", Obstacle::TooOld),
            (Some(0), ENOMEM, &user, "6.18.0", Obstacle::Memlock),
            (Some(0), EMFILE, &user, "6.18.0", Obstacle::Descriptors),
            (Some(0), 5, &user, "6.18.0", Obstacle::Other),
        ];
        for (disabled, number, process, kernel, expected) in table {
            let found = obstacle(&uring(disabled), number, process, kernel);
            assert_eq!(found, expected, "{disabled:?} {number} {kernel}");
        }
    }

    #[test]
    fn capabilities_of_a_user_namespace_are_none_of_the_host() {
        let mut process = process(u64::MAX, 0);
        assert!(process.locks_freely());
        process.host_user_namespace = false;
        assert!(!process.locks_freely());
        process.host_user_namespace = true;
        process.capabilities = None;
        assert!(!process.locks_freely());
    }
}
