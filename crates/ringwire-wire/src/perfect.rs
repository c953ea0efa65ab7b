//! A wire on which zero copy is zero copy, without a network card: packets go to a device that
//! drops them once they are transmitted, and acknowledgements come from a thread.

mod acker;
mod alarm;
mod connection;
mod flow;
mod segment;
mod sent;
mod sys;
mod written;

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netlink_packet_route::link::InfoKind;
use rustix::net::{AddressFamily, Protocol, SocketType};

use crate::ends::{Family, Side};
use crate::helper::{Count, Helper};
use crate::rtnetlink::{LOOPBACK_INDEX, Rtnetlink, UP_MAX};
use crate::unavailable::Unavailable;

use acker::Acker;
use connection::{Raw, abort, establish};

pub use acker::{AckerUse, pin_to_cpu};
pub use flow::Flow;
pub use written::Written;

/// The drop device's number and name in its namespace.
const DEVICE_INDEX: u32 = 101;
const DEVICE_NAME: &str = "sink";

/// The discard service: what is sent there is meant to go nowhere.
const PEER_PORT: u16 = 9;

/// `TCP_MAXSEG` takes no more (`MAX_TCP_WINDOW` of net/tcp.h).
const MAX_SEGMENT_MAX: u32 = 32_767;

/// IPv6 needs the one, a packet's length has no more bits than the other.
const MTU_BYTES_MIN: u32 = 1280;
const MTU_BYTES_MAX: u32 = 65_535;

/// What a connection waits at least before it retransmits anything: longer than any pause that the
/// acknowledger's thread takes on a busy host. What the acknowledger may have to send again it does
/// itself, much sooner.
const RTO_MIN_MS: u32 = 10_000;

/// `TCP_INIT_CWND` of net/tcp.h.
const FIRST_SEGMENTS: u32 = 10;

const RAW_REFUSED: &str = "cannot make a raw socket, not even as root of a namespace; seccomp or \
                           AppArmor may forbid it, which whoever runs the container can change";
const REPAIR_REFUSED: &str = "cannot repair a socket into a connection (TCP_REPAIR); seccomp may \
                              forbid it, or this is not Linux' own TCP (gVisor)";
const DEVICE_REFUSED: &str = "cannot make a device that drops; root can load the kernel's module \
                              for one: modprobe dummy, or modprobe ifb";

/// The namespace's settings, set because it starts with whatever the host's administrator likes:
/// the kernel's default send and receive buffers; and what keeps a connection's speed from
/// depending on its past. Nobody asks for a router, and no probe is sent when the acknowledger is
/// late.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv4/tcp_wmem", "4096 16384 4194304"),
    ("net/ipv4/tcp_rmem", "4096 131072 6291456"),
    // Repair would count them into every header and then send none.
    ("net/ipv4/tcp_timestamps", "0"),
    ("net/ipv4/tcp_slow_start_after_idle", "0"),
    ("net/ipv4/tcp_no_metrics_save", "1"),
    ("net/ipv4/tcp_early_retrans", "0"),
];

/// How a [`Perfect`] wire is to be; see [`Perfect::builder`].
#[derive(Clone, Debug)]
pub struct PerfectBuilder {
    ack_every: Duration,
    mtu_bytes: u32,
    first_segments: u32,
    acker_cpu: Option<usize>,
}

impl PerfectBuilder {
    /// The acknowledger's pace: from the beginning of a look to the next. 30 µs by default, about
    /// the interrupt moderation of a network card; zero looks all the time.
    pub fn ack_every(mut self, ack_every: Duration) -> Self {
        self.ack_every = ack_every;
        self
    }

    /// The device's MTU in bytes, 1,280 to 65,535; 9,000 by default. A TCP segment has 32,767 bytes
    /// at most all the same.
    pub fn mtu(mut self, mtu_bytes: u32) -> Self {
        self.mtu_bytes = mtu_bytes;
        self
    }

    /// Segments that a connection sends before anything is acknowledged; 10 by default, which is
    /// Linux'. For who holds acknowledgements back ([`Flow::hold`]) until all is sent.
    pub fn first_segments(mut self, first_segments: u32) -> Self {
        self.first_segments = first_segments;
        self
    }

    /// Keeps the acknowledger on one processor; the scheduler's choice by default. See
    /// [`pin_to_cpu`] for why a measurement wants that.
    pub fn acker_cpu(mut self, cpu: usize) -> Self {
        self.acker_cpu = Some(cpu);
        self
    }

    /// Makes the namespace, the device and the acknowledger.
    ///
    /// Forks once, briefly sharing the process's memory copy-on-write: make the wire before an
    /// arena of gigabytes.
    ///
    /// # Errors
    /// [`Unavailable`] with the reason where the host does not allow it; pass it to
    /// [`crate::skip`].
    pub fn build(self) -> Result<Perfect, Unavailable> {
        let mut wire = self.build_still()?;
        let thread = wire.acker.start(self.acker_cpu);
        let failed = |why| Unavailable::new(format!("cannot start the acknowledger: {why}"));
        wire.thread = Some(thread.map_err(failed)?);
        Ok(wire)
    }

    /// The wire without its thread: nobody acknowledges.
    fn build_still(&self) -> Result<Perfect, Unavailable> {
        if !(MTU_BYTES_MIN..=MTU_BYTES_MAX).contains(&self.mtu_bytes) {
            let why = format!("an MTU of {} bytes: 1280 to 65535 can be had", self.mtu_bytes);
            return Err(Unavailable::new(why));
        }
        let unavailable = |(what, why)| Unavailable::new(format!("{what}: {why}"));
        // The namespace lasts as long as the child stands in it.
        let (helper, _) = Helper::start(Count::One)?;
        let link = helper
            .socket(Side::Near, AddressFamily::NETLINK, SocketType::RAW, None)
            .and_then(Rtnetlink::new)
            .map_err(|why| unavailable(("cannot talk to the namespace's rtnetlink", why)))?;
        let ground = Ground { helper, link: Mutex::new(link) };
        let device = ground.set_up(self.mtu_bytes, self.first_segments).map_err(unavailable)?;
        let raw = |family| ground.raw_socket(family).map_err(|why| unavailable((RAW_REFUSED, why)));
        let (raw_v4, raw_v6) = (raw(Family::V4)?, raw(Family::V6)?);
        let wire = Perfect {
            ground,
            device,
            mtu_bytes: self.mtu_bytes,
            raw_v4,
            raw_v6,
            acker: Acker::new(self.ack_every),
            thread: None,
        };
        // Connections, so that what refuses them is known now.
        for family in Family::BOTH {
            let (stream, _) =
                wire.connect(family).map_err(|why| unavailable((REPAIR_REFUSED, why)))?;
            abort(&stream);
        }
        Ok(wire)
    }
}

/// The namespace: who makes sockets in it, and its rtnetlink.
struct Ground {
    helper: Helper,
    /// The lock is held from a request to its answer.
    link: Mutex<Rtnetlink>,
}

/// What the device of a [`Perfect`] wire was given to transmit since the wire was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transmitted {
    /// Packets as the device gets them: a train of segments, up to 64 KiB, is one.
    pub packets: u64,
    /// Bytes with headers from Ethernet up, one set of them a packet.
    pub bytes: u64,
}

/// A network namespace whose only device drops what it transmits, with TCP connections that are
/// acknowledged all the same. See the crate's picture.
///
/// Made as root or as an ordinary user (who gets a user namespace around it). Sockets work on any
/// thread. Dropping the wire aborts the connections that are left.
///
/// ```no_run
/// use std::io::Write as _;
/// use ringwire_wire::{Family, Perfect};
///
/// let wire = Perfect::builder().build()?;
/// let flow = wire.tcp(Family::V4)?;
/// let bytes = flow.stream().write(&[0; 4096])?;
/// flow.written().add(bytes as u64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Perfect {
    ground: Ground,
    device: InfoKind,
    mtu_bytes: u32,
    raw_v4: Raw,
    raw_v6: Raw,
    acker: Arc<Acker>,
    /// The acknowledger's.
    thread: Option<JoinHandle<()>>,
}

impl Perfect {
    /// A wire with an MTU of 9,000, acknowledged every 30 µs, unless it is told otherwise.
    pub fn builder() -> PerfectBuilder {
        PerfectBuilder {
            ack_every: Duration::from_micros(30),
            mtu_bytes: 9000,
            first_segments: FIRST_SEGMENTS,
            acker_cpu: None,
        }
    }

    /// An established TCP connection of its own.
    ///
    /// # Errors
    /// Those of making a socket, `EMFILE` among them; `AddrNotAvailable` with 28,000 flows of one
    /// family.
    pub fn tcp(&self, family: Family) -> io::Result<Flow> {
        let raw = match family {
            Family::V4 => &self.raw_v4,
            Family::V6 => &self.raw_v6,
        };
        let (stream, max_segment) = self.connect(family)?;
        Flow::new(stream, peer(family), max_segment, raw.clone(), &self.acker)
    }

    /// A connection that nobody acknowledges yet, and its largest segment.
    fn connect(&self, family: Family) -> io::Result<(TcpStream, u32)> {
        let socket = self.ground.socket(family.domain(), SocketType::STREAM, None)?;
        let ip_bytes = if family == Family::V4 { 20 } else { 40 };
        let max_segment = (self.mtu_bytes - ip_bytes - 20).min(MAX_SEGMENT_MAX);
        Ok((establish(socket, peer(family), max_segment)?, max_segment))
    }

    /// A UDP socket connected to the peer.
    pub fn udp(&self, family: Family) -> io::Result<UdpSocket> {
        let socket =
            UdpSocket::from(self.ground.socket(family.domain(), SocketType::DGRAM, None)?);
        socket.connect(peer(family))?;
        Ok(socket)
    }

    /// A packet socket that takes in every packet of the wire, as tcpdump's does, until it is
    /// dropped; nobody need read from it. As long as it is there, the kernel copies what is lent to
    /// it for each packet, and says so (K19).
    ///
    /// # Errors
    /// Those of making a socket.
    pub fn capture(&self) -> io::Result<OwnedFd> {
        let all = Some(rustix::net::eth::ALL);
        self.ground.socket(AddressFamily::PACKET, SocketType::RAW, all)
    }

    /// What the acknowledger has used so far.
    pub fn acker(&self) -> AckerUse {
        self.acker.used()
    }

    /// Changes the acknowledger's pace; see [`PerfectBuilder::ack_every`].
    pub fn set_ack_every(&self, ack_every: Duration) {
        self.acker.set_ack_every(ack_every);
    }

    /// The acknowledger's pace.
    pub fn ack_every(&self) -> Duration {
        self.acker.ack_every()
    }

    /// What the device was given to transmit.
    ///
    /// # Errors
    /// Those of asking the kernel over netlink.
    pub fn transmitted(&self) -> io::Result<Transmitted> {
        let statistics = self.ground.link().statistics(DEVICE_INDEX)?;
        Ok(match self.device {
            // Made to take in what other devices redirect to it, it counts by that word.
            InfoKind::Ifb => {
                Transmitted { packets: statistics.rx_packets, bytes: statistics.rx_bytes }
            }
            _ => Transmitted { packets: statistics.tx_packets, bytes: statistics.tx_bytes },
        })
    }

    /// A file of the namespace's `/proc/net`, by its path below `/proc`, for reading:
    /// `net/sockstat`, `net/snmp`.
    ///
    /// # Errors
    /// `InvalidInput` for a path outside of `net/`, or those of opening it.
    pub fn file(&self, path: &str) -> io::Result<File> {
        self.ground.helper.open_proc(Side::Near, path).map(File::from)
    }

    /// Changes a setting of the namespace, by its path below `/proc/sys`, `net/ipv4/tcp_wmem`, and
    /// of nothing else.
    ///
    /// # Errors
    /// `NotFound` for a setting that the namespace does not have of its own, `InvalidInput` for one
    /// of something else, among others.
    pub fn set_sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        self.ground.set_sysctl(name, value)
    }

    /// A setting of the namespace, by its path below `/proc/sys`: `net/ipv4/tcp_wmem`. White space
    /// inside a value is one blank each.
    ///
    /// # Errors
    /// As [`Perfect::set_sysctl`].
    pub fn sysctl(&self, name: &str) -> io::Result<String> {
        let mut value = String::new();
        let file = self.ground.helper.open_sysctl(Side::Near, name)?;
        File::from(file).read_to_string(&mut value)?;
        Ok(value.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// The kind of the device that drops: `dummy` or `ifb`.
    pub fn device(&self) -> &'static str {
        if self.device == InfoKind::Dummy { "dummy" } else { "ifb" }
    }

    /// Changes the device's MTU under the sockets that there are, 1,280 to 65,535 bytes: their path
    /// becomes another one. Segments of connections grow no larger than they agreed on.
    ///
    /// # Errors
    /// Those of asking the kernel over netlink.
    pub fn set_mtu(&self, mtu_bytes: u32) -> io::Result<()> {
        self.ground.link().set_mtu(DEVICE_INDEX, mtu_bytes)
    }

    /// The MTU in bytes that the device was made with.
    pub fn mtu(&self) -> u32 {
        self.mtu_bytes
    }
}

impl Ground {
    fn socket(
        &self,
        domain: AddressFamily,
        kind: SocketType,
        protocol: Option<Protocol>,
    ) -> io::Result<std::os::fd::OwnedFd> {
        self.helper.socket(Side::Near, domain, kind, protocol)
    }

    /// Makes the device and all around it, and answers what kind it is.
    fn set_up(
        &self,
        mtu_bytes: u32,
        first_segments: u32,
    ) -> Result<InfoKind, (&'static str, io::Error)> {
        let at = |what| move |why| (what, why);
        let link = self.link();
        // First: a device takes over the defaults of its day.
        for (name, value) in SYSCTLS {
            self.set_sysctl(name, value).map_err(at("cannot set the namespace's sysctls"))?;
        }
        let add =
            |kind: &InfoKind| link.add_sink(kind.clone(), DEVICE_INDEX, DEVICE_NAME, mtu_bytes);
        let kind = match add(&InfoKind::Dummy) {
            Ok(()) => InfoKind::Dummy,
            Err(_) => add(&InfoKind::Ifb).map(|()| InfoKind::Ifb).map_err(at(DEVICE_REFUSED))?,
        };
        link.set_fifo(DEVICE_INDEX).map_err(at("cannot set the device's queue"))?;
        for index in [LOOPBACK_INDEX, DEVICE_INDEX] {
            link.up(index).map_err(at("cannot bring the device up"))?;
        }
        for family in Family::BOTH {
            let prefix = if family == Family::V4 { 24 } else { 64 };
            link.add_address(DEVICE_INDEX, local(family), prefix)
                .map_err(at("cannot set addresses (is IPv6 off?)"))?;
            wait_until(|| link.takes_in(local(family)))
                .map_err(at("an address does not come up"))?;
            let peer = peer(family).ip();
            link.add_patient_route(DEVICE_INDEX, peer, RTO_MIN_MS, first_segments)
                .map_err(at("cannot set a route"))?;
        }
        Ok(kind)
    }

    fn link(&self) -> MutexGuard<'_, Rtnetlink> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        let file = self.helper.open_sysctl(Side::Near, name)?;
        File::from(file).write_all(value.as_bytes())
    }

    fn raw_socket(&self, family: Family) -> io::Result<Raw> {
        let socket =
            self.socket(family.domain(), SocketType::RAW, Some(rustix::net::ipproto::RAW))?;
        rustix::net::connect(&socket, &SocketAddr::new(local(family), 0))?;
        Ok(Raw::new(socket))
    }
}

fn wait_until(holds: impl Fn() -> io::Result<bool>) -> io::Result<()> {
    let started = Instant::now();
    while !holds()? {
        if started.elapsed() > UP_MAX {
            return Err(ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn local(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 78, 0, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x78, 0, 0, 0, 0, 0, 1).into(),
    }
}

fn peer(family: Family) -> SocketAddr {
    let address: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(10, 78, 0, 2).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x78, 0, 0, 0, 0, 0, 2).into(),
    };
    SocketAddr::new(address, PEER_PORT)
}

impl Drop for Perfect {
    fn drop(&mut self) {
        self.acker.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Perfect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Perfect")
            .field("device", &self.device())
            .field("mtu_bytes", &self.mtu_bytes)
            .field("ack_every", &self.ack_every())
            .finish()
    }
}
