//! The destination: whether the way to it copies. Pure.

use super::engines::{self, Part, Said};
use super::host::{END_ELSEWHERE, sees};
use super::links::Offloads;
use super::version::{forwards_uncopied, taps_reach_everywhere};
use super::words::{first_line, hint_of};
use crate::facts::{Connection, Facts, Interface, Path, Route};
use crate::report::Check;

/// What is known of a way without sending over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It copies everything, and who can change that.
    Copies(String, String),
    /// It may copy: what decides, who can find out or change that, and what to do if it does.
    May(String, String, String),
    /// Nothing on it copies, as far as can be seen from here.
    Copyless(String),
}

const MEASURE: &str = "ask what the way really does: --probe-bytes 16MiB, to a server that may be \
                       sent junk, or to \"ringwire recv\"";
const NOTHING_TO_DO: &str = "nothing: what stays on one host is copied whoever sends it; zero \
                             copy pays over a network card";
const UNSEEN: &str = "whoever runs the host: something copies that cannot be seen from here: most \
                      likely a packet socket or a device in another network namespace";
const END_IT: &str = "whoever runs it: end it; \"ss -0 -p\" names it to root";

/// The checks about the destination.
pub(super) fn checks(facts: &Facts, path: &Path) -> Vec<Check> {
    vec![route(facts, path), way(facts, path), connection(path), probe(facts, path)]
}

fn interface(facts: &Facts, index: u32) -> Option<&Interface> {
    facts.interfaces.iter().flatten().find(|one| one.index == index)
}

fn route(facts: &Facts, path: &Path) -> Check {
    let (name, needed) = ("route", "a way to the destination");
    match &path.route {
        Ok(route) => {
            let by = interface(facts, route.interface)
                .map_or_else(|| format!("interface {}", route.interface), |one| one.name.clone());
            let via = match (&route.gateway, route.local) {
                (_, true) => ", an address of this host".into(),
                (Some(router), _) => format!(", via {router}"),
                (None, _) => ", on its own link".into(),
            };
            Check::ok(name, format!("{} ({}) by {by}{via}", path.to, path.address), needed)
        }
        Err(why) => {
            let found = format!("{} ({}): {}", path.to, path.address, first_line(why));
            Check::ok(name, found, needed).fail(hint_of(why).unwrap_or_else(|| {
                "whoever runs the host: add a route, or check the address".into()
            }))
        }
    }
}

/// What the way does, as far as that can be known without sending over it.
fn known(facts: &Facts, path: &Path) -> Option<Verdict> {
    let route = path.route.as_ref().ok()?;
    Some(judge(facts, path, route))
}

/// What the kernel said of what was sent there.
fn measured(facts: &Facts, path: &Path) -> Option<Said> {
    let sample = path.connection.as_ref().ok()?.probe.as_ref()?.as_ref().ok()?;
    Some(engines::said_of(facts, sample))
}

/// What the way does, by what is known and by what was measured.
///
/// The kernel's report does not hold against what is surely known: it is silent about what is
/// copied late, by encryption or where a device takes no pieces (`skb_cow_data`, as ESP and
/// WireGuard call it, and `skb_linearize`; from their source, not measured).
pub(super) fn verdict(facts: &Facts, path: &Path) -> Option<Verdict> {
    use Part::{All, Most};
    Some(match (known(facts, path)?, measured(facts, path)) {
        (Verdict::May(why, ..), Some(Said::NothingCopied)) => {
            Verdict::Copyless(format!("{why}; what was sent was not copied"))
        }
        (Verdict::May(why, _, hint), Some(Said::Copied(All | Most))) => {
            Verdict::Copies(format!("{why}; what was sent was copied"), hint)
        }
        (Verdict::Copyless(why), Some(Said::Copied(All | Most))) => {
            Verdict::Copies(format!("{why}; but what was sent was copied"), UNSEEN.into())
        }
        (known, _) => known,
    })
}

/// Whether bytes were sent there that were not copied.
pub(super) fn was_seen_copyless(facts: &Facts, path: &Path) -> bool {
    measured(facts, path) == Some(Said::NothingCopied)
}

fn way(facts: &Facts, path: &Path) -> Check {
    let (name, needed) = ("path", "a way that copies nothing");
    match verdict(facts, path) {
        None => Check::ok(name, "unknown without a route", needed).warn("see the hint of route"),
        Some(Verdict::Copies(why, hint)) => Check::ok(name, why, needed).fail(hint),
        Some(Verdict::May(why, hint, _)) => Check::ok(name, why, needed).warn(hint),
        Some(Verdict::Copyless(why)) => Check::ok(name, why, needed),
    }
}

fn judge(facts: &Facts, path: &Path, route: &Route) -> Verdict {
    if route.local {
        let why = "the destination is this host itself: loopback copies everything";
        return Verdict::Copies(why.into(), NOTHING_TO_DO.into());
    }
    let Some(first) = interface(facts, route.interface) else {
        return Verdict::May("the interface cannot be seen".into(), MEASURE.into(), UNSEEN.into());
    };
    let verdict = through(facts, first, route, 0);
    if let Verdict::Copies(..) = verdict {
        return verdict;
    }
    let way = beneath(facts, first, 0);
    if path.encrypted == Ok(true) {
        return encryption(&way);
    }
    let sockets: Vec<_> = facts.packet_sockets.iter().flatten().collect();
    let looks_on = |one: &&&Interface| sockets.iter().any(|socket| sees(socket, one.index));
    if let Some(one) = way.iter().find(looks_on) {
        return Verdict::May(
            format!(
                "a packet socket (tcpdump?) sees what leaves by {}: all of it is copied for it",
                one.name
            ),
            END_IT.into(),
            END_IT.into(),
        );
    }
    if facts.packet_sockets_elsewhere > 0 && taps_reach_everywhere(&facts.kernel) {
        let why = "a packet socket of another network namespace sees what leaves by all interfaces \
                   (before Linux 6.16): all of it is copied for it";
        return Verdict::May(why.into(), END_ELSEWHERE.into(), END_ELSEWHERE.into());
    }
    verdict
}

/// A policy of IPsec covers the destination.
fn encryption(way: &[&Interface]) -> Verdict {
    let offloads = |one: &&Interface| {
        one.features.as_ref().is_ok_and(|on| on.iter().any(|name| name == "esp-hw-offload"))
    };
    let hint = "whoever runs the host: leave the destination out of the policy (\"ip xfrm \
                policy\"), or have a card encrypt that can";
    if way.iter().any(offloads) {
        let why = "an IPsec policy covers the destination: copied, unless the card encrypts";
        return Verdict::May(why.into(), hint.into(), hint.into());
    }
    let why = "an IPsec policy covers the destination: what is encrypted is copied first";
    Verdict::Copies(why.into(), hint.into())
}

/// Interfaces on interfaces are followed this far.
const DEPTH_MAX: u32 = 4;

/// An interface, and all that packets may leave by below it.
fn beneath<'f>(facts: &'f Facts, one: &'f Interface, depth: u32) -> Vec<&'f Interface> {
    let mut all = vec![one];
    if depth < DEPTH_MAX {
        let lower = one.lower.filter(|_| !one.lower_elsewhere && is_stacked(one));
        let below = facts.interfaces.iter().flatten().filter(|other| {
            other.index != one.index
                && (other.controller == Some(one.index) || lower == Some(other.index))
        });
        for lower in below {
            all.extend(beneath(facts, lower, depth + 1));
        }
    }
    all
}

/// Whether its packets leave by the interface below it. The other end of a cable is not below.
fn is_stacked(one: &Interface) -> bool {
    let kind = one.kind.as_deref();
    kind.is_some_and(|kind| ["vlan", "macvlan", "ipvlan", "vxlan", "geneve"].contains(&kind))
}

fn through(facts: &Facts, one: &Interface, route: &Route, depth: u32) -> Verdict {
    let name = &one.name;
    if one.loopback {
        return Verdict::Copies(format!("{name} is loopback, which copies"), NOTHING_TO_DO.into());
    }
    // Before its offloads, which are those of the program that reads it.
    match one.kind.as_deref() {
        Some("tun") => {
            return Verdict::Copies(
                format!(
                    "{name} is a tun or tap device: a program reads it, into memory of its own"
                ),
                NOTHING_TO_DO.into(),
            );
        }
        Some(kind @ ("wireguard" | "xfrm")) => {
            return Verdict::Copies(
                format!("{name} ({kind}) encrypts what leaves by it, which copies it"),
                "nothing: bytes that are encrypted on the way are new bytes".into(),
            );
        }
        _ => {}
    }
    if let Ok(features) = &one.features {
        let offloads = Offloads::of(features);
        if !offloads.scatter_gather {
            return Verdict::Copies(
                format!("{name} has scatter-gather off: the kernel copies at once"),
                format!("root: ethtool -K {name} sg on"),
            );
        }
        if !offloads.checksum {
            return Verdict::Copies(
                format!("{name} has checksums off: the kernel has to read every byte"),
                format!("root: ethtool -K {name} tx on"),
            );
        }
    }
    let below = |index: Option<u32>| index.and_then(|index| interface(facts, index));
    match one.kind.as_deref() {
        None => card(one),
        Some(kind @ ("veth" | "netkit")) => cable(facts, name, kind, route),
        Some("dummy" | "ifb") => Verdict::Copyless(format!("{name} drops what it is given")),
        Some(kind) if is_stacked(one) => match below(one.lower.filter(|_| !one.lower_elsewhere)) {
            Some(lower) if depth < DEPTH_MAX => through(facts, lower, route, depth + 1),
            _ => Verdict::May(
                format!("what is below {name} ({kind}) cannot be seen from here"),
                MEASURE.into(),
                UNSEEN.into(),
            ),
        },
        Some(kind @ ("bond" | "team" | "bridge" | "vrf")) if depth < DEPTH_MAX => {
            ports(facts, one, kind, route, depth)
        }
        Some(kind) => Verdict::May(
            format!("{name} is of the kind {kind}: what it does with memory is not known"),
            MEASURE.into(),
            UNSEEN.into(),
        ),
    }
}

fn card(one: &Interface) -> Verdict {
    let driver = one.driver.as_deref().unwrap_or("driver unknown");
    match one.features {
        Ok(_) => Verdict::Copyless(format!(
            "{} ({driver}) takes memory as it is; beyond this host nothing copies",
            one.name
        )),
        Err(_) => Verdict::May(
            format!("the offloads of {} cannot be seen", one.name),
            MEASURE.into(),
            UNSEEN.into(),
        ),
    }
}

fn cable(facts: &Facts, name: &str, kind: &str, route: &Route) -> Verdict {
    let forwards = forwards_uncopied(&facts.kernel);
    let hint = match (&route.gateway, forwards) {
        (Some(_), false) => {
            "whoever runs the host: 6.17 or newer forwards to a card without a copy; or give the \
             container the host's network"
        }
        _ => MEASURE,
    };
    let why = match (&route.gateway, forwards) {
        (None, _) => format!(
            "{name} is a {kind} cable: what a program of this host receives is copied, unless a \
             bridge joins the cable to a card"
        ),
        (Some(_), false) => {
            format!("{name} is a {kind} cable: before Linux 6.17 what the host forwards is copied")
        }
        (Some(_), true) => format!(
            "{name} is a {kind} cable: what stays on this host is copied, what it forwards to a \
             card is not"
        ),
    };
    let if_copied = if hint == MEASURE { NOTHING_TO_DO } else { hint };
    Verdict::May(why, hint.into(), if_copied.into())
}

/// What a bridge or bond does is what its ports do: all of them, or it depends.
fn ports(facts: &Facts, one: &Interface, kind: &str, route: &Route, depth: u32) -> Verdict {
    let name = &one.name;
    let all = facts.interfaces.iter().flatten();
    let ports: Vec<&Interface> = all.filter(|port| port.controller == Some(one.index)).collect();
    let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
    let verdicts: Vec<Verdict> =
        ports.iter().map(|port| through(facts, port, route, depth + 1)).collect();
    let copyless = verdicts.iter().filter(|v| matches!(v, Verdict::Copyless(_))).count();
    if copyless == verdicts.len() && !verdicts.is_empty() {
        return Verdict::Copyless(format!("{name} is a {kind} of cards that take memory as it is"));
    }
    let copies = verdicts.iter().filter(|v| matches!(v, Verdict::Copies(..))).count();
    if copies == verdicts.len() && !verdicts.is_empty() {
        return Verdict::Copies(
            format!("{name} is a {kind}, and all its ports copy"),
            NOTHING_TO_DO.into(),
        );
    }
    Verdict::May(
        format!(
            "{name} is a {kind} with {} below it: by a card nothing is copied, by a cable or tap \
             to this host all of it",
            if ports.is_empty() { "nothing".to_owned() } else { names.join(", ") },
        ),
        MEASURE.into(),
        NOTHING_TO_DO.into(),
    )
}

fn connection(path: &Path) -> Check {
    let (name, needed) = ("connection", "a TCP connection");
    match &path.connection {
        Ok(Connection { receiver: true, busy: true, .. }) => {
            Check::ok(name, format!("{} is a ringwire recv that serves others", path.to), needed)
        }
        Ok(Connection { receiver: true, .. }) => {
            Check::ok(name, format!("{} is a ringwire recv", path.to), needed)
        }
        Ok(_) => Check::ok(name, format!("{} takes connections", path.to), needed),
        Err(why) => {
            let check = Check::ok(name, format!("{}: {}", path.to, first_line(why)), needed);
            match path.route {
                Err(_) => check.warn("see the hint of route"),
                Ok(_) => check.warn(
                    "whoever runs the server: check that it listens there, and that no firewall is \
                     on the way",
                ),
            }
        }
    }
}

fn probe(facts: &Facts, path: &Path) -> Check {
    let (name, needed) = ("path-probe", "bytes that leave without a copy on the real path");
    let probe = match &path.connection {
        Ok(connection) => &connection.probe,
        Err(_) => {
            return Check::ok(name, "nothing sent: there is no connection", needed)
                .warn("see the hint of connection");
        }
    };
    let busy = matches!(path.connection, Ok(Connection { busy: true, .. }));
    let sample = match probe {
        None if busy => {
            return Check::ok(name, "nothing sent: the ringwire recv serves others", needed)
                .warn("nothing: ask again when it has a place free");
        }
        None => {
            return Check::ok(name, "nothing sent: the server is no ringwire recv", needed)
                .warn(MEASURE);
        }
        Some(Err(why)) => {
            return Check::ok(name, first_line(why), needed).warn(
                "whoever runs the server: it must take any bytes, and all of them, as \"ringwire \
                 recv\" does",
            );
        }
        Some(Ok(sample)) => sample,
    };
    let said = engines::said_of(facts, sample);
    let check = Check::ok(name, format!("{}, {said}", engines::sent(sample)), needed);
    match said {
        Said::NothingCopied => check,
        Said::Silent => check.warn("whoever runs the host: the kernel says it since 6.2"),
        Said::NoMemlock(_) => check.warn("see the hint of memlock"),
        Said::EngineCopies => check.warn("see the hint of engine"),
        Said::MtuProbing => check.warn("see the hint of mtu-probing"),
        Said::Copied(Part::Some) => check.warn("see path, and ask again"),
        Said::Copied(_) => check.fail("see the hint of path"),
    }
}
