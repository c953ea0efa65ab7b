//! Step 5 of a send: arrays that calls are prepared in, of raw pointers that the kernel follows.
//!
//! What they point to is lent by the ledger (`spans.rs`), whichever thread makes the call. So they
//! may go with their engine from one thread to another.
#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};

/// A vector of what holds raw pointers, for the kernel to follow and nobody else.
#[derive(Debug, Default)]
pub(crate) struct PointerVec<T>(Vec<T>);

// SAFETY: the pointers are followed by the kernel only, in calls whose contract does not depend on
// the thread that makes them (`spans.rs`); to this process the elements are numbers.
unsafe impl<T> Send for PointerVec<T> {}

impl<T> PointerVec<T> {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        PointerVec(Vec::with_capacity(capacity))
    }
}

impl<T> Deref for PointerVec<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T> DerefMut for PointerVec<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}
