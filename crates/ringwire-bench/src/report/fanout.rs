//! What `bench fanout` comes to.

use serde::{Deserialize, Serialize};

use super::row::{Median, Row};

/// One run: some rounds of one method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FanoutRow {
    /// A payload is one flow's copy of the block.
    #[serde(flatten)]
    pub row: Row,
    /// Connections that got the block.
    pub flows: u32,
}

/// The medians of one method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FanoutMedian {
    /// As in a row.
    #[serde(flatten)]
    pub median: Median,
    /// Connections that got the block.
    pub flows: u32,
    /// Events that reported the block as free to the program, for each block; null where the calls
    /// themselves do.
    pub events_per_block: Option<f64>,
    /// Memory that the kernel charged to TCP sockets for one block to all of them, with no byte
    /// acknowledged; null where it could not be read.
    pub tcp_memory_bytes: Option<u64>,
    /// Slab memory that it took for that.
    pub slab_bytes: Option<u64>,
}

/// All of `bench fanout`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fanout {
    /// Every run.
    pub rows: Vec<FanoutRow>,
    /// One for each method.
    pub medians: Vec<FanoutMedian>,
}
