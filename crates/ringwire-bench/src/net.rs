//! The wires to send into, behind one interface, and what a flow over one needs.
//!
//! Over the copying wires somebody has to read: a thread of this process throws away what arrives,
//! and its CPU time is part of what is measured there. The sender stays on one processor, and who
//! reads or acknowledges on another: an acknowledgement wakes the sender that waits for it, and the
//! scheduler likes to put it where it was woken.

use std::io;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use ringwire_wire::{Family, Perfect, Side, Veth, loopback, pin_to_cpu};
use rustix::thread::CpuSet;

use crate::error::{Error, STUCK_AFTER};
use crate::job::{Protocol, WireKind, WireSpec};
use crate::sys;

/// A wire.
pub struct Net {
    spec: WireSpec,
    wire: Wire,
    /// The processors that are kept apart; `None` where there is one only.
    pinned: Option<Pinned>,
}

/// A thread that stays on one processor, until this is dropped on it.
struct Pinned {
    /// Where it could run before.
    before: CpuSet,
    /// A processor for the other end.
    other: usize,
}

enum Wire {
    Perfect(Box<Perfect>),
    Loopback,
    Veth(Box<Veth>),
}

impl Net {
    /// The wire of this description. It keeps the calling thread, which is to send, on one
    /// processor until it is dropped.
    ///
    /// # Errors
    /// `Unavailable` where the host cannot give it.
    pub fn new(spec: WireSpec) -> Result<Net, Error> {
        let pinned = Pinned::pin()?;
        let wire = match spec.kind {
            WireKind::Loopback => Wire::Loopback,
            WireKind::Veth => {
                let veth =
                    Veth::new().map_err(|why| Error::Unavailable(why.reason().to_string()))?;
                if let Some(mtu) = spec.mtu {
                    veth.set_mtu(mtu).map_err(|error| Error::io("setting the MTU", error))?;
                }
                Wire::Veth(Box::new(veth))
            }
            WireKind::Perfect => {
                let mut builder = Perfect::builder().ack_every(Duration::from_micros(spec.ack_us));
                if let Some(mtu) = spec.mtu {
                    builder = builder.mtu(mtu);
                }
                if let Some(pinned) = &pinned {
                    builder = builder.acker_cpu(pinned.other);
                }
                let unavailable =
                    |why: ringwire_wire::Unavailable| Error::Unavailable(why.reason().to_string());
                Wire::Perfect(Box::new(builder.build().map_err(unavailable)?))
            }
        };
        Ok(Net { spec, wire, pinned })
    }

    /// What was asked for.
    pub fn spec(&self) -> WireSpec {
        self.spec
    }

    /// The device that payloads leave by, and its MTU.
    pub fn device(&self) -> (String, u32) {
        match &self.wire {
            Wire::Perfect(wire) => (wire.device().into(), wire.mtu()),
            Wire::Loopback => ("lo".into(), sys::mtu("lo").unwrap_or(65_536)),
            Wire::Veth(_) => ("veth".into(), self.spec.mtu.unwrap_or(1500)),
        }
    }

    /// What to say if somebody captures packets on this wire, who has the kernel copy every one.
    pub fn capture(&self) -> Option<String> {
        // Of this process's own namespace, as loopback is; the other wires have theirs.
        let sockets = match self.wire {
            Wire::Loopback => std::fs::read_to_string("/proc/net/packet").unwrap_or_default(),
            Wire::Perfect(_) | Wire::Veth(_) => String::new(),
        };
        let captures = sockets.lines().skip(1).filter(|line| captures_all(line)).count();
        (captures > 0).then(|| {
            format!(
                "{captures} packet sockets take in every packet on this host (tcpdump or the \
                 like): the figures are those of a captured network"
            )
        })
    }

    /// Captures every packet of the perfect wire until what is returned is dropped, as tcpdump
    /// would: each is copied for it.
    ///
    /// # Errors
    /// `Misuse` on other wires; those of making such a socket.
    pub fn captures(&self) -> Result<OwnedFd, Error> {
        match &self.wire {
            Wire::Perfect(wire) => {
                wire.capture().map_err(|error| Error::io("making a packet socket", error))
            }
            Wire::Loopback | Wire::Veth(_) => {
                Err(Error::Misuse("only the perfect wire is captured".into()))
            }
        }
    }

    /// How long the acknowledger has spun since the wire was made.
    pub fn spun(&self) -> Duration {
        match &self.wire {
            Wire::Perfect(wire) => wire.acker().spin,
            Wire::Loopback | Wire::Veth(_) => Duration::ZERO,
        }
    }

    /// The processor for whoever reads at the other end; `None` where there is none to spare.
    pub fn other_cpu(&self) -> Option<usize> {
        self.pinned.as_ref().map(|pinned| pinned.other)
    }

    /// Both ends of a connection over a wire that copies, over IPv4, with NODELAY: near and far.
    ///
    /// # Errors
    /// `Misuse` on the perfect wire, where there is no far end; those of making sockets.
    pub fn pair(&self) -> Result<(TcpStream, TcpStream), Error> {
        let failed = |error| Error::io("making a connection", error);
        let (near, far) = match &self.wire {
            Wire::Loopback => loopback::tcp_pair(Family::V4).map_err(failed)?,
            Wire::Veth(veth) => veth.tcp_pair(Family::V4).map_err(failed)?,
            Wire::Perfect(_) => {
                return Err(Error::Misuse("the perfect wire has no far end to read from".into()));
            }
        };
        near.set_nodelay(true).map_err(failed)?;
        Ok((near, far))
    }

    /// A new flow, over IPv4.
    ///
    /// # Errors
    /// Those of making sockets.
    pub fn flow(&self, protocol: Protocol) -> Result<Flow, Error> {
        let failed = |error| Error::io("making a flow", error);
        match protocol {
            Protocol::Tcp => {
                if let Wire::Perfect(wire) = &self.wire {
                    let flow = wire.tcp(Family::V4).map_err(failed)?;
                    flow.stream().set_nodelay(true).map_err(failed)?;
                    return Ok(Flow { socket: FlowSocket::Perfect(flow) });
                }
                let (near, far) = self.pair()?;
                swallow_stream(far, self.other_cpu()).map_err(failed)?;
                Ok(Flow { socket: FlowSocket::Tcp(near) })
            }
            Protocol::Udp => {
                let (near, far) = match &self.wire {
                    Wire::Perfect(wire) => {
                        let socket = wire.udp(Family::V4).map_err(failed)?;
                        return Ok(Flow { socket: FlowSocket::Udp(socket, None) });
                    }
                    Wire::Loopback => loopback::udp_pair(Family::V4).map_err(failed)?,
                    Wire::Veth(veth) => veth.udp_pair(Family::V4).map_err(failed)?,
                };
                // Its buffer fills, and the rest is dropped at the door, which costs the least.
                Ok(Flow { socket: FlowSocket::Udp(near, Some(far)) })
            }
        }
    }
}

impl Net {
    /// A new flow whose send buffer has so many bytes; `None` leaves that to the kernel.
    ///
    /// # Errors
    /// As [`Net::flow`]; `Unavailable` where the host does not allow as much.
    pub fn flow_with(&self, protocol: Protocol, sndbuf_bytes: Option<u64>) -> Result<Flow, Error> {
        let flow = self.flow(protocol)?;
        let Some(bytes) = sndbuf_bytes else { return Ok(flow) };
        match (sys::set_send_buffer(flow.as_fd(), bytes), &self.wire, protocol) {
            // Root of the wire's namespace only: what connections begin with may be set there.
            (Err(Error::Unavailable(_)), Wire::Perfect(wire), Protocol::Tcp) => {
                let failed = |error| Error::io("tcp_wmem of the wire's namespace", error);
                let before = wire.sysctl(TCP_WMEM).map_err(failed)?;
                let all = format!("4096 {bytes} {bytes}");
                wire.set_sysctl(TCP_WMEM, &all).map_err(failed)?;
                let flow = self.flow(protocol);
                wire.set_sysctl(TCP_WMEM, &before).map_err(failed)?;
                flow
            }
            (set, _, _) => set.map(|()| flow),
        }
    }

    /// The send buffers that the kernel gives by itself, in words.
    pub fn own_send_buffers(&self) -> String {
        let text = match &self.wire {
            Wire::Perfect(wire) => wire.sysctl(TCP_WMEM),
            Wire::Veth(veth) => veth.sysctl(Side::Near, TCP_WMEM),
            Wire::Loopback => std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem"),
        };
        let text = text.unwrap_or_else(|_| "unknown".into());
        format!("tcp_wmem {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// What a namespace's connections may hold: least, at first, most.
const TCP_WMEM: &str = "net/ipv4/tcp_wmem";

impl Pinned {
    /// Keeps the calling thread on the first of its processors, if it has two.
    fn pin() -> Result<Option<Pinned>, Error> {
        let failed = |error| Error::io("pinning to a processor", error);
        let before = rustix::thread::sched_getaffinity(None).map_err(|e| failed(e.into()))?;
        let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| before.is_set(*cpu));
        let (Some(first), Some(other)) = (cpus.next(), cpus.next_back()) else { return Ok(None) };
        pin_to_cpu(first).map_err(failed)?;
        Ok(Some(Pinned { before, other }))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The thread was there before, so it may go back.
        let _ = rustix::thread::sched_setaffinity(None, &self.before);
    }
}

/// Whether a line of /proc/net/packet is a socket for packets of every kind (`ETH_P_ALL`).
fn captures_all(line: &str) -> bool {
    line.split_whitespace().nth(3) == Some("0003")
}

/// Reads and throws away until the peer is gone.
fn swallow_stream(far: TcpStream, cpu: Option<usize>) -> io::Result<()> {
    let swallow = move || {
        keep_on(cpu);
        const BYTES: usize = 1 << 20;
        while matches!(sys::discard(far.as_fd(), BYTES), Ok(bytes) if bytes > 0) {}
    };
    ringwire_threads::start("sink", swallow).map(drop)
}

/// Keeps the calling thread on a processor, if there is one to spare for it.
pub(crate) fn keep_on(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        // Where that is not allowed, figures are less steady, no more.
        let _ = pin_to_cpu(cpu);
    }
}

/// One flow over a wire: a socket of the sender, and what has to be reported to the wire.
#[derive(Debug)]
pub struct Flow {
    socket: FlowSocket,
}

#[derive(Debug)]
enum FlowSocket {
    Perfect(ringwire_wire::Flow),
    Tcp(TcpStream),
    /// The sender's socket, and one that keeps the port of the receiver taken.
    #[expect(dead_code, reason = "the second socket only keeps its port")]
    Udp(UdpSocket, Option<UdpSocket>),
}

impl Flow {
    /// Its socket once more, for a ring to own.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd, Error> {
        let socket = self.as_fd().try_clone_to_owned();
        socket.map_err(|error| Error::io("duplicating a socket", error))
    }

    /// Has the peer acknowledge nothing that is sent from now on, until this is called with
    /// `false`. On wires other than the perfect one, nothing.
    pub(crate) fn hold(&self, hold: bool) {
        if let FlowSocket::Perfect(flow) = &self.socket {
            flow.hold(hold);
        }
    }

    /// Tells the wire that the sender's kernel has accepted `bytes` bytes. To be called after each
    /// result: the perfect wire acknowledges reported bytes at once, the rest later.
    #[inline]
    pub fn accepted(&self, bytes: u64) {
        if let FlowSocket::Perfect(flow) = &self.socket {
            flow.written().add(bytes);
        }
    }

    /// The TCP stream, if it is one.
    pub fn stream(&self) -> Option<&TcpStream> {
        match &self.socket {
            FlowSocket::Perfect(flow) => Some(flow.stream()),
            FlowSocket::Tcp(stream) => Some(stream),
            FlowSocket::Udp(..) => None,
        }
    }

    /// Bytes that the kernel has accepted and the peer has not acknowledged; 0 on UDP.
    ///
    /// # Errors
    /// `Io` if the kernel does not say.
    pub fn unacknowledged(&self) -> Result<u64, Error> {
        let Some(stream) = self.stream() else { return Ok(0) };
        ringwire_wire::unacknowledged_bytes(stream)
            .map_err(|error| Error::io("asking what is unacknowledged", error))
    }

    /// Waits until the peer has acknowledged everything.
    ///
    /// # Errors
    /// `Stuck` after a minute.
    pub fn drain(&self) -> Result<(), Error> {
        let mut waits = ringwire_core::running::Patience::new(Instant::now(), STUCK_AFTER);
        loop {
            let left = self.unacknowledged()?;
            if left == 0 {
                return Ok(());
            }
            if waits.slice(Instant::now()).is_none() {
                return Err(Error::Stuck(format!("{left} bytes were never acknowledged")));
            }
            thread::sleep(Duration::from_micros(10));
        }
    }
}

impl AsFd for Flow {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            FlowSocket::Perfect(flow) => flow.stream().as_fd(),
            FlowSocket::Tcp(stream) => stream.as_fd(),
            FlowSocket::Udp(near, _) => near.as_fd(),
        }
    }
}
