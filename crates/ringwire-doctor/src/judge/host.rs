//! Memory, buffers, IOMMU, TLS, and packet captures. Pure.

use super::engines;
use super::version::taps_reach_everywhere;
use super::words::{first_line, hint_of, limit, size};
use crate::facts::{Buffers, Facts, Memory, PacketSocket};
use crate::report::Check;

/// For rings, and for what is sent from unregistered memory; an arena comes on top. The arena's own
/// hint says the same.
const SENDS_BYTES: u64 = 16 << 20;
/// The kernel's default since 6.7.
const OPTMEM_BYTES: u64 = 128 << 10;
/// The default before, and too little for any rate.
const OPTMEM_OLD_BYTES: u64 = 20_480;
/// The kernel's default for the largest send buffer of TCP.
const TCP_BUFFER_BYTES: u64 = 4 << 20;
/// The kernel's default of `wmem_max` and `wmem_default`.
const UDP_BUFFER_BYTES: u64 = 212_992;
/// `ETH_P_ALL`: outgoing packets too.
const ALL_PROTOCOLS: u16 = 3;

pub(super) fn memlock(facts: &Facts) -> Check {
    let (name, memory) = ("memlock", &facts.memory);
    let obstacle = engines::uring_obstacle(facts);
    let rings = matches!(obstacle, None | Some(engines::Obstacle::Memlock));
    let arena_bytes = memory.arena.as_ref().map_or(0, |arena| arena.asked_bytes);
    let wanted_bytes = SENDS_BYTES + if rings { arena_bytes } else { 0 };
    let needed = format!(
        "room for what is registered, and for other memory that is being sent: {} here",
        size(wanted_bytes)
    );
    let bound = match facts.process.locks_freely() {
        true => "no limit holds (CAP_IPC_LOCK)".to_owned(),
        false => format!(
            "RLIMIT_MEMLOCK is {} (hard limit {}), for all processes of the user together",
            limit(memory.memlock_soft),
            limit(memory.memlock_hard)
        ),
    };
    let (arena, is_whole) = match &memory.arena {
        Ok(arena) => {
            let asked = size(arena.asked_bytes);
            let is_whole = arena.registered_bytes == arena.asked_bytes;
            let registered = match arena.registered_bytes {
                _ if is_whole => format!("all of {asked} was registered"),
                0 => format!("nothing of {asked} could be registered"),
                bytes => format!("{} of {asked} could be registered", size(bytes)),
            };
            (registered, is_whole)
        }
        Err(why) => (format!("an arena cannot be made: {}", first_line(why)), false),
    };
    let check = Check::ok(name, format!("{bound}; {arena}"), needed);
    match engines::shortage(facts) {
        Some(engines::Shortage::Memlock) => check.fail(raise(memory, wanted_bytes)),
        _ if is_whole => check,
        _ if rings => check.warn(raise(memory, wanted_bytes)),
        _ => check.warn("without io_uring nothing is registered; see the hint of io_uring"),
    }
}

/// Who can raise RLIMIT_MEMLOCK, and how. Only root raises the hard limit.
fn raise(memory: &Memory, wanted_bytes: u64) -> String {
    let (kib, mib) = (wanted_bytes >> 10, wanted_bytes >> 20);
    let elsewhere = format!(
        "LimitMEMLOCK={mib}M in a systemd unit; --ulimit memlock={wanted_bytes} for a container; a \
         smaller arena needs less"
    );
    match memory.memlock_hard.is_none_or(|hard| hard >= wanted_bytes) {
        true => format!("whoever starts the program: \"ulimit -l {kib}\" before it; {elsewhere}"),
        false => format!(
            "root: \"USER - memlock {kib}\" in /etc/security/limits.conf, and a new login; \
             {elsewhere}"
        ),
    }
}

pub(super) fn optmem(facts: &Facts) -> Check {
    let name = "optmem";
    let needed = "128 KiB for msg-zerocopy; io_uring does not use it";
    let Some(bytes) = facts.memory.optmem_max else {
        return unreadable(name, "net.core.optmem_max", needed, facts.memory.net_settings);
    };
    let sends = bytes / engines::OPTMEM_SEND_BYTES;
    let found = format!(
        "net.core.optmem_max is {}: about {sends} sends of msg-zerocopy under way at a time on a \
         socket",
        size(bytes)
    );
    let check = Check::ok(name, found, needed);
    let needs_it = facts.engine.as_ref().is_ok_and(|engine| engine.name == "msg-zerocopy");
    let hint = "root: sysctl -w net.core.optmem_max=131072";
    match bytes < OPTMEM_OLD_BYTES || needs_it && bytes < OPTMEM_BYTES {
        _ if engines::shortage(facts) == Some(engines::Shortage::Optmem) => check.fail(hint),
        true => check.warn(hint),
        false => check,
    }
}

/// A setting that is not there to read: because settings of the network are not, or because it is
/// one of those that older kernels show in the host's own network namespace alone, where it holds
/// for all.
fn unreadable(name: &str, setting: &str, needed: &str, net_settings: bool) -> Check {
    if !net_settings {
        return Check::ok(name, format!("{setting} cannot be read"), needed)
            .warn("whoever runs the container: mount /proc/sys for reading");
    }
    let found = format!(
        "{setting} is the host's, and this kernel does not show it in other network namespaces"
    );
    Check::ok(name, found, needed)
        .warn("root of the host: run ringwire doctor there, or look by \"sysctl net.core\"")
}

pub(super) fn huge_pages(memory: &Memory) -> Check {
    let huge = memory.huge_pages.as_deref().unwrap_or("not in this kernel");
    let on = |choice: &str| choice != "never";
    let folios: Vec<String> = memory
        .folios
        .iter()
        .filter(|(_, choice)| on(choice))
        .map(|(kib, choice)| format!("{} {choice}", size(kib << 10)))
        .collect();
    let folios = if folios.is_empty() { "no size by itself".into() } else { folios.join(", ") };
    Check::ok(
        "huge-pages",
        format!("transparent huge pages: {huge}; {folios}"),
        "nothing: registered memory lies on 4 KiB pages, on purpose; other memory gains from them",
    )
}

pub(super) fn send_buffers(facts: &Facts) -> Check {
    let buffers = &facts.buffers;
    let name = "send-buffers";
    let needed = "4 MiB for TCP, 208 KiB for UDP; more on long paths: rate times round-trip time, \
                  twice";
    let Some(tcp) = buffers.tcp_max else {
        return unreadable(name, "net.ipv4.tcp_wmem", needed, false);
    };
    let grows = format!("TCP grows to {} (tcp_wmem)", size(tcp));
    let small = tcp < TCP_BUFFER_BYTES;
    let more = "root: sysctl -w net.ipv4.tcp_wmem=\"4096 16384 4194304\"";
    let (Some(default), Some(max)) = (buffers.udp_default, buffers.udp_max) else {
        let settings = format!("{grows}; net.core.wmem_max");
        let check = unreadable(name, &settings, needed, facts.memory.net_settings);
        return if small { check.warn(more) } else { check };
    };
    let found = format!(
        "{grows}, UDP has {} (wmem_default), programs may ask for {} (wmem_max)",
        size(default),
        size(max)
    );
    let check = Check::ok(name, found, needed);
    if small {
        return check.warn(more);
    }
    if default < UDP_BUFFER_BYTES || max < UDP_BUFFER_BYTES {
        return check
            .warn("root: sysctl -w net.core.wmem_default=212992 -w net.core.wmem_max=212992");
    }
    check
}

pub(super) fn mtu_probing(buffers: &Buffers) -> Check {
    let name = "mtu-probing";
    let needed = "0: Linux gives memory back that a probe for a larger MTU still reads, so else \
                  ringwire copies on TCP";
    match buffers.tcp_mtu_probing {
        Some(value) => {
            let check = Check::ok(name, format!("net.ipv4.tcp_mtu_probing is {value}"), needed);
            match value {
                0 => check,
                _ => check.fail(
                    "root, or whoever runs the container: sysctl -w \
                     net.ipv4.tcp_mtu_probing=0, and make connections anew",
                ),
            }
        }
        None => Check::ok(name, "net.ipv4.tcp_mtu_probing cannot be read", needed)
            .fail("whoever runs the host: mount /proc/sys for reading"),
    }
}

pub(super) const END_ELSEWHERE: &str = "whoever runs it: bind it to an interface, or end it \
                                        (tcpdump -i any, a sniffer of a container); \"ss -0 -p \
                                        -N NAMESPACE\" names it to root; Linux 6.16 or newer has \
                                        no such reach";

/// Whether a packet socket sees what leaves by an interface.
pub(super) fn sees(socket: &PacketSocket, interface: u32) -> bool {
    socket.running
        && socket.protocol == ALL_PROTOCOLS
        && (socket.interface == 0 || socket.interface == interface)
}

pub(super) fn packet_sockets(facts: &Facts) -> Check {
    let name = "packet-sockets";
    let needed = "none that sees outgoing packets: each packet is copied for it";
    let sockets = match &facts.packet_sockets {
        Ok(sockets) => sockets,
        Err(why) => {
            return Check::ok(name, format!("cannot be seen: {why}"), needed)
                .warn("whoever runs the container: mount /proc");
        }
    };
    let mut on: Vec<String> = sockets
        .iter()
        .filter(|socket| sees(socket, socket.interface))
        .map(|socket| match socket.interface {
            0 => "all interfaces".to_owned(),
            index => {
                let mut all = facts.interfaces.iter().flatten();
                let named = all.find(|interface| interface.index == index);
                named.map_or_else(|| format!("interface {index}"), |one| one.name.clone())
            }
        })
        .collect();
    let elsewhere = facts.packet_sockets_elsewhere;
    if on.is_empty() && elsewhere > 0 && taps_reach_everywhere(&facts.kernel) {
        let found = format!(
            "{elsewhere} running in other network namespaces, on all interfaces: before Linux 6.16 \
             they see what leaves by this one, too"
        );
        return Check::ok(name, found, needed).warn(END_ELSEWHERE);
    }
    if on.is_empty() {
        let found = "none that reaches this network namespace, as far as can be seen";
        return Check::ok(name, found, needed);
    }
    let count = on.len();
    on.sort();
    on.dedup();
    Check::ok(name, format!("{count} running, on {}", on.join(", ")), needed).warn(
        "whoever runs it: end tcpdump, dhclient or what else it is; \"ss -0 -p\" names it to root",
    )
}

pub(super) fn ipsec(facts: &Facts) -> Check {
    let name = "ipsec";
    let needed = "no policy for the destination: what is encrypted is copied first";
    let to = facts.path.as_ref().and_then(|path| Some((&path.to, *path.encrypted.as_ref().ok()?)));
    match (&facts.ipsec_policies, to) {
        (Ok(0), _) => Check::ok(name, "no outbound policy", needed),
        (Ok(count), Some((to, false))) => {
            Check::ok(name, format!("outbound policies: {count}, none of them for {to}"), needed)
        }
        (Ok(count), Some((to, true))) => {
            Check::ok(name, format!("outbound policies: {count}, one of them for {to}"), needed)
                .warn("see the hint of path")
        }
        (Ok(count), None) => Check::ok(name, format!("outbound policies: {count}"), needed).warn(
            "whoever runs the host: see with \"ip xfrm policy\" if one covers the destination, or \
             ask with --to; if so nothing is gained, unless the card encrypts",
        ),
        (Err(why), _) => {
            let hint = hint_of(why)
                .unwrap_or_else(|| "root: run ringwire doctor, or \"ip xfrm policy\"".into());
            Check::ok(name, format!("cannot be seen: {}", first_line(why)), needed).warn(hint)
        }
    }
}

pub(super) fn iommu(facts: &Facts) -> Check {
    let (name, iommu) = ("iommu", &facts.iommu);
    let needed = "none, or passthrough: otherwise each page is mapped for the card and unmapped";
    let translates = |kind: &str| kind.starts_with("DMA");
    let cards: Vec<&str> = facts
        .interfaces
        .iter()
        .flatten()
        .filter(|interface| interface.iommu.as_deref().is_some_and(translates))
        .map(|interface| interface.name.as_str())
        .collect();
    let groups: Vec<String> =
        iommu.types.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
    let words = match iommu.command_line.is_empty() {
        true => String::new(),
        false => format!(" (command line: {})", iommu.command_line.join(" ")),
    };
    if groups.is_empty() {
        return Check::ok(name, format!("none in use{words}"), needed);
    }
    let known = facts.interfaces.iter().flatten().any(|interface| interface.iommu.is_some());
    let found = format!("groups: {}{words}", groups.join(", "));
    let hint = "whoever runs the host: iommu=pt on the kernel's command line, if devices are \
                trusted with all memory; it is worth the most with payloads of up to 64 KiB";
    if !cards.is_empty() {
        let found = format!("it stands before {}; {found}", cards.join(", "));
        return Check::ok(name, found, needed).warn(hint);
    }
    match !known && iommu.types.iter().any(|(kind, _)| translates(kind)) {
        true => Check::ok(name, found, needed).warn(hint),
        false => {
            Check::ok(name, format!("it stands before no card, or lets through; {found}"), needed)
        }
    }
}

pub(super) fn tls(facts: &Facts) -> Check {
    let kernel = match &facts.tls.ulps {
        Ok(ulps) if ulps.iter().any(|ulp| ulp == "tls") => "kTLS is loaded",
        Ok(_) => "kTLS is not loaded",
        Err(_) => "whether kTLS is loaded cannot be seen",
    };
    Check::ok(
        "tls",
        format!(
            "{kernel}; TLS in the program makes new bytes, and only those can leave without a \
             copy; a socket with kTLS refuses zero copy, and ringwire copies there"
        ),
        "nothing: ringwire sends bytes as they are, encrypted by the program or not at all",
    )
}
