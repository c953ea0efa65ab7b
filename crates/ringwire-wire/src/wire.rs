//! All wires behind one interface, for callers that send the same over each of them.

use std::fs;
use std::io;
use std::net::{TcpStream, UdpSocket};

use crate::ends::Family;
use crate::loopback;
use crate::perfect::{Flow, Perfect};
use crate::veth::Veth;

/// A wire of any kind.
///
/// ```no_run
/// use std::io::Write as _;
/// use ringwire_wire::{Family, Perfect, Wire};
///
/// let wire = Perfect::builder().build().map_or(Wire::Loopback, Wire::from);
/// let stream = wire.tcp(Family::V4)?;
/// let bytes = stream.near().write(b"to wherever")?;
/// stream.wrote(bytes as u64);
/// if let Some(far) = stream.far() {
///     // Somebody has to read.
///     # let _ = far;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub enum Wire {
    /// This host's loopback device.
    Loopback,
    /// A cable between two namespaces.
    Veth(Veth),
    /// A device that drops, and an acknowledger.
    Perfect(Perfect),
}

impl Wire {
    /// `loopback`, `veth` or `perfect`.
    pub fn kind(&self) -> &'static str {
        match self {
            Wire::Loopback => "loopback",
            Wire::Veth(_) => "veth",
            Wire::Perfect(_) => "perfect",
        }
    }

    /// What device the bytes leave by: `lo`, `veth`, `dummy` or `ifb`.
    pub fn device(&self) -> &'static str {
        match self {
            Wire::Loopback => "lo",
            Wire::Veth(_) => "veth",
            Wire::Perfect(wire) => wire.device(),
        }
    }

    /// The device's MTU in bytes.
    ///
    /// # Errors
    /// Those of asking the kernel.
    pub fn mtu(&self) -> io::Result<u32> {
        match self {
            Wire::Loopback => {
                let mtu = fs::read_to_string("/sys/class/net/lo/mtu")?;
                mtu.trim().parse().map_err(io::Error::other)
            }
            Wire::Veth(wire) => wire.mtu(),
            Wire::Perfect(wire) => Ok(wire.mtu()),
        }
    }

    /// Whether the kernel copies on this wire what was sent without a copy, because a local socket
    /// receives it.
    pub fn copies(&self) -> bool {
        !matches!(self, Wire::Perfect(_))
    }

    /// A TCP connection.
    ///
    /// # Errors
    /// Those of making it; `AddrNotAvailable` for IPv6 over loopback where it is off.
    pub fn tcp(&self, family: Family) -> io::Result<Stream> {
        let pair = |(near, far)| Stream(Ends::Pair(near, far));
        match self {
            Wire::Loopback => loopback::tcp_pair(family).map(pair),
            Wire::Veth(wire) => wire.tcp_pair(family).map(pair),
            Wire::Perfect(wire) => wire.tcp(family).map(|flow| Stream(Ends::Flow(flow))),
        }
    }

    /// A UDP socket that is connected, and the one it is connected to, where there is one.
    ///
    /// # Errors
    /// As of [`Wire::tcp`].
    pub fn udp(&self, family: Family) -> io::Result<(UdpSocket, Option<UdpSocket>)> {
        let pair = |(near, far)| (near, Some(far));
        match self {
            Wire::Loopback => loopback::udp_pair(family).map(pair),
            Wire::Veth(wire) => wire.udp_pair(family).map(pair),
            Wire::Perfect(wire) => wire.udp(family).map(|near| (near, None)),
        }
    }
}

impl From<Veth> for Wire {
    fn from(wire: Veth) -> Wire {
        Wire::Veth(wire)
    }
}

impl From<Perfect> for Wire {
    fn from(wire: Perfect) -> Wire {
        Wire::Perfect(wire)
    }
}

/// A TCP connection over a [`Wire`].
#[derive(Debug)]
pub struct Stream(Ends);

#[derive(Debug)]
enum Ends {
    Pair(TcpStream, TcpStream),
    Flow(Flow),
}

impl Stream {
    /// The end to send on.
    pub fn near(&self) -> &TcpStream {
        match &self.0 {
            Ends::Pair(near, _) => near,
            Ends::Flow(flow) => flow.stream(),
        }
    }

    /// The other end, which has to be read; the perfect wire has none.
    pub fn far(&self) -> Option<&TcpStream> {
        match &self.0 {
            Ends::Pair(_, far) => Some(far),
            Ends::Flow(_) => None,
        }
    }

    /// Says that `bytes` more were taken by the near end; for the perfect wire's acknowledger.
    #[inline]
    pub fn wrote(&self, bytes: u64) {
        if let Ends::Flow(flow) = &self.0 {
            flow.written().add(bytes);
        }
    }
}
