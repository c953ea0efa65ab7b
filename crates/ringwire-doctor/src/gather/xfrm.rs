//! IPsec: how many policies packets that leave are held against, and whether one encrypts what goes
//! to a destination.
//!
//! Neighbours: `mod.rs` asks. All of it takes CAP_NET_ADMIN over the namespace. Reading what the
//! kernel answers is pure, and tested with policies that are not at hand. Must not know what
//! encryption costs.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use ringwire_wire::netlink::{self, HEAD_BYTES, Netlink, half, word};

// linux/xfrm.h
const XFRM_MSG_NEWPOLICY: u16 = 0x13;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRM_MSG_NEWSPDINFO: u16 = 0x24;
const XFRM_MSG_GETSPDINFO: u16 = 0x25;
const XFRMA_SPD_INFO: u16 = 1;
const XFRMA_TMPL: u16 = 5;
const XFRMA_MARK: u16 = 21;
const XFRMA_IF_ID: u16 = 31;
const XFRM_POLICY_OUT: u8 = 1;
/// `struct xfrm_userpolicy_id`, and `struct xfrm_userpolicy_info` with its padding.
const POLICY_ID_BYTES: usize = 64;
const POLICY_BYTES: usize = 168;

const AF_INET: u16 = libc::AF_INET as u16;
const AF_INET6: u16 = libc::AF_INET6 as u16;
const TCP: u8 = libc::IPPROTO_TCP as u8;

/// A connection, as policies select by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) to: SocketAddr,
    /// Where it leaves from, if that is known.
    pub(super) from: Option<IpAddr>,
    /// The interface it leaves by.
    pub(super) interface: u32,
}

/// How many policies of IPsec outgoing packets are held against.
pub(super) fn policies() -> io::Result<u32> {
    let Some(netlink) = open()? else { return Ok(0) };
    let mut count = None;
    // One u32 of no flags.
    netlink.exchange(&request(XFRM_MSG_GETSPDINFO, NLM_F_REQUEST, 4), |message| {
        count = Some(outbound(message)?);
        Ok(())
    })?;
    count.ok_or(io::ErrorKind::InvalidData.into())
}

/// Whether a policy encrypts what goes this way by TCP: of those that select it, the first one.
pub(super) fn encrypts(flow: &Flow) -> io::Result<bool> {
    let Some(netlink) = open()? else { return Ok(false) };
    let all = request(XFRM_MSG_GETPOLICY, NLM_F_REQUEST | NLM_F_DUMP, POLICY_ID_BYTES);
    let mut first: Option<Selecting> = None;
    netlink.exchange(&all, |message| {
        if netlink::kind(message)? == XFRM_MSG_NEWPOLICY {
            let policy = selecting(message, flow)?;
            first = first.into_iter().chain(policy).min_by_key(|one| one.priority);
        }
        Ok(())
    })?;
    Ok(first.is_some_and(|policy| policy.encrypts))
}

/// A socket, or none on a kernel without IPsec.
fn open() -> io::Result<Option<Netlink>> {
    match Netlink::open(Some(rustix::net::netlink::XFRM)) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(None),
        opened => opened.map(Some),
    }
}

/// A request with a body of zeros.
fn request(kind: u16, flags: u16, body_bytes: usize) -> Vec<u8> {
    let bytes = HEAD_BYTES + body_bytes;
    // Length, type, flags, sequence number, port.
    let mut request = Vec::with_capacity(bytes);
    request.extend((bytes as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.resize(bytes, 0);
    request
}

fn byte(bytes: &[u8], at: usize) -> io::Result<u8> {
    bytes.get(at).copied().ok_or(io::ErrorKind::InvalidData.into())
}

/// What begins with its own length, one after the other, each at a multiple of four bytes.
fn pieces(bytes: &[u8], length: impl Fn(&[u8]) -> io::Result<usize>) -> Vec<&[u8]> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while let Ok(bytes @ 4..) = length(rest)
        && let Some(piece) = rest.get(..bytes)
    {
        found.push(piece);
        rest = rest.get(bytes.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The values of attributes, by type.
fn attributes(bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let all = pieces(bytes, |rest| Ok(usize::from(half(rest, 0)?)));
    all.into_iter().filter_map(|one| Some((half(one, 2).ok()?, one.get(4..)?))).collect()
}

/// The number in the kernel's answer.
fn outbound(answer: &[u8]) -> io::Result<u32> {
    if netlink::kind(answer)? != XFRM_MSG_NEWSPDINFO {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // After the head a u32 of flags.
    let rest = answer.get(HEAD_BYTES + 4..).unwrap_or_default();
    let info = attributes(rest).into_iter().find(|(kind, _)| *kind == XFRMA_SPD_INFO);
    // `xfrmu_spdinfo`: how many come in, then how many go out.
    word(info.map(|(_, value)| value).unwrap_or_default(), 4)
}

/// A policy that selects a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Selecting {
    /// The lowest comes first.
    priority: u32,
    /// Whether it has templates of transforms: without, it lets through as it is.
    encrypts: bool,
}

/// The policy in this message, if it selects `flow`.
fn selecting(message: &[u8], flow: &Flow) -> io::Result<Option<Selecting>> {
    let policy = message.get(HEAD_BYTES..).unwrap_or_default();
    // `struct xfrm_userpolicy_info` begins with its `struct xfrm_selector`.
    let port = |at: usize| {
        let wanted = half(policy, at)?;
        io::Result::Ok((u16::from_be(wanted), u16::from_be(half(policy, at + 2)?)))
    };
    let (wanted_port, port_mask) = port(32)?;
    let (_, source_port_mask) = port(36)?;
    let (family, proto, interface) = (half(policy, 40)?, byte(policy, 44)?, word(policy, 48)?);
    let (priority, direction) = (word(policy, 152)?, byte(policy, 160)?);
    let of_family = match flow.to {
        SocketAddr::V4(_) => AF_INET,
        SocketAddr::V6(_) => AF_INET6,
    };
    let covers = |at: usize, prefix_at: usize, address: Option<IpAddr>| -> io::Result<bool> {
        let wanted = policy.get(at..at + 16).ok_or(io::ErrorKind::InvalidData)?;
        let bits = byte(policy, prefix_at)?;
        // An address that is not known might be any.
        Ok(address.is_none_or(|address| match address {
            IpAddr::V4(v4) => same_prefix(&wanted[..4], &v4.octets(), bits),
            IpAddr::V6(v6) => same_prefix(wanted, &v6.octets(), bits),
        }))
    };
    let selects = direction == XFRM_POLICY_OUT
        && (family == of_family || family == 0)
        && (proto == TCP || proto == 0)
        && (interface == flow.interface || interface == 0)
        && flow.to.port() & port_mask == wanted_port & port_mask
        // A connection's own port is any: a policy for one of them is for another connection.
        && source_port_mask == 0
        && covers(0, 42, Some(flow.to.ip()))?
        && covers(16, 43, flow.from)?;
    let mut found = Selecting { priority, encrypts: false };
    for (kind, value) in attributes(policy.get(POLICY_BYTES..).unwrap_or_default()) {
        match kind {
            XFRMA_TMPL => found.encrypts = true,
            // For packets with a mark, or those of an xfrm interface: not for ours.
            XFRMA_MARK | XFRMA_IF_ID if word(value, 0)? != 0 => return Ok(None),
            _ => {}
        }
    }
    Ok(selects.then_some(found))
}

/// Whether two addresses begin with the same bits.
fn same_prefix(one: &[u8], other: &[u8], bits: u8) -> bool {
    let (whole, rest) = (usize::from(bits / 8), bits % 8);
    // The bits of the last byte that count.
    let mask = !(u8::MAX >> rest);
    let (Some(one_whole), Some(other_whole)) = (one.get(..whole), other.get(..whole)) else {
        return false;
    };
    let last = |bytes: &[u8]| bytes.get(whole).map_or(0, |byte| byte & mask);
    one_whole == other_whole && last(one) == last(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of this type with this body.
    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn attribute(bytes: u16, kind: u16) -> u32 {
        let [a, b] = bytes.to_ne_bytes();
        let [c, d] = kind.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    #[test]
    fn outbound_policies_are_counted() {
        let info = words(&[0, attribute(28, 1), 5, 7, 0, 0, 0, 0]);
        assert_eq!(outbound(&message(0x24, &info)).unwrap(), 7);
        // Behind another attribute.
        let behind = words(&[0, attribute(8, 2), 99, attribute(28, 1), 5, 3, 0, 0, 0, 0]);
        assert_eq!(outbound(&message(0x24, &behind)).unwrap(), 3);
        for broken in [&[][..], &message(0x24, &[0; 4]), &message(9, &[]), &[0; 7]] {
            assert!(outbound(broken).is_err(), "{broken:?}");
        }
    }

    /// What leaves to 10.1.0.0/20 by TCP to ports of any number, of priority 5, with a template.
    fn policy() -> Vec<u8> {
        let mut bytes = vec![0; 168];
        bytes[..4].copy_from_slice(&[10, 1, 0, 0]);
        bytes[40..42].copy_from_slice(&AF_INET.to_ne_bytes());
        (bytes[42], bytes[44], bytes[160]) = (20, 6, 1);
        bytes[152..156].copy_from_slice(&5_u32.to_ne_bytes());
        bytes.extend(words(&[attribute(8, 5), 0]));
        bytes
    }

    fn flow(to: &str) -> Flow {
        Flow { to: to.parse().unwrap(), from: Some([10, 9, 0, 1].into()), interface: 3 }
    }

    #[test]
    fn policies_select_by_address_port_and_protocol() {
        type Change = fn(&mut Vec<u8>);
        let selected = |change: Change, to: &str| {
            let mut policy = policy();
            change(&mut policy);
            selecting(&message(0x13, &policy), &flow(to)).unwrap()
        };
        let as_it_is: Change = |_| {};
        let found = Some(Selecting { priority: 5, encrypts: true });
        assert_eq!(selected(as_it_is, "10.1.15.255:80"), found);
        assert_eq!(selected(as_it_is, "10.1.16.0:80"), None);
        assert_eq!(selected(as_it_is, "[fd00::1]:80"), None);
        let table: [(Change, bool); 10] = [
            (|bytes| bytes[44] = 17, false),
            (|bytes| bytes[44] = 0, true),
            (|bytes| bytes[160] = 0, false),
            (|bytes| bytes[48..52].copy_from_slice(&3_u32.to_ne_bytes()), true),
            (|bytes| bytes[48..52].copy_from_slice(&4_u32.to_ne_bytes()), false),
            (|bytes| bytes[32..36].copy_from_slice(&[0, 80, 255, 255]), true),
            (|bytes| bytes[32..36].copy_from_slice(&[0, 81, 255, 255]), false),
            // From 10.9.0.1 alone, and from 10.9.0.2 alone.
            (|bytes| (bytes[16..20].copy_from_slice(&[10, 9, 0, 1]), bytes[43] = 32).1, true),
            (|bytes| (bytes[16..20].copy_from_slice(&[10, 9, 0, 2]), bytes[43] = 32).1, false),
            // With a mark.
            (|bytes| bytes.extend(words(&[attribute(12, 21), 1, 1])), false),
        ];
        for (at, (change, selects)) in table.into_iter().enumerate() {
            assert_eq!(selected(change, "10.1.2.3:80").is_some(), selects, "change {at}");
        }
        let lets_through = Some(Selecting { priority: 5, encrypts: false });
        assert_eq!(selected(|bytes| bytes.truncate(168), "10.1.2.3:80"), lets_through);
        assert!(selecting(&message(0x13, &[0; 100]), &flow("10.1.2.3:80")).is_err());
    }

    #[test]
    fn prefixes_are_counted_in_bits() {
        assert!(same_prefix(&[10, 1], &[10, 0], 15));
        assert!(!same_prefix(&[10, 1], &[10, 0], 16));
        assert!(same_prefix(&[1, 2], &[3, 4], 0));
        assert!(!same_prefix(&[1], &[1], 16), "there are no such bits");
    }
}
