//! What is taken as the address of a host and a port. Pure.
//!
//! Must not know which names and interfaces exist: `lookup.rs` asks. What can only be a slip is an
//! error here, before anything is asked: half an address that a resolver would complete, a URL, an
//! IPv6 address whose end may be its port.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A host and a port, as they were typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(crate) host: Host,
    pub(crate) port: u16,
    shown: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Address(IpAddr),
    /// An address of a link, and the interface that the link is at: its name or its number.
    OnLink(Ipv6Addr, String),
    Name(String),
}

/// Why a text is no address, and what is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    why: String,
    port: u16,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Malformed { why, port } = self;
        write!(
            f,
            "{why}; an address is HOST or HOST:PORT, like host.example, 10.0.0.7:{port}, \
             [2001:db8::7]:{port} or [fe80::7%eth0]:{port}"
        )
    }
}

impl std::error::Error for Malformed {}

impl Target {
    /// Reads where to connect to; without a port it is `default_port`, which also stands in the
    /// examples of an error.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn to_connect(text: &str, default_port: u16) -> Result<Target, Malformed> {
        let target = Target::to_listen(text, default_port)?;
        match target.port {
            0 => Err(Malformed { why: NO_PORT.into(), port: default_port }),
            _ => Ok(target),
        }
    }

    /// Reads where to listen: the same, and port 0 is any free one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn to_listen(text: &str, default_port: u16) -> Result<Target, Malformed> {
        read(text, default_port).map_err(|why| Malformed { why, port: default_port })
    }

    /// As it was typed.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is a name, which may have several addresses.
    pub fn is_name(&self) -> bool {
        matches!(self.host, Host::Name(_))
    }
}

const NO_PORT: &str = "its port is not a number from 1 to 65535";

fn read(text: &str, default_port: u16) -> Result<Target, String> {
    let (host, port) = parts(text)?;
    let port = match port {
        None => default_port,
        // Of digits alone: a number may otherwise have a sign.
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map_err(|_| NO_PORT)?
        }
        Some(_) => return Err(NO_PORT.into()),
    };
    Ok(Target { host, port, shown: text.into() })
}

/// The host, and what stands where its port should.
fn parts(text: &str) -> Result<(Host, Option<&str>), String> {
    if text.contains("://") {
        return Err("it is a URL, and what is wanted is its host and port alone".into());
    }
    if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner.split_once(']').ok_or("its bracket is not closed")?;
        let host = ipv6(host)?.ok_or("what stands in brackets is not an IPv6 address")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("after its bracket comes no port".into()),
        };
    }
    let Some((host, port)) = text.rsplit_once(':') else { return Ok((host(text)?, None)) };
    if !host.contains(':') {
        return Ok((self::host(host)?, Some(port)));
    }
    let (whole, cut) = (ipv6(text), ipv6(host));
    match (whole, cut) {
        // 2001:db8::7:80 is an address, and may be another one with a port.
        (Ok(Some(_)), Ok(Some(_))) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("it may be [{text}] or [{host}]:{port}; brackets tell which"))
        }
        (Ok(Some(whole)), _) => Ok((whole, None)),
        (Ok(None), Ok(None)) => Err("it has too many colons".into()),
        (Ok(None), _) => Err("an IPv6 address with a port needs brackets".into()),
        (Err(why), _) => Err(why),
    }
}

/// A host that is not an IPv6 address.
fn host(text: &str) -> Result<Host, String> {
    if text.is_empty() {
        return Err("it has no host".into());
    }
    if let Ok(address) = text.parse() {
        return Ok(Host::Address(address));
    }
    let other = |c: char| c.is_whitespace() || c.is_control() || "/@?#%[]\\,".contains(c);
    if let Some(wrong) = text.chars().find(|&c| other(c)) {
        return Err(format!("a host has no {wrong:?} in it"));
    }
    // Nobody translates it: getaddrinfo would by the locale (AI_IDN), of which a program has none
    // unless it asks for it, and not in every libc.
    if !text.is_ascii() {
        return Err("a name has ASCII letters only: one of other letters is typed as DNS has it, \
                    xn--…"
            .into());
    }
    // A resolver would take 10.1 for 10.0.0.1, and 010.0.0.1 for 8.0.0.1. No name ends so
    // (RFC 1123, 2.1; RFC 3696, 2).
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let hex = |text: &str| {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        digits.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    if digits(last) || hex(last) {
        return Err("an IPv4 address has four numbers from 0 to 255, without leading zeros".into());
    }
    Ok(Host::Name(text.into()))
}

/// `None` if it is no IPv6 address; an error if it is one that cannot be used.
fn ipv6(text: &str) -> Result<Option<Host>, String> {
    let (address, interface) = match text.split_once('%') {
        // No interface has a colon in its name: what follows one is a port.
        Some((_, interface)) if interface.contains(':') => return Ok(None),
        Some((address, interface)) => (address, Some(interface)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<Ipv6Addr>() else { return Ok(None) };
    let segment = address.segments()[0];
    // fe80::/10, and multicast within a link or an interface.
    let on_link = segment & 0xffc0 == 0xfe80 || matches!(segment & 0xff0f, 0xff01 | 0xff02);
    match (on_link, interface) {
        (true, Some(interface)) if !interface.is_empty() => {
            Ok(Some(Host::OnLink(address, interface.into())))
        }
        (true, _) => Err("an address of a link needs its interface, like fe80::7%eth0".into()),
        (false, Some(_)) => Err("only an address of a link (fe80::…) has an interface".into()),
        (false, None) => Ok(Some(Host::Address(IpAddr::V6(address).to_canonical()))),
    }
}

/// The address as IPv4 if it is one in IPv6's clothes (`::ffff:10.0.0.7`): it is reached over IPv4,
/// and where IPv6 is off that is the only way to say it.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> (Host, u16) {
        let target = Target::to_connect(text, 27_474).unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(target.shown(), text);
        (target.host, target.port)
    }

    fn why(text: &str) -> String {
        match Target::to_connect(text, 27_474) {
            Ok(target) => panic!("{text:?} is taken as {target:?}"),
            Err(malformed) => malformed.why,
        }
    }

    #[test]
    fn every_form_of_a_host_and_a_port_is_taken() {
        let name = |name: &str| Host::Name(name.into());
        let address = |text: &str| Host::Address(text.parse().unwrap());
        let on_link = |text: &str, at: &str| Host::OnLink(text.parse().unwrap(), at.into());
        for (text, host, port) in [
            ("host.example:47474", name("host.example"), 47_474),
            ("host.example", name("host.example"), 27_474),
            ("localhost", name("localhost"), 27_474),
            ("host.example.:1", name("host.example."), 1),
            ("build-7_a:65535", name("build-7_a"), 65_535),
            ("7eleven:80", name("7eleven"), 80),
            ("0xide:80", name("0xide"), 80),
            ("xn--gre-6ka8i.example:80", name("xn--gre-6ka8i.example"), 80),
            ("10.0.0.7:80", address("10.0.0.7"), 80),
            ("10.0.0.7", address("10.0.0.7"), 27_474),
            ("[::1]:9", address("::1"), 9),
            ("[::1]", address("::1"), 27_474),
            ("::1", address("::1"), 27_474),
            ("::", address("::"), 27_474),
            ("2001:db8::7", address("2001:db8::7"), 27_474),
            ("2001:db8:0:0:0:0:0:7", address("2001:db8::7"), 27_474),
            ("2001:db8::beef:cafe", address("2001:db8::beef:cafe"), 27_474),
            ("[2001:db8::7:80]:81", address("2001:db8::7:80"), 81),
            ("[::ffff:10.0.0.7]:80", address("10.0.0.7"), 80),
            ("::ffff:10.0.0.7", address("10.0.0.7"), 27_474),
            ("[fe80::7%eth0]:80", on_link("fe80::7", "eth0"), 80),
            ("[fe80::7%eth0.100]", on_link("fe80::7", "eth0.100"), 27_474),
            ("fe80::7%2", on_link("fe80::7", "2"), 27_474),
            ("fe80::7%eth0", on_link("fe80::7", "eth0"), 27_474),
        ] {
            assert_eq!(taken(text), (host, port), "{text}");
        }
    }

    #[test]
    fn what_can_only_be_a_slip_is_not_taken() {
        let port = "its port is not a number from 1 to 65535";
        let ipv4 = "an IPv4 address has four numbers from 0 to 255, without leading zeros";
        let ascii = "a name has ASCII letters only: one of other letters is typed as DNS has it, \
                     xn--…";
        let brackets = "an IPv6 address with a port needs brackets";
        let on_link = "an address of a link needs its interface, like fe80::7%eth0";
        for (text, expected) in [
            ("", "it has no host"),
            (":80", "it has no host"),
            ("host:", port),
            ("host:0", port),
            ("host:65536", port),
            ("host:+80", port),
            ("host:http", port),
            ("[::1]:", port),
            ("[::1]80", "after its bracket comes no port"),
            ("[::1:80", "its bracket is not closed"),
            ("[10.0.0.7]:80", "what stands in brackets is not an IPv6 address"),
            ("[host]:80", "what stands in brackets is not an IPv6 address"),
            ("::1:80", "it may be [::1:80] or [::1]:80; brackets tell which"),
            ("fe80::7%eth0:80", brackets),
            ("2001:db8:0:0:0:0:0:7:80", brackets),
            ("a:b:80", "it has too many colons"),
            ("http://host:80", "it is a URL, and what is wanted is its host and port alone"),
            ("host/path", "a host has no '/' in it"),
            ("user@host:22", "a host has no '@' in it"),
            ("two words", "a host has no ' ' in it"),
            ("10.0.0.7%eth0:80", "a host has no '%' in it"),
            ("a,b", "a host has no ',' in it"),
            ("grüße.example:80", ascii),
            ("10.0.0.256:80", ipv4),
            ("10.1:80", ipv4),
            ("010.0.0.1:80", ipv4),
            ("10.0.0.7.:80", ipv4),
            ("0x7f000001", ipv4),
            ("2130706433", ipv4),
            ("fe80::7", on_link),
            ("[fe80::7%]:80", on_link),
            ("[ff02::1]:80", on_link),
            ("[2001:db8::7%eth0]:80", "only an address of a link (fe80::…) has an interface"),
        ] {
            assert_eq!(why(text), expected, "{text:?}");
        }
    }

    #[test]
    fn only_who_listens_may_leave_the_port_to_the_kernel() {
        assert_eq!(Target::to_listen("127.0.0.1:0", 1).map(|target| target.port()), Ok(0));
        assert_eq!(
            Target::to_connect("127.0.0.1:0", 27_474).unwrap_err().to_string(),
            "its port is not a number from 1 to 65535; an address is HOST or HOST:PORT, like \
             host.example, 10.0.0.7:27474, [2001:db8::7]:27474 or [fe80::7%eth0]:27474"
        );
    }
}
