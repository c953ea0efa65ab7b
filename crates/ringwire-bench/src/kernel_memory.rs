//! What the kernel uses for TCP and for its own objects, on the whole host.

use std::fs;

use crate::error::Error;

/// What the kernel uses, on the whole host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelMemory {
    /// Pages charged to TCP sockets.
    pub(crate) tcp_bytes: u64,
    /// Slab.
    pub(crate) slab_bytes: u64,
}

impl KernelMemory {
    /// What it uses now.
    pub(crate) fn read() -> Result<KernelMemory, Error> {
        let file = |path: &str| fs::read_to_string(path).map_err(|error| Error::io(path, error));
        let pages = tcp_pages(&file("/proc/net/sockstat")?);
        let slab = slab_kib(&file("/proc/meminfo")?);
        let (Some(pages), Some(slab)) = (pages, slab) else {
            return Err(Error::Unavailable(
                "/proc does not say what memory TCP and slab use".into(),
            ));
        };
        let page_bytes = rustix::param::page_size() as u64;
        Ok(KernelMemory { tcp_bytes: pages * page_bytes, slab_bytes: slab * 1024 })
    }

    /// What it uses more than it did `before`; nothing where it uses less.
    pub(crate) fn since(self, before: KernelMemory) -> KernelMemory {
        KernelMemory {
            tcp_bytes: self.tcp_bytes.saturating_sub(before.tcp_bytes),
            slab_bytes: self.slab_bytes.saturating_sub(before.slab_bytes),
        }
    }
}

/// Pages charged to TCP sockets, of the text of /proc/net/sockstat.
fn tcp_pages(sockstat: &str) -> Option<u64> {
    let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    let (_, after) = tcp.split_once(" mem ")?;
    after.split_whitespace().next()?.parse().ok()
}

/// KiB of slab, of the text of /proc/meminfo.
fn slab_kib(meminfo: &str) -> Option<u64> {
    let slab = meminfo.lines().find_map(|line| line.strip_prefix("Slab:"))?;
    slab.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_give_back_is_not_counted() {
        let memory = |tcp_bytes, slab_bytes| KernelMemory { tcp_bytes, slab_bytes };
        assert_eq!(memory(9, 5).since(memory(2, 1)), memory(7, 4));
        assert_eq!(memory(9, 5).since(memory(2, 8)), memory(7, 0));
        assert_eq!(memory(1, 5).since(memory(2, 1)), memory(0, 4));
    }

    #[test]
    fn the_kernel_says_what_it_uses() {
        let sockstat = "sockets: used 215\nTCP: inuse 1 orphan 0 tw 0 alloc 2 mem 259813\nUDP: \
                        inuse 3 mem 7\nTCP6: inuse 2\n";
        assert_eq!(tcp_pages(sockstat), Some(259_813));
        assert_eq!(tcp_pages("UDP: inuse 3 mem 7\n"), None);
        let meminfo = "MemTotal:  9 kB\nSlab:             181804 kB\nSReclaimable: 1 kB\n";
        assert_eq!(slab_kib(meminfo), Some(181_804));
        assert_eq!(slab_kib(""), None);
        KernelMemory::read().unwrap();
    }
}
