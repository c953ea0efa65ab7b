//! Numbers and errors as words. Pure.

use ringwire_units::exact;
use rustix::io::Errno;

/// `bytes` in the largest unit that leaves it whole: `64 MiB`, `96 KiB`, `100 bytes`.
pub(super) fn size(bytes: u64) -> String {
    match exact(bytes) {
        (number, "B") => format!("{number} bytes"),
        (number, unit) => format!("{number} {unit}"),
    }
}

/// A limit that may not be there.
pub(super) fn limit(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unlimited".into(), size)
}

/// An error number by its name, where it is one that is met here.
pub(super) fn errno(number: i32) -> String {
    const NAMES: [(Errno, &str); 12] = [
        (Errno::PERM, "EPERM"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::INVAL, "EINVAL"),
        (Errno::NFILE, "ENFILE"),
        (Errno::MFILE, "EMFILE"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::NOPROTOOPT, "ENOPROTOOPT"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::NOBUFS, "ENOBUFS"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::AFNOSUPPORT, "EAFNOSUPPORT"),
    ];
    let known = NAMES.iter().find(|(errno, _)| errno.raw_os_error() == number);
    known.map_or_else(|| format!("error {number}"), |(_, name)| (*name).to_owned())
}

/// The lines of a text in one, up to its hint.
pub(super) fn without_hint(text: &str) -> String {
    let (what, _) = text.split_once("hint: ").unwrap_or((text, ""));
    let lines = what.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

/// The first line of a text.
pub(super) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The lines of a text after `hint: `, if there are some.
pub(super) fn hint_of(text: &str) -> Option<String> {
    let (_, hint) = text.split_once("hint: ")?;
    Some(hint.lines().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_errors_are_words() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(8 << 20), "8 MiB");
        assert_eq!(size(1000), "1000 bytes");
        assert_eq!(limit(None), "unlimited");
        assert_eq!(errno(1), "EPERM");
        assert_eq!(errno(38), "ENOSYS");
        assert_eq!(errno(9999), "error 9999");
    }

    #[test]
    fn a_hint_is_taken_off_an_error() {
        let text = "cannot register: ENOMEM\n\nhint: raise it\nwith ulimit";
        assert_eq!(first_line(text), "cannot register: ENOMEM");
        assert_eq!(hint_of(text).as_deref(), Some("raise it with ulimit"));
        assert_eq!(hint_of("plain"), None);
        assert_eq!(without_hint(text), "cannot register: ENOMEM");
        assert_eq!(without_hint("one\ntwo"), "one; two");
    }
}
