//! What is said when a transfer has ended. Pure: figures in, lines out.

use std::time::Duration;

use ringwire::Stats;

use super::receiver::{End, Receiver};
use crate::units::{show_bytes, show_duration, show_rate};

/// The figures of a transfer.
pub(super) struct Figures<'a> {
    pub(super) receivers: &'a [Receiver],
    pub(super) files: usize,
    /// Of all files together.
    pub(super) bytes: u64,
    pub(super) sent_after: Duration,
    pub(super) ended_after: Duration,
    pub(super) cpu: Duration,
    pub(super) stats: &'a Stats,
    /// From [`engine`].
    pub(super) engine: &'a str,
    pub(super) direct_files: u32,
    pub(super) read_files: u32,
}

/// The summary, a line each.
pub(super) fn lines(figures: &Figures<'_>) -> Vec<String> {
    let accepted: u64 = figures.receivers.iter().map(|receiver| receiver.accepted_bytes).sum();
    let mut lines = Vec::new();
    for receiver in figures.receivers {
        let stored = receiver.stored();
        lines.push(match receiver.end() {
            Some(End::Complete) if stored == figures.files => {
                format!("{}: {} stored", receiver.name, count(figures.files, "file"))
            }
            end => format!(
                "{}: {stored} of {} stored; {}",
                receiver.name,
                count(figures.files, "file"),
                why_not(receiver, end),
            ),
        });
    }
    lines.push(format!(
        "sent {} to {} in {}: {} in all; {} until the last receipt",
        show_bytes(figures.bytes),
        count(figures.receivers.len(), "receiver"),
        show_duration(figures.sent_after),
        show_rate(accepted, figures.sent_after),
        show_duration(figures.ended_after),
    ));
    lines.push(cpu(figures.cpu, accepted));
    lines.push(figures.engine.to_owned());
    lines.push(copied(figures.stats));
    lines.push(match (figures.direct_files, figures.read_files) {
        (_, 0) => "read: no file to its end".into(),
        (direct, all) if direct == all => "read: past the page cache (O_DIRECT)".into(),
        (0, _) => "read: through the page cache (the file system has no O_DIRECT)".into(),
        (direct, all) => format!("read: {direct} of {all} files past the page cache (O_DIRECT)"),
    });
    lines
}

/// Which engine a ring has, and why it is no better one: the first of the ring's reasons.
pub(super) fn engine(name: &str, why: Option<&str>) -> String {
    match why.and_then(|why| why.lines().next()).filter(|_| name != "uring") {
        Some(why) => format!("engine: {name}; {why}"),
        None => format!("engine: {name}"),
    }
}

/// Why a receiver has not got everything.
fn why_not(receiver: &Receiver, end: Option<&End>) -> String {
    let mut refusals = receiver.refusals();
    match (end, refusals.next()) {
        (Some(End::Lost(why)), _) => why.clone(),
        (_, Some(first)) => match refusals.count() {
            0 => first.into(),
            more => format!("{first} (and {more} more)"),
        },
        // The sender's own failure, which is said beside this.
        (_, None) => "the others were not sent".into(),
    }
}

fn cpu(cpu: Duration, bytes: u64) -> String {
    // Below this the start of the program is all that would be measured.
    const BYTES_MIN: u64 = 10_000_000;
    let seconds = cpu.as_secs_f64();
    match bytes {
        0..BYTES_MIN => format!("CPU: {seconds:.3} s"),
        _ => format!("CPU: {:.3} s a GB sent ({seconds:.2} s)", seconds / (bytes as f64 / 1e9)),
    }
}

/// What share of the bytes was copied on the way, and why.
fn copied(stats: &Stats) -> String {
    let chosen = &stats.copied_bytes;
    let parts = [
        (
            stats.kernel_copied_bytes,
            "by the kernel, as it does on loopback and towards local readers",
        ),
        (chosen.path_copies, "by choice, because the path copies, as loopback does"),
        (chosen.engine_copies, "by the engine, which does nothing else"),
        (chosen.small, "too small to be worth more"),
        (chosen.socket_refuses, "a socket that has no zero copy"),
        (chosen.memlock_short, "RLIMIT_MEMLOCK too low"),
        (chosen.unpinnable, "memory that the kernel cannot refer to"),
        (chosen.unsure_notifications, "sockets that others send on, too"),
        (chosen.mtu_probing, "tcp_mtu_probing not 0"),
        (chosen.over_mtu, "over the MTU"),
        (chosen.many_pieces, "too many pieces"),
        (chosen.kernel_lacks, "operations that this kernel lacks"),
        (chosen.train_refused, "trains that the path refuses"),
        (chosen.forced, "as asked for"),
        (stats.header_bytes, "frame heads, gathered with their blocks"),
    ];
    let copied: u64 = parts.iter().map(|(bytes, _)| bytes).sum();
    let all = copied + stats.kernel_zero_copy_bytes + stats.kernel_unknown_bytes;
    if all == 0 {
        return "copied: nothing was sent".into();
    }
    let why: Vec<String> = parts
        .iter()
        .filter(|(bytes, _)| *bytes > 0)
        .map(|(bytes, why)| format!("{} {why}", show_bytes(*bytes)))
        .collect();
    let mut line = format!("copied: {}", percent(copied, all));
    if !why.is_empty() {
        line += &format!(" ({})", why.join("; "));
    }
    if stats.kernel_unknown_bytes > 0 {
        line += &format!(
            "; {} about which the kernel's report cannot be believed",
            percent(stats.kernel_unknown_bytes, all)
        );
    }
    line
}

fn percent(part: u64, all: u64) -> String {
    let percent = part as f64 * 100.0 / all as f64;
    match part {
        0 => "0 %".into(),
        _ if percent < 0.1 => "under 0.1 %".into(),
        _ if part < all && percent > 99.9 => "over 99.9 %".into(),
        _ => format!("{percent:.1} %").replace(".0 %", " %"),
    }
}

fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        _ => format!("{n} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::protocol::{FromReceiver, Status};

    fn stats(change: impl FnOnce(&mut Stats)) -> Stats {
        let mut stats = Stats::default();
        change(&mut stats);
        stats
    }

    #[test]
    fn every_reason_to_copy_counts() {
        type Field = fn(&mut Stats) -> &mut u64;
        let fields: [Field; 15] = [
            |stats| &mut stats.kernel_copied_bytes,
            |stats| &mut stats.header_bytes,
            |stats| &mut stats.copied_bytes.small,
            |stats| &mut stats.copied_bytes.socket_refuses,
            |stats| &mut stats.copied_bytes.memlock_short,
            |stats| &mut stats.copied_bytes.unpinnable,
            |stats| &mut stats.copied_bytes.over_mtu,
            |stats| &mut stats.copied_bytes.many_pieces,
            |stats| &mut stats.copied_bytes.kernel_lacks,
            |stats| &mut stats.copied_bytes.engine_copies,
            |stats| &mut stats.copied_bytes.unsure_notifications,
            |stats| &mut stats.copied_bytes.mtu_probing,
            |stats| &mut stats.copied_bytes.train_refused,
            |stats| &mut stats.copied_bytes.forced,
            |stats| &mut stats.copied_bytes.path_copies,
        ];
        for field in fields {
            let mut stats = Stats::default();
            *field(&mut stats) = 1_000_000;
            let line = copied(&stats);
            assert!(line.starts_with("copied: 100 % (1.00 MB "), "{line}");
        }
    }

    #[test]
    fn the_share_that_was_copied_comes_with_its_reasons() {
        assert_eq!(copied(&Stats::default()), "copied: nothing was sent");
        let zero = stats(|stats| stats.kernel_zero_copy_bytes = 1_000_000);
        assert_eq!(copied(&zero), "copied: 0 %");
        let loopback = stats(|stats| {
            stats.kernel_copied_bytes = 999_995;
            stats.copied_bytes.small = 5;
        });
        assert_eq!(
            copied(&loopback),
            "copied: 100 % (1.00 MB by the kernel, as it does on loopback and towards local \
             readers; 5 B too small to be worth more)"
        );
        let mixed = stats(|stats| {
            stats.kernel_zero_copy_bytes = 500;
            stats.kernel_unknown_bytes = 250;
            stats.copied_bytes.memlock_short = 250;
        });
        assert_eq!(
            copied(&mixed),
            "copied: 25 % (250 B RLIMIT_MEMLOCK too low); 25 % about which the kernel's report \
             cannot be believed"
        );
    }

    #[test]
    fn shares_are_never_rounded_to_all_or_nothing() {
        assert_eq!(percent(1, 1_000_000), "under 0.1 %");
        assert_eq!(percent(999_999, 1_000_000), "over 99.9 %");
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(3, 3), "100 %");
    }

    #[test]
    fn the_summary_says_who_has_what() {
        let mut whole = Receiver::new("10.0.0.7:1".into(), Instant::now());
        whole.accepted_bytes = 1_000_000_000;
        whole.on_end_sent();
        let stored = FromReceiver::Receipt { file: 0, status: Status::Stored, text: String::new() };
        whole.on_frame(stored, 1);
        whole.on_bye_sent();
        assert!(whole.becomes_complete());
        let mut refused = Receiver::new("10.0.0.8:1".into(), Instant::now());
        let text = "a exists there".into();
        refused.on_frame(FromReceiver::Receipt { file: 0, status: Status::Refused, text }, 1);
        refused.on_end_sent();
        refused.on_bye_sent();
        assert!(refused.becomes_complete());
        let mut lost = Receiver::new("10.0.0.9:1".into(), Instant::now());
        lost.lose("dropped: no sign of life for 10 s".into());
        let figures = Figures {
            receivers: &[whole, refused, lost],
            files: 1,
            bytes: 1_000_000_000,
            sent_after: Duration::from_secs(2),
            ended_after: Duration::from_secs(3),
            cpu: Duration::from_millis(250),
            stats: &stats(|stats| stats.kernel_zero_copy_bytes = 1_000_000_000),
            engine: &engine("uring", None),
            direct_files: 1,
            read_files: 1,
        };
        assert_eq!(
            lines(&figures),
            [
                "10.0.0.7:1: 1 file stored",
                "10.0.0.8:1: 0 of 1 file stored; a exists there",
                "10.0.0.9:1: 0 of 1 file stored; dropped: no sign of life for 10 s",
                "sent 1.00 GB to 3 receivers in 2 s: 500 MB/s in all; 3 s until the last receipt",
                "CPU: 0.250 s a GB sent (0.25 s)",
                "engine: uring",
                "copied: 0 %",
                "read: past the page cache (O_DIRECT)",
            ]
        );
    }
}
