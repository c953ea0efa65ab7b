//! The words of the machine: values that everything above speaks in.

pub(crate) mod chore;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod deadline;
pub(crate) mod errno;
pub(crate) mod error;
pub(crate) mod flags;
pub(crate) mod ids;
pub(crate) mod options;
pub(crate) mod route;
pub(crate) mod socket;
pub(crate) mod span;
pub(crate) mod submission;
pub(crate) mod table;
