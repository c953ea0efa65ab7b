//! Netlink: a request to the kernel, and what it answers.
//!
//! Of any family: messages have the same head, errors and ends in all of them. What rtnetlink says
//! is read here too, by the words of `netlink-packet-route`; what `rtnetlink` adds to it (a
//! connection that answers many at once, on tokio) would be a runtime in every test binary for a
//! dozen requests.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt,
};

// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Bytes of a message before what its family puts in: length, type, flags, sequence number, port.
pub const HEAD_BYTES: usize = 16;

/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longer than anything that the kernel answers at once.
const ANSWER_BYTES: usize = 64 << 10;

/// A netlink socket.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// A socket of this namespace; no protocol is rtnetlink's. It waits for an answer for a second
    /// at most.
    ///
    /// # Errors
    /// Those of making it: `EPROTONOSUPPORT` for a family that this kernel does not have.
    pub fn open(protocol: Option<Protocol>) -> io::Result<Netlink> {
        let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(family, SocketType::RAW, flags, protocol)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Netlink::over(socket)
    }

    /// Over a netlink socket, of whatever namespace.
    ///
    /// # Errors
    /// Those of binding it.
    pub fn over(socket: OwnedFd) -> io::Result<Netlink> {
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Netlink(socket))
    }

    /// Sends one request, and hands every message of the answer to `take`, with its head: of a
    /// dump all there are, else those that come at once. An acknowledgement is not handed on.
    ///
    /// # Errors
    /// What the kernel answers, `InvalidData` for what is no message, `WouldBlock` where it does
    /// not answer, and those of `take`.
    pub fn exchange(
        &self,
        request: &[u8],
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let is_dump = half(request, 6)? & NLM_F_DUMP == NLM_F_DUMP;
        rustix::net::send(&self.0, request, SendFlags::empty())?;
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let (filled, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let came = buffer.get(..filled).unwrap_or_default();
            if take_all(came, &mut take)? || !is_dump {
                return Ok(());
            }
        }
    }

    /// Sends one request of rtnetlink. What the kernel answers beside an acknowledgement.
    ///
    /// # Errors
    /// As of [`Netlink::exchange`].
    pub fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        let mut answers = Vec::new();
        self.exchange(&bytes, |message| {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            if let NetlinkPayload::InnerMessage(inner) = message.payload {
                answers.push(inner);
            }
            Ok(())
        })?;
        Ok(answers)
    }
}

/// The type of a message, as its head has it.
///
/// # Errors
/// `InvalidData` where there is no head.
pub fn kind(message: &[u8]) -> io::Result<u16> {
    half(message, 4)
}

/// Hands on the messages that came at once. Whether the answer is over.
fn take_all(mut rest: &[u8], take: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<bool> {
    while !rest.is_empty() {
        let bytes = word(rest, 0)? as usize;
        let message = rest.get(..bytes).filter(|message| message.len() >= HEAD_BYTES);
        let message = message.ok_or(io::ErrorKind::InvalidData)?;
        match kind(message)? {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => match word(message, HEAD_BYTES)? as i32 {
                0 => return Ok(true),
                errno => return Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
            },
            _ => take(message)?,
        }
        // Messages begin at multiples of four bytes.
        rest = rest.get(bytes.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Four bytes of a message as a number.
///
/// # Errors
/// `InvalidData` where it ends before them.
pub fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    let four = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    four.map(u32::from_ne_bytes).ok_or(io::ErrorKind::InvalidData.into())
}

/// Two bytes of a message as a number.
///
/// # Errors
/// As of [`word`].
pub fn half(bytes: &[u8], at: usize) -> io::Result<u16> {
    let two = bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
    two.map(u16::from_ne_bytes).ok_or(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of this type with this body, and what follows it up to the next one.
    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A type and a body.
    type Taken = (u16, Vec<u8>);

    /// What is handed on of these messages, and whether the answer is over then.
    fn taken(messages: &[Vec<u8>]) -> io::Result<(Vec<Taken>, bool)> {
        let mut taken = Vec::new();
        let over = take_all(&messages.concat(), &mut |message| {
            taken.push((kind(message)?, message[HEAD_BYTES..].to_vec()));
            Ok(())
        })?;
        Ok((taken, over))
    }

    #[test]
    fn messages_are_handed_on_until_the_last_of_them() {
        let (one, two) = (message(16, &[1, 2, 3]), message(17, &[]));
        let both = vec![(16, vec![1, 2, 3]), (17, vec![])];
        assert_eq!(taken(&[one.clone(), two.clone()]).unwrap(), (both.clone(), false));
        let done = message(NLMSG_DONE, &[0; 4]);
        assert_eq!(taken(&[one, two.clone(), done, two]).unwrap(), (both, true));
        assert_eq!(taken(&[message(NLMSG_ERROR, &[0; 20])]).unwrap(), (Vec::new(), true));
        assert_eq!(taken(&[]).unwrap(), (Vec::new(), false));
    }

    #[test]
    fn refusals_and_what_is_no_message_are_errors() {
        let refused = message(NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(taken(&[refused]).unwrap_err().raw_os_error(), Some(libc::EPERM));
        let longer_than_it_is = 20_u32.to_ne_bytes().repeat(4);
        for broken in [vec![7; 3], vec![0; 16], longer_than_it_is, message(NLMSG_ERROR, &[])] {
            let error = taken(std::slice::from_ref(&broken)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{broken:?}");
        }
    }
}
