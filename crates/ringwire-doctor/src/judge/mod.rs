//! Judging: facts become checks, and checks a recommendation. Pure.
//!
//! ```text
//! version.rs  the kernel's version, and bugs that apply to it     links.rs   interfaces
//! engines.rs  io_uring, MSG_ZEROCOPY, what ringwire chose         path.rs    the destination
//! host.rs     memory, buffers, IOMMU, TLS, captures              advice.rs  what follows
//! ```
//! Invariants: the order of checks does not depend on how they come out; a check that is not `ok`
//! has a hint, and one that is has none; only what keeps zero copy from being had is a `FAIL`.

mod advice;
mod engines;
mod host;
mod links;
mod path;
pub(crate) mod version;
mod words;

use crate::facts::Facts;
use crate::report::Report;

/// The version of the report's form.
const SCHEMA: u32 = 1;

/// What follows from `facts`.
pub fn judge(facts: &Facts) -> Report {
    let mut checks = vec![
        version::kernel(&facts.kernel),
        version::kernel_bugs(&facts.kernel),
        engines::uring(facts),
        engines::features(facts),
        engines::zerocopy(facts),
        engines::engine(facts),
        host::memlock(facts),
        host::optmem(facts),
        host::huge_pages(&facts.memory),
        host::send_buffers(facts),
        host::mtu_probing(&facts.buffers),
    ];
    checks.extend(links::interfaces(facts));
    checks.extend([
        host::packet_sockets(facts),
        host::ipsec(facts),
        host::iommu(facts),
        host::tls(facts),
        engines::live(facts),
    ]);
    if let Some(path) = &facts.path {
        checks.extend(path::checks(facts, path));
    }
    let recommendation = advice::recommend(facts, &checks);
    Report { schema: SCHEMA, checks, recommendation }
}
