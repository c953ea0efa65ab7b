//! Interfaces: what they lack. Pure.

use super::words::{first_line, hint_of};
use crate::facts::{Facts, Interface};
use crate::report::Check;

/// More are counted, not listed: a host of containers has hundreds.
const SHOWN: usize = 16;

/// What an interface can do for a send, by the kernel's own names of features.
pub(super) struct Offloads {
    pub(super) scatter_gather: bool,
    pub(super) checksum: bool,
    pub(super) tso: bool,
    pub(super) uso: bool,
    pub(super) gso: bool,
}

impl Offloads {
    pub(super) fn of(features: &[String]) -> Offloads {
        let on = |name: &str| features.iter().any(|feature| feature == name);
        Offloads {
            scatter_gather: on("tx-scatter-gather"),
            checksum: on("tx-checksum-ip-generic") || on("tx-checksum-ipv4"),
            tso: on("tx-tcp-segmentation"),
            uso: on("tx-udp-segmentation"),
            gso: on("tx-generic-segmentation"),
        }
    }
}

/// A check for each interface that is up, and the one of the path.
pub(super) fn interfaces(facts: &Facts) -> Vec<Check> {
    let needed = "interfaces of this network namespace";
    let all = match &facts.interfaces {
        Ok(all) => all,
        Err(why) => {
            let found = format!("cannot be seen: {}", first_line(why));
            let hint = hint_of(why)
                .unwrap_or_else(|| "whoever runs the container: allow netlink sockets".into());
            return vec![Check::ok("interfaces", found, needed).warn(hint)];
        }
    };
    let route = facts.path.as_ref().and_then(|path| path.route.as_ref().ok());
    let on_path = |one: &Interface| route.is_some_and(|route| route.interface == one.index);
    let mut shown: Vec<&Interface> =
        all.iter().filter(|one| !one.loopback && (one.up || on_path(one))).collect();
    // What is on the path is never left out.
    shown.sort_by_key(|one| !on_path(one));
    let left = shown.len().saturating_sub(SHOWN);
    shown.truncate(SHOWN);
    shown.sort_by_key(|one| one.index);
    let mut checks: Vec<Check> = shown.into_iter().map(check).collect();
    if checks.is_empty() {
        checks.push(
            Check::ok("interfaces", "none is up besides loopback", needed)
                .warn("whoever runs the container: give it a network; loopback always copies"),
        );
    }
    if left > 0 {
        let found = format!("{left} more are up and not listed");
        checks.push(Check::ok("interfaces", found, needed));
    }
    checks
}

fn check(one: &Interface) -> Check {
    let name = format!("interface:{}", one.name);
    let needed = "scatter-gather and checksums; segmentation saves CPU";
    let kind = match (one.driver.as_deref(), one.kind.as_deref()) {
        (Some(driver), Some(kind)) if driver != kind => format!("{kind} ({driver})"),
        (Some(word), _) | (None, Some(word)) => word.to_owned(),
        (None, None) => "driver unknown".into(),
    };
    let state = if one.up { "" } else { ", down" };
    let features = match &one.features {
        Ok(features) => features,
        Err(why) => {
            let found = format!("{kind}, MTU {}{state}; offloads cannot be seen: {why}", one.mtu);
            return Check::ok(name, found, needed)
                .warn("whoever runs the container: allow the ethtool ioctl");
        }
    };
    let offloads = Offloads::of(features);
    let word = |on: bool, what: &str| format!("{what} {}", if on { "on" } else { "OFF" });
    let found = format!(
        "{kind}, MTU {}{state}; {}, {}, {}, {}, {}",
        one.mtu,
        word(offloads.scatter_gather, "scatter-gather"),
        word(offloads.checksum, "checksums"),
        word(offloads.tso, "TSO"),
        word(offloads.gso, "GSO"),
        if offloads.uso { "USO on" } else { "USO off" },
    );
    let check = Check::ok(name, found, needed);
    let device = &one.name;
    let is_whole = offloads.scatter_gather && offloads.checksum && (offloads.tso || offloads.gso);
    if one.kind.as_deref() == Some("tun") && !is_whole {
        return check.warn(format!(
            "nothing: the program that reads {device} says what it takes, and copies it anyhow"
        ));
    }
    if !offloads.scatter_gather {
        return check.warn(format!(
            "root: ethtool -K {device} sg on; without it the kernel copies all that leaves here"
        ));
    }
    if !offloads.checksum {
        return check.warn(format!(
            "root: ethtool -K {device} tx on; without it the kernel reads, and copies, what leaves \
             here"
        ));
    }
    if !offloads.tso && !offloads.gso {
        return check.warn(format!(
            "root: ethtool -K {device} tso on gso on; without them each packet is a trip through \
             the stack"
        ));
    }
    check
}
