//! Pairs of sockets over this host's loopback device: always there, always a copy (kernel fact:
//! loopback turns every zero-copied skb into a copied one).

use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};

use crate::ends::Family;

/// Two ends of one TCP connection: the one that connected (near), and the accepted one (far).
///
/// Both block and have default options.
///
/// # Errors
/// Those of the socket calls; `AddrNotAvailable` for [`Family::V6`] where IPv6 is off.
pub fn tcp_pair(family: Family) -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((family.loopback(), 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let far = accept_from(&listener, &near)?;
    Ok((near, far))
}

/// Two UDP sockets, each connected to the other: near and far.
///
/// # Errors
/// Those of the socket calls; `AddrNotAvailable` for [`Family::V6`] where IPv6 is off.
pub fn udp_pair(family: Family) -> io::Result<(UdpSocket, UdpSocket)> {
    let near = UdpSocket::bind((family.loopback(), 0))?;
    let far = UdpSocket::bind((family.loopback(), 0))?;
    near.connect(far.local_addr()?)?;
    far.connect(near.local_addr()?)?;
    Ok((near, far))
}

/// The accepted end of `near`'s connection. Anybody on the host can connect to a loopback port, so
/// other connections are turned away.
pub(crate) fn accept_from(listener: &TcpListener, near: &TcpStream) -> io::Result<TcpStream> {
    let expected = near.local_addr()?;
    loop {
        let (far, peer) = listener.accept()?;
        if peer == expected {
            return Ok(far);
        }
    }
}
