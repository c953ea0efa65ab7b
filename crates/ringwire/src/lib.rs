//! Zero-copy send.
