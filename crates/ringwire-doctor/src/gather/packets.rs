//! Packet sockets: of this network namespace, and of others as far as processes are in them.
//!
//! Neighbours: `mod.rs` calls; `judge/host.rs` knows which of them have packets copied. What the
//! kernel's table says is parsed by pure functions, and tested with texts.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use super::host::read;
use crate::facts::{PacketSocket, Seen};
use crate::judge::version::taps_reach_everywhere;

/// `ETH_P_ALL`: outgoing packets too.
const ALL_PROTOCOLS: u16 = 3;

/// So many processes are looked at: a host with more has been seen well enough.
const PROCESSES_MAX: usize = 10_000;

/// A line of the table. The inode tells sockets apart, and so namespaces.
struct Line {
    socket: PacketSocket,
    inode: u64,
}

pub(super) fn here() -> Seen<Vec<PacketSocket>> {
    Ok(table_here()?.into_iter().map(|line| line.socket).collect())
}

fn table_here() -> Seen<Vec<Line>> {
    // Of the thread: /proc/net is that of the process's first one.
    read("/proc/thread-self/net/packet").map(|text| table(&text))
}

/// How many sockets of other namespaces take the packets of all interfaces, outgoing ones too; not
/// looked for where that makes no difference.
pub(super) fn elsewhere(release: &str) -> u32 {
    if !taps_reach_everywhere(release) {
        return 0;
    }
    let mut seen: HashSet<u64> =
        table_here().into_iter().flatten().map(|line| line.inode).collect();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let processes =
        numbers.take(PROCESSES_MAX).map(|process| (process, namespace(&process.to_string())));
    let mut count = 0;
    for process in one_of_each(namespace("thread-self"), processes) {
        let text = read(&format!("/proc/{process}/net/packet")).unwrap_or_default();
        for line in table(&text) {
            let PacketSocket { protocol, interface, running } = line.socket;
            let takes_all = running && protocol == ALL_PROTOCOLS && interface == 0;
            count += u32::from(seen.insert(line.inode) && takes_all);
        }
    }
    count
}

/// A process of each namespace but `ours`, and each of which the namespace is not told: another
/// user's.
fn one_of_each(
    ours: Option<PathBuf>,
    processes: impl Iterator<Item = (u32, Option<PathBuf>)>,
) -> impl Iterator<Item = u32> {
    let mut known: HashSet<PathBuf> = ours.into_iter().collect();
    processes
        .filter(move |(_, namespace)| namespace.clone().is_none_or(|one| known.insert(one)))
        .map(|(process, _)| process)
}

/// `sk RefCnt Type Proto Iface R Rmem User Inode`, a line each.
fn table(text: &str) -> Vec<Line> {
    let lines = text.lines().skip(1);
    lines
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let socket = PacketSocket {
                protocol: u16::from_str_radix(words.get(3)?, 16).ok()?,
                interface: words.get(4)?.parse().ok()?,
                running: *words.get(5)? == "1",
            };
            Some(Line { socket, inode: words.get(8)?.parse().ok()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_sockets_are_read_from_the_kernels_table() {
        let text = "sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                    ffff888100 3      3    0003   2     1 0      0      20104\n\
                    ffff888200 3      10   0800   0     0 0      0      20105\n";
        let expected = [
            (PacketSocket { protocol: 3, interface: 2, running: true }, 20104),
            (PacketSocket { protocol: 0x800, interface: 0, running: false }, 20105),
        ];
        let found: Vec<_> = table(text).iter().map(|line| (line.socket, line.inode)).collect();
        assert_eq!(found, expected);
        assert!(table("").is_empty());
    }

    #[test]
    fn a_namespace_is_looked_at_once_and_one_that_is_not_told_always() {
        let processes = [
            (1, Some("net:[1]")),
            (7, Some("net:[2]")),
            (8, None),
            (9, Some("net:[2]")),
            (10, None),
        ];
        let processes = processes.map(|(process, at)| (process, at.map(PathBuf::from)));
        let looked_at = |ours: &str| -> Vec<u32> {
            one_of_each(Some(ours.into()), processes.clone().into_iter()).collect()
        };
        assert_eq!(looked_at("net:[1]"), [7, 8, 10]);
        assert_eq!(looked_at("net:[2]"), [1, 8, 10]);
        assert_eq!(looked_at("net:[3]"), [1, 7, 8, 10]);
    }

    #[test]
    fn others_are_not_looked_for_where_they_see_nothing_of_ours() {
        assert_eq!((elsewhere("6.16.0"), elsewhere("7.1.3-amd64"), elsewhere("?")), (0, 0, 0));
    }
}
