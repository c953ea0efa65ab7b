//! The name of a file as it crosses the wire. Pure.
//!
//! Both ends hold names to the same rule: the sender so that it can say so before it connects, the
//! receiver because it must not trust a sender. A [`FileName`] is one component of a path that is
//! safe to join to a directory and to print.

use std::fmt;

/// Longest name in bytes: what Linux file systems take (NAME_MAX).
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// Names that begin so belong to the receiver's own temporary files.
pub(crate) const TEMPORARY_PREFIX: &str = ".ringwire-";

/// One path component: `1 <= len <= 255` bytes of UTF-8, no `/`, no control character, neither `.`
/// nor `..`, not a temporary of ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileName(String);

/// Why a name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("the file name is empty")]
    Empty,
    #[error("the file name has {0} bytes, and 255 is the most")]
    TooLong(usize),
    #[error("the file name is not UTF-8")]
    NotUtf8,
    #[error("the file name is \".\" or \"..\", which are directories")]
    Dots,
    #[error("the file name has a \"/\" in it; only names without a directory are taken")]
    Slash,
    #[error("the file name has a control character (such as NUL or a line break) in it")]
    Control,
    #[error("the file name begins with \".ringwire-\", which is kept for temporary files")]
    Temporary,
}

impl FileName {
    /// Checks the bytes of a name.
    pub(crate) fn new(bytes: &[u8]) -> Result<FileName, NameError> {
        if bytes.is_empty() {
            return Err(NameError::Empty);
        }
        if bytes.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong(bytes.len()));
        }
        let name = std::str::from_utf8(bytes).map_err(|_| NameError::NotUtf8)?;
        if name == "." || name == ".." {
            return Err(NameError::Dots);
        }
        if name.contains('/') {
            return Err(NameError::Slash);
        }
        if name.contains(char::is_control) {
            return Err(NameError::Control);
        }
        if name.starts_with(TEMPORARY_PREFIX) {
            return Err(NameError::Temporary);
        }
        Ok(FileName(name.into()))
    }

    /// The name, to be joined to a directory.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.0))
    }
}

/// Text of another's making, made fit for a terminal: what could move the cursor, change colours or
/// turn the writing direction is shown as an escape.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // `escape_debug` escapes what is not printable, and quotes, which are harmless here.
            '"' | '\'' | '\\' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_harmless_component() {
        for good in ["a", "model.bin", ".hidden", "...", "..a", "with space", "grüße", "~", "-rf"]
        {
            assert_eq!(FileName::new(good.as_bytes()).unwrap().as_str(), good);
        }
        let long = "x".repeat(255);
        assert!(FileName::new(long.as_bytes()).is_ok());
        for (bad, why) in [
            (&b""[..], NameError::Empty),
            (b".", NameError::Dots),
            (b"..", NameError::Dots),
            (b"../etc/passwd", NameError::Slash),
            (b"/etc/passwd", NameError::Slash),
            (b"a/", NameError::Slash),
            (b"a\0b", NameError::Control),
            (b"a\nb", NameError::Control),
            (b"a\x1b[31m", NameError::Control),
            (b"\xff\xfe", NameError::NotUtf8),
            (b".ringwire-0123.partial", NameError::Temporary),
        ] {
            assert_eq!(FileName::new(bad), Err(why), "{bad:?}");
        }
        assert_eq!(FileName::new("y".repeat(256).as_bytes()), Err(NameError::TooLong(256)));
    }

    #[test]
    fn printing_a_name_cannot_steer_the_terminal() {
        assert_eq!(printable("it's \"fine\" \\o/"), "it's \"fine\" \\o/");
        assert_eq!(printable("a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(
            FileName::new("gpj\u{202e}exe".as_bytes()).unwrap().to_string(),
            "gpj\\u{202e}exe"
        );
    }
}
