//! What files of `/proc` and `/sys`, and limits, say of the host.
//!
//! The parsing is pure and tested with texts of hosts that are not at hand.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Resource, getrlimit};

use crate::facts::{ArenaFacts, Buffers, Iommu, Memory, Process, Seen, Tls};

/// A file's text without white space around it.
pub(super) fn read(path: &str) -> Seen<String> {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| format!("{path}: {error}"))
}

pub(super) fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
    read(path).ok()?.parse().ok()
}

/// The release that `uname -r` shows.
pub(super) fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

pub(super) fn process() -> Process {
    let status = read("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned())
    };
    Process {
        uid: rustix::process::geteuid().as_raw(),
        capabilities: field("CapEff").and_then(|bits| u64::from_str_radix(&bits, 16).ok()),
        host_user_namespace: read("/proc/self/uid_map").is_ok_and(|map| is_whole_map(&map)),
        seccomp: field("Seccomp").and_then(|mode| mode.parse().ok()),
    }
}

/// Whether a user namespace has all users of the host: the host's own has.
fn is_whole_map(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

pub(super) fn memory(arena: Seen<ArenaFacts>) -> Memory {
    let limit = getrlimit(Resource::Memlock);
    const THP: &str = "/sys/kernel/mm/transparent_hugepage";
    let mut folios: Vec<(u64, String)> = fs::read_dir(THP)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let enabled = read(&format!("{THP}/{name}/enabled")).ok()?;
            Some((kib, bracketed(&enabled)?))
        })
        .collect();
    folios.sort();
    Memory {
        memlock_soft: limit.current,
        memlock_hard: limit.maximum,
        arena,
        net_settings: fs::metadata("/proc/sys/net/core/somaxconn").is_ok(),
        optmem_max: number("/proc/sys/net/core/optmem_max"),
        huge_pages: read(&format!("{THP}/enabled")).ok().and_then(|text| bracketed(&text)),
        folios,
    }
}

/// The word in brackets: `always [madvise] never`.
fn bracketed(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word.to_owned())
}

pub(super) fn buffers() -> Buffers {
    let tcp = read("/proc/sys/net/ipv4/tcp_wmem").ok();
    Buffers {
        tcp_mtu_probing: number("/proc/sys/net/ipv4/tcp_mtu_probing"),
        tcp_max: tcp.and_then(|three| three.split_whitespace().nth(2)?.parse().ok()),
        udp_default: number("/proc/sys/net/core/wmem_default"),
        udp_max: number("/proc/sys/net/core/wmem_max"),
    }
}

pub(super) fn iommu() -> Iommu {
    let names = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let mut types = BTreeMap::new();
    for group in names("/sys/kernel/iommu_groups") {
        if let Ok(kind) = read(&format!("/sys/kernel/iommu_groups/{group}/type")) {
            *types.entry(kind).or_insert(0) += 1;
        }
    }
    let mut units = names("/sys/class/iommu");
    units.sort();
    let line = read("/proc/cmdline").unwrap_or_default();
    Iommu { units, types: types.into_iter().collect(), command_line: iommu_words(&line) }
}

fn iommu_words(command_line: &str) -> Vec<String> {
    let words = command_line.split_whitespace();
    words.filter(|word| word.contains("iommu")).map(str::to_owned).collect()
}

/// The type of the IOMMU group that a device is in, by its bus address.
pub(super) fn iommu_of(bus_info: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":.-_".contains(&byte);
    if bus_info.is_empty() || bus_info.contains("..") || !bus_info.bytes().all(plain) {
        return None;
    }
    let buses = ["pci", "virtio", "platform"];
    buses
        .iter()
        .find_map(|bus| read(&format!("/sys/bus/{bus}/devices/{bus_info}/iommu_group/type")).ok())
}

pub(super) fn tls() -> Tls {
    // In other namespaces than the host's there is no such setting; the module is seen everywhere.
    let listed = read("/proc/sys/net/ipv4/tcp_available_ulp");
    let listed = listed.map(|words| words.split_whitespace().map(str::to_owned).collect());
    let module = || fs::metadata("/sys/module/tls").is_ok().then(|| "tls".to_owned());
    let ulps = match fs::read_dir("/sys/module") {
        Ok(_) => listed.or_else(|_: String| Ok(module().into_iter().collect())),
        Err(_) => listed,
    };
    Tls { ulps }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_in_brackets() {
        assert_eq!(bracketed("always [madvise] never"), Some("madvise".into()));
        assert_eq!(bracketed("always madvise never"), None);
    }

    #[test]
    fn the_hosts_own_user_namespace_has_all_users() {
        assert!(is_whole_map("         0          0 4294967295"));
        assert!(!is_whole_map("0 1000 1"));
        assert!(!is_whole_map("0 0 4294967295\n1 1 1"));
    }

    #[test]
    fn words_about_iommus_are_found_in_a_command_line() {
        let line = "quiet intel_iommu=on iommu=pt root=/dev/vda";
        assert_eq!(iommu_words(line), ["intel_iommu=on", "iommu=pt"]);
    }

    #[test]
    fn no_path_is_made_of_a_strange_bus_address() {
        for strange in ["", "../..", "a/b", "0000:00:03.0/.."] {
            assert_eq!(iommu_of(strange), None);
        }
    }
}
