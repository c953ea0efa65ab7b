//! The connections that a block goes to.

use crate::net::Flow;

/// Connections, where the process may have as many descriptors.
pub const FLOWS: usize = 1000;
/// The block.
pub const BLOCK_BYTES: usize = 1 << 20;

/// Flows with one setting of the send buffer.
pub(super) struct Set {
    /// 0 or 1: its place among the sets.
    pub(super) index: usize,
    pub(super) sndbuf_bytes: Option<u64>,
    pub(super) flows: Vec<Flow>,
}
