//! Two network namespaces joined by a cable.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketType};

use crate::ends::{Family, Side};
use crate::helper::{Count, Helper, Namespaces};
use crate::loopback;
use crate::rtnetlink::{End, LOOPBACK_INDEX, Rtnetlink, UP_MAX};
use crate::unavailable::Unavailable;

/// The kernel's own default (`Documentation/networking/ip-sysctl.rst`), set because a namespace
/// starts with whatever the host's administrator likes.
const TCP_WMEM: &str = "4096 16384 4194304";

/// Two network namespaces of one's own, joined by a veth cable, up, with addresses of both
/// families. See the crate's picture.
///
/// Made as root or as an ordinary user (who gets a user namespace around it). Threads stay where
/// they are: the methods make sockets in the namespace asked for, and these can be used from
/// anywhere, also after the `Veth` is gone. The namespaces last until the `Veth` and every socket
/// made in them are gone, and never longer than the process.
///
/// Both sides have the default `tcp_wmem` of the kernel, whatever the host has, and `rp_filter`
/// off. All else is as a new namespace has it.
///
/// The cable *copies*: a packet that reaches a local receiver is copied before it does, so
/// zero-copy sends report `copied` here.
///
/// ```no_run
/// use ringwire_wire::{Family, Veth};
///
/// let wire = Veth::new()?;
/// let (near, far) = wire.tcp_pair(Family::V4)?;
/// wire.withhold_acks(true)?; // what is sent on `near` now stays unacknowledged
/// # drop((near, far));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Veth {
    helper: Helper,
    namespaces: Namespaces,
    /// Each side's rtnetlink. The lock is held from a request to its answer.
    near: Mutex<Rtnetlink>,
    far: Mutex<Rtnetlink>,
}

impl Side {
    fn device(self) -> End<'static> {
        // Numbers far from those that the kernel gives by itself, and different ones: a cable whose
        // ends have one number comes up a second late.
        match self {
            Side::Near => End { index: 101, name: "near", mac: [2, 0, 0, 0, 0, 1] },
            Side::Far => End { index: 102, name: "far", mac: [2, 0, 0, 0, 0, 2] },
        }
    }

    fn other(self) -> Side {
        match self {
            Side::Near => Side::Far,
            Side::Far => Side::Near,
        }
    }
}

impl Veth {
    /// Makes the namespaces and the cable.
    ///
    /// Forks once, briefly sharing the process's memory copy-on-write: make the wire before an
    /// arena of gigabytes.
    ///
    /// # Errors
    /// [`Unavailable`] with the reason where the host does not allow it; pass it to
    /// [`crate::skip`].
    pub fn new() -> Result<Veth, Unavailable> {
        let (helper, namespaces) = Helper::start(Count::Two)?;
        let unavailable = |(what, why)| Unavailable::new(format!("{what}: {why}"));
        let netlink = |side| {
            // No protocol is protocol 0, NETLINK_ROUTE.
            helper
                .socket(side, AddressFamily::NETLINK, SocketType::RAW, None)
                .and_then(Rtnetlink::new)
                .map(Mutex::new)
                .map_err(|why| unavailable(("cannot talk to the namespace's rtnetlink", why)))
        };
        let (near, far) = (netlink(Side::Near)?, netlink(Side::Far)?);
        let veth = Veth { helper, namespaces, near, far };
        veth.set_up().map_err(unavailable)?;
        Ok(veth)
    }

    fn set_up(&self) -> Result<(), (&'static str, io::Error)> {
        let at = |what| move |why| (what, why);
        let peer_ns = &self.namespaces.far;
        self.netlink(Side::Near, |near| {
            near.add_veth(&Side::Near.device(), &Side::Far.device(), peer_ns)
        })
        .map_err(at("cannot make a veth cable (does the kernel have veth?)"))?;
        for side in Side::BOTH {
            let index = side.device().index;
            let up = |link: &Rtnetlink| link.up(LOOPBACK_INDEX).and_then(|()| link.up(index));
            self.netlink(side, up).map_err(at("cannot bring the cable up"))?;
        }
        for side in Side::BOTH {
            let running = |link: &Rtnetlink| link.is_running(side.device().index);
            self.wait_until(side, running).map_err(at("the cable does not come up"))?;
            self.set_addresses(side).map_err(at("cannot set addresses (is IPv6 off?)"))?;
            self.set_sysctls(side).map_err(at("cannot set the namespace's sysctls"))?;
        }
        for side in Side::BOTH {
            for family in Family::BOTH {
                let reachable = |link: &Rtnetlink| link.takes_in(self.address(side, family));
                self.wait_until(side, reachable).map_err(at("an address does not come up"))?;
            }
        }
        Ok(())
    }

    /// Waits for what the kernel does by itself, a moment after it was told to.
    fn wait_until(
        &self,
        side: Side,
        holds: impl Fn(&Rtnetlink) -> io::Result<bool>,
    ) -> io::Result<()> {
        let started = Instant::now();
        while !self.netlink(side, &holds)? {
            if started.elapsed() > UP_MAX {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn set_addresses(&self, side: Side) -> io::Result<()> {
        let (index, peer_mac) = (side.device().index, side.other().device().mac);
        self.netlink(side, |link| {
            for (family, prefix) in [(Family::V4, 24), (Family::V6, 64)] {
                link.add_address(index, self.address(side, family), prefix)?;
                link.add_neighbour(index, self.address(side.other(), family), peer_mac)?;
            }
            Ok(())
        })
    }

    fn set_sysctls(&self, side: Side) -> io::Result<()> {
        self.set_sysctl(side, "net/ipv4/tcp_wmem", TCP_WMEM)?;
        // With it on, the far side would drop what comes from an address it has a blackhole for.
        self.set_sysctl(side, "net/ipv4/conf/all/rp_filter", "0")?;
        let device = side.device().name;
        self.set_sysctl(side, &format!("net/ipv4/conf/{device}/rp_filter"), "0")
    }

    /// The address of a side.
    pub fn address(&self, side: Side, family: Family) -> IpAddr {
        let host = match side {
            Side::Near => 1,
            Side::Far => 2,
        };
        match family {
            Family::V4 => Ipv4Addr::new(10, 77, 0, host).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// Both ends of one TCP connection, near (which connected) and far (accepted). Both block and
    /// have default options.
    ///
    /// # Errors
    /// Those of the socket calls. While acknowledgements are withheld no connection is made, and
    /// the call waits for as long as TCP tries.
    pub fn tcp_pair(&self, family: Family) -> io::Result<(TcpStream, TcpStream)> {
        let listener = self.tcp_listener(Side::Far, family)?;
        let near = self.tcp_connect(Side::Near, listener.local_addr()?)?;
        let far = loopback::accept_from(&listener, &near)?;
        Ok((near, far))
    }

    /// A listening socket on a port of the kernel's choice, with room for 128 connections.
    pub fn tcp_listener(&self, side: Side, family: Family) -> io::Result<TcpListener> {
        let socket = self.socket(side, family.domain(), SocketType::STREAM, None)?;
        rustix::net::bind(&socket, &SocketAddr::new(self.address(side, family), 0))?;
        rustix::net::listen(&socket, 128)?;
        Ok(socket.into())
    }

    /// A TCP connection made from `side`.
    pub fn tcp_connect(&self, side: Side, to: SocketAddr) -> io::Result<TcpStream> {
        let domain = if to.is_ipv4() { Family::V4.domain() } else { Family::V6.domain() };
        let socket = self.socket(side, domain, SocketType::STREAM, None)?;
        rustix::net::connect(&socket, &to)?;
        Ok(socket.into())
    }

    /// A UDP socket bound to the side's address and a port of the kernel's choice.
    pub fn udp(&self, side: Side, family: Family) -> io::Result<UdpSocket> {
        let socket = self.socket(side, family.domain(), SocketType::DGRAM, None)?;
        rustix::net::bind(&socket, &SocketAddr::new(self.address(side, family), 0))?;
        Ok(socket.into())
    }

    /// Two UDP sockets, each connected to the other: near and far.
    pub fn udp_pair(&self, family: Family) -> io::Result<(UdpSocket, UdpSocket)> {
        let near = self.udp(Side::Near, family)?;
        let far = self.udp(Side::Far, family)?;
        near.connect(far.local_addr()?)?;
        far.connect(near.local_addr()?)?;
        Ok((near, far))
    }

    /// A socket of any kind, raw and packet sockets too, neither bound nor connected.
    pub fn socket(
        &self,
        side: Side,
        domain: AddressFamily,
        kind: SocketType,
        protocol: Option<Protocol>,
    ) -> io::Result<OwnedFd> {
        self.helper.socket(side, domain, kind, protocol)
    }

    /// From now on (`true`) the far side drops all that it sends to the near side: a sender on the
    /// near side sees no acknowledgement at all, on connections made before as well. `false` ends
    /// that; TCP then goes on when its retransmission timer fires, which backs off: up to about as
    /// late again as the acknowledgements were withheld.
    ///
    /// Saying the same twice changes nothing.
    ///
    /// # Kernel
    /// A blackhole route to the near side's address in the far namespace. A new route invalidates
    /// the routes that sockets remember, so it holds for the next packet of every socket.
    pub fn withhold_acks(&self, withhold: bool) -> io::Result<()> {
        for family in Family::BOTH {
            let near = self.address(Side::Near, family);
            let changed = self.netlink(Side::Far, |far| match withhold {
                true => far.add_blackhole(near),
                false => far.remove_blackhole(near),
            });
            match changed {
                Err(why) if withhold && is(&why, Errno::EXIST) => {}
                Err(why) if !withhold && is(&why, Errno::SRCH) => {}
                changed => changed?,
            }
        }
        Ok(())
    }

    /// Sets the MTU of both ends of the cable: 68 to 65,535 bytes, at least 1280 for IPv6. It is
    /// 1500 at first.
    ///
    /// Connections made before keep the segment size they agreed on when it grows.
    pub fn set_mtu(&self, mtu_bytes: u32) -> io::Result<()> {
        for side in Side::BOTH {
            self.netlink(side, |link| link.set_mtu(side.device().index, mtu_bytes))?;
        }
        Ok(())
    }

    /// The MTU of the cable's near end in bytes.
    pub fn mtu(&self) -> io::Result<u32> {
        self.netlink(Side::Near, |link| link.mtu(Side::Near.device().index))
    }

    /// Switches scatter-gather of the side's end of the cable. Without it the kernel copies all
    /// that leaves there, and segments it itself.
    pub fn set_scatter_gather(&self, side: Side, on: bool) -> io::Result<()> {
        let socket = self.socket(side, AddressFamily::INET, SocketType::DGRAM, None)?;
        crate::socket::set_scatter_gather(socket, side.device().name, on)
    }

    /// A setting of the side's namespace, by its path below `/proc/sys`: `net/ipv4/tcp_wmem`.
    /// White space inside a value is one blank each.
    pub fn sysctl(&self, side: Side, name: &str) -> io::Result<String> {
        let mut value = String::new();
        std::fs::File::from(self.helper.open_sysctl(side, name)?).read_to_string(&mut value)?;
        Ok(value.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Changes a setting of the side's namespace, and of nothing else.
    ///
    /// # Errors
    /// `NotFound` for a setting that the namespace does not have of its own, among others.
    pub fn set_sysctl(&self, side: Side, name: &str, value: &str) -> io::Result<()> {
        std::fs::File::from(self.helper.open_sysctl(side, name)?).write_all(value.as_bytes())
    }

    /// A command that will run in the side's namespace, as its root: `ip`, `tc`, `ss`, or a
    /// program under test. Needs util-linux's `nsenter`.
    pub fn command(&self, side: Side, program: impl AsRef<OsStr>) -> Command {
        let net = match side {
            Side::Near => &self.namespaces.near,
            Side::Far => &self.namespaces.far,
        };
        let path = |fd: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        let mut command = Command::new("nsenter");
        if let Some(user) = &self.namespaces.user {
            command.arg(format!("--user={}", path(user))).arg("--preserve-credentials");
        }
        command.arg(format!("--net={}", path(net))).arg("--").arg(program);
        command
    }

    fn netlink<T>(&self, side: Side, ask: impl FnOnce(&Rtnetlink) -> T) -> T {
        let link = match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        };
        ask(&link.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Veth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Veth").finish_non_exhaustive()
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
