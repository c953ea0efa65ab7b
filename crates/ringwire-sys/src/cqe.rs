//! Step 6 of a send: a raw completion becomes an event. Pure, and the only reader of raw `res` and
//! `flags`, because one integer means two things there (K1, K5).

#![forbid(unsafe_code)]

use ringwire_core::{Completion, Errno, Key, Usage};

/// A notification follows this result.
#[doc(alias = "IORING_CQE_F_MORE")]
pub(crate) const F_MORE: u32 = 1 << 1;
/// This completion is a notification.
#[doc(alias = "IORING_CQE_F_NOTIF")]
pub(crate) const F_NOTIF: u32 = 1 << 3;
/// Padding in a ring of mixed completion sizes.
#[doc(alias = "IORING_CQE_F_SKIP")]
pub(crate) const F_SKIP: u32 = 1 << 5;
/// In a notification's `res`: some of it was copied.
#[doc(alias = "IORING_NOTIF_USAGE_ZC_COPIED")]
pub(crate) const USAGE_COPIED: i32 = i32::MIN;

/// `user_data` of the poll on the waker.
pub(crate) const WAKER: u64 = u64::MAX;
/// `user_data` of cancellations, whose own completions say nothing that is needed.
pub(crate) const CANCEL: u64 = u64::MAX - 1;

/// What a raw completion means; `None` for those that mean nothing to the ledger.
///
/// `reports_usage`: whether requests asked for the usage report.
pub(crate) fn decode(
    user_data: u64,
    res: i32,
    flags: u32,
    reports_usage: bool,
) -> Option<Completion> {
    if flags & F_SKIP != 0 {
        return None;
    }
    match user_data {
        WAKER => return Some(Completion::Woken),
        CANCEL => return None,
        _ => {}
    }
    let token = Key::from_bits(user_data);
    if flags & F_NOTIF != 0 {
        let usage = match (reports_usage, res) {
            (false, _) => Usage::Unreported,
            (true, USAGE_COPIED) => Usage::Copied,
            (true, _) => Usage::ZeroCopy,
        };
        return Some(Completion::Notification { token, usage });
    }
    let outcome = match u32::try_from(res) {
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(Errno::from_raw_os_error(res.checked_neg().unwrap_or(i32::MAX))),
    };
    Some(Completion::Result { token, outcome, notification_follows: flags & F_MORE != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Key = Key::new(3, 9);
    const DATA: u64 = 9 << 32 | 3;

    fn result(outcome: Result<u32, Errno>, notification_follows: bool) -> Option<Completion> {
        Some(Completion::Result { token: TOKEN, outcome, notification_follows })
    }

    fn notification(usage: Usage) -> Option<Completion> {
        Some(Completion::Notification { token: TOKEN, usage })
    }

    #[test]
    fn the_table() {
        // (res, flags, reports usage) and what it means.
        let rows = [
            ((4096, 2, true), result(Ok(4096), true)),
            ((4096, 0, true), result(Ok(4096), false)),
            ((0, 2, true), result(Ok(0), true)),
            ((-32, 2, true), result(Err(Errno::PIPE), true)),
            ((-22, 0, true), result(Err(Errno::INVAL), false)),
            ((-125, 2, true), result(Err(Errno::CANCELED), true)),
            ((-12, 2, true), result(Err(Errno::NOMEM), true)),
            ((-95, 2, true), result(Err(Errno::OPNOTSUPP), true)),
            ((0, 8, true), notification(Usage::ZeroCopy)),
            ((i32::MIN, 8, true), notification(Usage::Copied)),
            ((0, 8, false), notification(Usage::Unreported)),
            ((0, 32, true), None),
        ];
        for ((res, flags, reports), meaning) in rows {
            assert_eq!(decode(DATA, res, flags, reports), meaning, "res {res} flags {flags}");
        }
        assert_eq!(decode(u64::MAX, 1, 2, true), Some(Completion::Woken));
        assert_eq!(decode(u64::MAX - 1, -2, 0, true), None);
    }
}
