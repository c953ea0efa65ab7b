//! What was seen: plain data between `gather/`, which fills it in, and `judge/`, which reads it.
//!
//! Everything here can be written down and read back, so that tests judge hosts that are not at
//! hand. Invariant: a fact says what was seen or why it could not be, never what it means.

use serde::{Deserialize, Serialize};

/// Something seen, or why it could not be seen, in words.
pub type Seen<T> = Result<T, String>;

/// Something tried: it worked, or the kernel answered with an error number.
pub type Tried = Result<(), i32>;

/// Everything that is known of the host, and of the path if one was asked about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The kernel's release, as `uname -r` says it.
    pub kernel: String,
    /// Who asks.
    pub process: Process,
    /// io_uring.
    pub uring: Uring,
    /// `MSG_ZEROCOPY`.
    pub zerocopy: Zerocopy,
    /// Memory and its limits.
    pub memory: Memory,
    /// Limits of send buffers.
    pub buffers: Buffers,
    /// Network interfaces of this process's namespace, loopback included.
    pub interfaces: Seen<Vec<Interface>>,
    /// Open packet sockets of this namespace.
    pub packet_sockets: Seen<Vec<PacketSocket>>,
    /// How many of other network namespaces take packets of all interfaces, as far as processes in
    /// them can be seen.
    pub packet_sockets_elsewhere: u32,
    /// Outbound IPsec policies of this namespace.
    pub ipsec_policies: Seen<u32>,
    /// How devices see memory.
    pub iommu: Iommu,
    /// What the kernel has for TLS.
    pub tls: Tls,
    /// What ringwire itself chose here.
    pub engine: Seen<Engine>,
    /// Sending into the perfect wire.
    pub live: Live,
    /// The destination, if one was given.
    pub path: Option<Path>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Effective user id.
    pub uid: u32,
    /// Effective capabilities, as a bit set; `None` where `/proc` does not say.
    pub capabilities: Option<u64>,
    /// Whether these capabilities are over the host and not over a user namespace only.
    pub host_user_namespace: bool,
    /// `Seccomp` of `/proc/self/status`: 0 none, 1 strict, 2 filters.
    pub seccomp: Option<u32>,
}

/// io_uring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Uring {
    /// `kernel.io_uring_disabled`; `None` where there is no such setting (before 6.6).
    pub disabled: Option<u32>,
    /// `kernel.io_uring_group`.
    pub group: Option<i64>,
    /// A small ring.
    pub ring: Tried,
    /// What it knows; `None` without a ring.
    pub features: Option<Features>,
}

/// What rings know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// `IORING_OP_SEND_ZC`.
    pub send_zc: bool,
    /// `IORING_OP_SENDMSG_ZC`.
    pub sendmsg_zc: bool,
    /// `SENDMSG_ZC` from registered memory.
    pub sendmsg_zc_registered: bool,
    /// `IORING_SEND_ZC_REPORT_USAGE`.
    pub usage_report: bool,
    /// `IORING_REGISTER_CLONE_BUFFERS`.
    pub clone_buffers: bool,
    /// `IORING_SETUP_DEFER_TASKRUN`.
    pub defer_taskrun: bool,
}

/// `MSG_ZEROCOPY`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Zerocopy {
    /// `SO_ZEROCOPY` on a TCP socket.
    pub tcp: Tried,
    /// `SO_ZEROCOPY` on a UDP socket.
    pub udp: Tried,
    /// One send of 64 KiB over loopback, up to its notification.
    pub send: Tried,
}

/// Memory and its limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The soft limit of `RLIMIT_MEMLOCK` in bytes; `None` is no limit.
    pub memlock_soft: Option<u64>,
    /// The hard one.
    pub memlock_hard: Option<u64>,
    /// What an arena could register.
    pub arena: Seen<ArenaFacts>,
    /// Whether settings of the network can be read at all. Some are only there in the host's own
    /// network namespace.
    pub net_settings: bool,
    /// `net.core.optmem_max` in bytes.
    pub optmem_max: Option<u64>,
    /// The choice in brackets of `transparent_hugepage/enabled`.
    pub huge_pages: Option<String>,
    /// Sizes of folios in KiB, with the choice in brackets of each.
    pub folios: Vec<(u64, String)>,
}

/// An arena, as it was built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArenaFacts {
    /// What was asked for.
    pub asked_bytes: u64,
    /// What of it is registered.
    pub registered_bytes: u64,
    /// What the arena says about the rest.
    pub why: Option<String>,
}

/// Limits of send buffers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Buffers {
    /// `net.ipv4.tcp_mtu_probing`.
    pub tcp_mtu_probing: Option<u64>,
    /// The third value of `net.ipv4.tcp_wmem`, in bytes.
    pub tcp_max: Option<u64>,
    /// `net.core.wmem_default` in bytes: what a UDP socket has.
    pub udp_default: Option<u64>,
    /// `net.core.wmem_max` in bytes: what a program may ask for.
    pub udp_max: Option<u64>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `tun`, `bridge` … as the kernel names kinds; `None` for hardware and loopback.
    pub kind: Option<String>,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// Whether it is up.
    pub up: bool,
    /// The MTU in bytes.
    pub mtu: u32,
    /// The interface it is a port or a slave of.
    pub controller: Option<u32>,
    /// The interface below it (VLAN, macvlan).
    pub lower: Option<u32>,
    /// Whether that number, or a cable's other end, is in another namespace.
    pub lower_elsewhere: bool,
    /// The driver's name.
    pub driver: Option<String>,
    /// Names of the features that are on, as `ethtool -k` has them inside the kernel.
    pub features: Seen<Vec<String>>,
    /// The type of the IOMMU group of its hardware.
    pub iommu: Option<String>,
}

/// A packet socket, as `/proc/net/packet` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketSocket {
    /// The protocol it takes; 3 is all, outgoing packets included.
    pub protocol: u16,
    /// The interface it is bound to; 0 is all.
    pub interface: u32,
    /// Whether it is bound at all.
    pub running: bool,
}

/// How devices see memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Iommu {
    /// IOMMUs of `/sys/class/iommu`.
    pub units: Vec<String>,
    /// Types of `/sys/kernel/iommu_groups`, with how many groups have each.
    pub types: Vec<(String, u32)>,
    /// Words of the kernel's command line that name an IOMMU.
    pub command_line: Vec<String>,
}

/// What the kernel has for TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tls {
    /// `net.ipv4.tcp_available_ulp`, in words; `tls` is what matters.
    pub ulps: Seen<Vec<String>>,
}

/// What ringwire itself chose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Engine {
    /// `uring`, `msg-zerocopy` or `copy`.
    pub name: String,
    /// What it cannot do here, and why.
    pub why: Option<String>,
}

/// Sending into the perfect wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// The device that drops.
    pub wire: Seen<String>,
    /// What ringwire's sends came to.
    pub ringwire: Seen<Sample>,
}

/// Bytes that were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// How many were to be sent.
    pub asked_bytes: u64,
    /// How many were acknowledged in time.
    pub bytes: u64,
    /// Bytes of requests that left without a copy.
    pub uncopied_bytes: u64,
    /// Bytes of requests that were copied; the small rest of a payload counts only where nothing
    /// left without a copy.
    pub copied_bytes: u64,
    /// Bytes that ringwire itself copied because RLIMIT_MEMLOCK was short.
    pub memlock_short_bytes: u64,
}

/// The destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// As it was asked for.
    pub to: String,
    /// Its address.
    pub address: String,
    /// Where packets to it go.
    pub route: Seen<Route>,
    /// Whether an IPsec policy encrypts what goes there by TCP.
    pub encrypted: Seen<bool>,
    /// A TCP connection to it.
    pub connection: Seen<Connection>,
}

/// Where packets go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Whether the destination is an address of this host.
    pub local: bool,
    /// The interface they leave by.
    pub interface: u32,
    /// The router, if there is one.
    pub gateway: Option<String>,
}

/// A TCP connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// Whether the peer greeted as a `ringwire recv`.
    pub receiver: bool,
    /// Whether it had no place free.
    #[serde(default)]
    pub busy: bool,
    /// What was sent on it; `None` if nothing was.
    pub probe: Option<Seen<Sample>>,
}
