//! The destination: whether the way to it copies. Pure.

use super::host::sees;
use super::links::Offloads;
use super::version::forwards_uncopied;
use super::words::size;
use crate::facts::{Connection, Facts, Interface, Path, Route, Sample};
use crate::report::Check;

/// What is known of a way without sending over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It copies everything, and who can change that.
    Copies(String, String),
    /// It may copy, and what decides.
    May(String, String),
    /// Nothing on it copies, as far as can be seen from here.
    Copyless(String),
}

const MEASURE: &str = "ask what the way really does: --probe-bytes 16MiB, to a server that may be \
                       sent junk, or to \"ringwire recv\"";
const NOTHING_TO_DO: &str = "nothing: what stays on one host is copied whoever sends it; zero \
                             copy pays over a network card";

/// The checks about the destination.
pub(super) fn checks(facts: &Facts, path: &Path) -> Vec<Check> {
    vec![route(facts, path), way(facts, path), connection(path), probe(path)]
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
        Err(why) => Check::ok(name, format!("{} ({}): {why}", path.to, path.address), needed)
            .fail("whoever runs the host: add a route, or check the address"),
    }
}

/// What the way does, by what was measured if something was, else by what is known.
pub(super) fn verdict(facts: &Facts, path: &Path) -> Option<Verdict> {
    let route = path.route.as_ref().ok()?;
    Some(judge(facts, route))
}

/// What was measured on the real path.
pub(super) fn measured(path: &Path) -> Option<&Sample> {
    path.connection.as_ref().ok()?.probe.as_ref()?.as_ref().ok()
}

/// Whether nothing was copied, as far as the kernel says.
pub(super) fn is_copyless(sample: &Sample) -> bool {
    sample.copied_bytes == 0 && sample.uncopied_bytes > 0
}

/// Whether it was copied on the way, and not before.
pub(super) fn is_copied(sample: &Sample) -> bool {
    sample.copied_bytes > 0 && sample.memlock_short_bytes == 0
}

fn way(facts: &Facts, path: &Path) -> Check {
    let (name, needed) = ("path", "a way that copies nothing");
    match verdict(facts, path) {
        None => Check::ok(name, "unknown without a route", needed).warn("see the hint of route"),
        Some(Verdict::Copies(why, hint)) => Check::ok(name, why, needed).fail(hint),
        Some(Verdict::May(why, _)) if measured(path).is_some_and(is_copyless) => {
            Check::ok(name, format!("{why}; what was sent was not copied"), needed)
        }
        Some(Verdict::May(why, hint)) if measured(path).is_some_and(is_copied) => {
            // What was asked for has been done.
            let hint = if hint == MEASURE { NOTHING_TO_DO.into() } else { hint };
            Check::ok(name, format!("{why}; what was sent was copied"), needed).fail(hint)
        }
        Some(Verdict::May(why, hint)) => Check::ok(name, why, needed).warn(hint),
        Some(Verdict::Copyless(why)) => Check::ok(name, why, needed),
    }
}

fn judge(facts: &Facts, route: &Route) -> Verdict {
    if route.local {
        let why = "the destination is this host itself: loopback copies everything";
        return Verdict::Copies(why.into(), NOTHING_TO_DO.into());
    }
    let Some(first) = interface(facts, route.interface) else {
        return Verdict::May("the interface cannot be seen".into(), MEASURE.into());
    };
    let verdict = through(facts, first, route, 0);
    if let Verdict::Copies(..) = verdict {
        return verdict;
    }
    let looked_on = facts.packet_sockets.iter().flatten();
    if looked_on.into_iter().any(|socket| sees(socket, first.index)) {
        return Verdict::May(
            format!(
                "a packet socket (tcpdump?) sees what leaves by {}: all of it is copied for it",
                first.name
            ),
            "whoever runs it: end it; \"ss -0 -p\" names it to root".into(),
        );
    }
    if let Ok(count @ 1..) = facts.ipsec_policies {
        return Verdict::May(
            format!("{count} IPsec policies are in force; what one covers is copied"),
            "whoever runs the host: see with \"ip xfrm policy\" if one covers the destination"
                .into(),
        );
    }
    verdict
}

/// Interfaces on interfaces are followed this far.
const DEPTH_MAX: u32 = 4;

fn through(facts: &Facts, one: &Interface, route: &Route, depth: u32) -> Verdict {
    let name = &one.name;
    if one.loopback {
        return Verdict::Copies(format!("{name} is loopback, which copies"), NOTHING_TO_DO.into());
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
        Some("tun") => Verdict::Copies(
            format!("{name} is a tun or tap device: a program reads it, into memory of its own"),
            NOTHING_TO_DO.into(),
        ),
        Some(kind @ ("veth" | "netkit")) => cable(facts, name, kind, route),
        Some("dummy" | "ifb") => Verdict::Copyless(format!("{name} drops what it is given")),
        Some(kind @ ("vlan" | "macvlan" | "ipvlan" | "vxlan" | "geneve")) => {
            match below(one.lower.filter(|_| !one.lower_elsewhere)) {
                Some(lower) if depth < DEPTH_MAX => through(facts, lower, route, depth + 1),
                _ => Verdict::May(
                    format!("what is below {name} ({kind}) cannot be seen from here"),
                    MEASURE.into(),
                ),
            }
        }
        Some(kind @ ("bond" | "team" | "bridge" | "vrf")) if depth < DEPTH_MAX => {
            ports(facts, one, kind, route, depth)
        }
        Some(kind) => Verdict::May(
            format!("{name} is of the kind {kind}: what it does with memory is not known"),
            MEASURE.into(),
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
        Err(_) => {
            Verdict::May(format!("the offloads of {} cannot be seen", one.name), MEASURE.into())
        }
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
    Verdict::May(why, hint.into())
}

/// What a bridge or bond does is what its ports do: all of them, or it depends.
fn ports(facts: &Facts, one: &Interface, kind: &str, route: &Route, depth: u32) -> Verdict {
    let name = &one.name;
    let all = facts.interfaces.iter().flatten();
    let ports: Vec<&Interface> = all.filter(|port| port.controller == Some(one.index)).collect();
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
            "{name} is a {kind} of {} ports: behind a card nothing is copied, behind a cable or \
             tap to this host all of it",
            ports.len()
        ),
        MEASURE.into(),
    )
}

fn connection(path: &Path) -> Check {
    let (name, needed) = ("connection", "a TCP connection");
    match &path.connection {
        Ok(Connection { receiver: true, .. }) => {
            Check::ok(name, format!("{} is a ringwire recv", path.to), needed)
        }
        Ok(_) => Check::ok(name, format!("{} takes connections", path.to), needed),
        Err(why) => Check::ok(name, format!("{}: {why}", path.to), needed)
            .warn("check that a server listens there, and that no firewall is on the way"),
    }
}

fn probe(path: &Path) -> Check {
    let (name, needed) = ("path-probe", "bytes that leave without a copy on the real path");
    let probe = match &path.connection {
        Ok(connection) => &connection.probe,
        Err(_) => {
            return Check::ok(name, "nothing sent: there is no connection", needed)
                .warn("see the hint of connection");
        }
    };
    match probe {
        None => {
            Check::ok(name, "nothing sent: the server is no ringwire recv", needed).warn(MEASURE)
        }
        Some(Err(why)) => Check::ok(name, why.clone(), needed)
            .warn("the server must take any bytes, and all of them, as \"ringwire recv\" does"),
        Some(Ok(sample)) => judged(name, sample, needed),
    }
}

fn judged(name: &str, sample: &Sample, needed: &str) -> Check {
    let sent = format!("{} sent", size(sample.bytes));
    if sample.memlock_short_bytes > 0 {
        let found = format!("{sent}; it was copied before it left, because memlock was short");
        return Check::ok(name, found, needed).warn("see the hint of memlock");
    }
    if sample.copied_bytes > 0 {
        let share = sample.copied_bytes as f64 / sample.bytes as f64 * 100.0;
        return Check::ok(name, format!("{sent}, {share:.0} % copied on the way"), needed)
            .fail(NOTHING_TO_DO);
    }
    if sample.uncopied_bytes > 0 && sample.uncopied_bytes < sample.bytes {
        let surely = size(sample.uncopied_bytes);
        let found = format!("{sent}, {surely} of it surely not copied, and the rest not said");
        return Check::ok(name, found, needed);
    }
    if sample.uncopied_bytes < sample.bytes {
        let found = format!("{sent}; the kernel does not say if it copied");
        return Check::ok(name, found, needed)
            .warn("whoever runs the host: the kernel says it since 6.2");
    }
    Check::ok(name, format!("{sent}, nothing copied"), needed)
}
