//! What the virtual peer sends: TCP segments with their IP header and checksums. Pure.
//!
//! A raw socket with the header included takes a whole packet (raw(7)): for IPv4 the kernel fills
//! in the header's checksum and the total length itself, for IPv6 nothing. The TCP checksum is the
//! sender's business in both, and whoever takes the segment in verifies it.
//!
//! Knows nothing of sockets, clocks and threads; `acker.rs` and `flow.rs` say what to send.

use std::net::{IpAddr, SocketAddr};

/// The longest headers: IPv6 and TCP without options.
pub(crate) const HEADER_BYTES_MAX: usize = 40 + TCP_BYTES;
/// The window scale of both directions, the largest there is (RFC 7323, section 2.3).
pub(crate) const WINDOW_SCALE: u8 = 14;
/// The window the virtual peer offers, in bytes: the largest that can be said, 16 KiB short of a
/// GiB.
pub(crate) const WINDOW_BYTES: u32 = (u16::MAX as u32) << WINDOW_SCALE;

const TCP_BYTES: usize = 20;
const TCP: u8 = 6;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const HOPS: u8 = 64;

/// The headers of one connection's peer: everything but the numbers that change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers {
    bytes: [u8; HEADER_BYTES_MAX],
    ip_bytes: usize,
    /// The sum of the pseudo-header's addresses and protocol, and of the ports, not yet folded.
    fixed_sum: u64,
}

impl Headers {
    /// For segments from `peer` to `local`, addresses of one family.
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr) -> Headers {
        let mut bytes = [0; HEADER_BYTES_MAX];
        let (ip_bytes, addresses) = match (peer.ip(), local.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes[0] = 0x45; // version 4, five words
                bytes[6] = 0x40; // don't fragment
                bytes[8] = HOPS;
                bytes[9] = TCP;
                bytes[12..16].copy_from_slice(&from.octets());
                bytes[16..20].copy_from_slice(&to.octets());
                (20, 12..20)
            }
            (from, to) => {
                let v6 = |ip| match ip {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                bytes[0] = 0x60; // version 6
                bytes[6] = TCP;
                bytes[7] = HOPS;
                bytes[8..24].copy_from_slice(&v6(from).octets());
                bytes[24..40].copy_from_slice(&v6(to).octets());
                (40, 8..40)
            }
        };
        let tcp = &mut bytes[ip_bytes..ip_bytes + TCP_BYTES];
        tcp[0..2].copy_from_slice(&peer.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&local.port().to_be_bytes());
        tcp[12] = (TCP_BYTES as u8 / 4) << 4;
        tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        let ports = sum(&tcp[..4]);
        let fixed_sum = sum(&bytes[addresses]) + ports + u64::from(TCP);
        Headers { bytes, ip_bytes, fixed_sum }
    }

    /// An acknowledgement of all before `ack`, without bytes of its own.
    pub(crate) fn pure_ack(&self, seq: u32, ack: u32) -> ([u8; HEADER_BYTES_MAX], usize) {
        let mut packet = self.bytes;
        self.fill(&mut packet, seq, ack, ACK, &[]);
        (packet, self.ip_bytes + TCP_BYTES)
    }

    /// `payload` from sequence number `seq` on, written over `packet`.
    pub(crate) fn data(&self, packet: &mut Vec<u8>, seq: u32, ack: u32, payload: &[u8]) {
        packet.clear();
        packet.extend_from_slice(&self.bytes[..self.ip_bytes + TCP_BYTES]);
        packet.extend_from_slice(payload);
        self.fill(packet, seq, ack, ACK | PSH, payload);
    }

    fn fill(&self, packet: &mut [u8], seq: u32, ack: u32, flags: u8, payload: &[u8]) {
        let tcp_bytes = TCP_BYTES + payload.len();
        match self.ip_bytes {
            20 => packet[2..4].copy_from_slice(&((20 + tcp_bytes) as u16).to_be_bytes()),
            _ => packet[4..6].copy_from_slice(&(tcp_bytes as u16).to_be_bytes()),
        }
        let tcp = &mut packet[self.ip_bytes..];
        tcp[4..8].copy_from_slice(&seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&ack.to_be_bytes());
        tcp[13] = flags;
        tcp[16..18].fill(0);
        // The ports are part of `fixed_sum`.
        let sum = self.fixed_sum + tcp_bytes as u64 + sum(&tcp[4..TCP_BYTES]) + sum(payload);
        tcp[16..18].copy_from_slice(&(!fold(sum)).to_be_bytes());
    }
}

/// The sum of 16-bit words of the internet checksum (RFC 1071), an odd last byte padded with 0.
fn sum(bytes: &[u8]) -> u64 {
    let (words, odd) = bytes.as_chunks::<2>();
    let last = odd.first().map_or(0, |byte| u64::from(*byte) << 8);
    words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>() + last
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a receiver does: the sum over pseudo-header and segment, checksum included, is all
    /// ones.
    fn verifies(packet: &[u8], ip_bytes: usize) -> bool {
        let addresses = if ip_bytes == 20 { 12..20 } else { 8..40 };
        let segment = &packet[ip_bytes..];
        fold(sum(&packet[addresses]) + 6 + segment.len() as u64 + sum(segment)) == 0xffff
    }

    #[test]
    fn an_ack_is_what_rfc_9293_says() {
        let peer = "10.78.0.2:9".parse().unwrap();
        let local = "10.78.0.1:40000".parse().unwrap();
        let (packet, bytes) = Headers::new(peer, local).pure_ack(0x0102_0304, 0xfffe_fdfc);
        #[rustfmt::skip]
        let expected = [
            0x45, 0, 0, 40,  0, 0, 0x40, 0,  64, 6, 0, 0,  10, 78, 0, 2,  10, 78, 0, 1,
            0, 9, 0x9c, 0x40,  1, 2, 3, 4,  0xff, 0xfe, 0xfd, 0xfc,  0x50, 0x10, 0xff, 0xff,
        ];
        assert_eq!(packet[..36], expected);
        assert_eq!(bytes, 40);
        assert!(verifies(&packet[..bytes], 20));
    }

    #[test]
    fn checksums_verify_for_both_families_and_odd_lengths() {
        for (peer, local, ip_bytes) in
            [("10.78.0.2:9", "10.78.0.1:65535", 20), ("[fd00:78::2]:9", "[fd00:78::1]:32768", 40)]
        {
            let headers = Headers::new(peer.parse().unwrap(), local.parse().unwrap());
            let mut packet = Vec::new();
            for bytes in [1, 2, 3, 535, 8960] {
                let payload: Vec<u8> = (0..bytes).map(|i| (i * 7 + 3) as u8).collect();
                headers.data(&mut packet, u32::MAX - 1, 17, &payload);
                assert_eq!(packet.len(), ip_bytes + 20 + bytes);
                assert!(verifies(&packet, ip_bytes), "{peer}, {bytes} bytes");
                assert_eq!(packet[ip_bytes + 20..], payload);
                packet[ip_bytes + 20] ^= 1;
                assert!(!verifies(&packet, ip_bytes), "a changed byte went unseen");
            }
            let (packet, bytes) = headers.pure_ack(5, 6);
            assert!(verifies(&packet[..bytes], ip_bytes));
        }
    }
}
