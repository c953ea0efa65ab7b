//! Networks to send into.
