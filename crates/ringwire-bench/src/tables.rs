//! `bench tables`: the tables that the kernel's zero-copy send was proposed with, beside the same
//! columns measured here.
//!
//! Published in July 2022 with the fifth version of the patches (kernel.org's io-uring list,
//! `cover.1657643355.git.asml.silence@gmail.com`): UDP, requests a second, over a network card and
//! over a device that drops. "flush" is one notification a request.

use ringwire_units::grouped;

use crate::html::words::size;
use crate::job::Protocol;
use crate::report::Report;
use crate::report::row::Median;

/// The rows' name for this part.
pub const BENCH: &str = "tables";

/// Sizes of the tables.
pub const SIZES: [u64; 6] = [600, 1_000, 1_200, 1_500, 4_000, 8_000];

/// Methods that make its columns, in their order.
pub const METHODS: [&str; 5] = [
    "ring-send",
    "send-zc-registered",
    "ringwire-flush-1",
    "ringwire-flush-8",
    "ringwire-flush-train",
];

/// What was published for one size: non-zc, zc, zc+flush.
type Published = (u64, [u64; 3]);

const CARD: [Published; 4] = [
    (600, [596_292, 598_550, 555_366]),
    (1_000, [584_677, 592_088, 560_885]),
    (1_500, [551_808, 577_116, 565_803]),
    (4_000, [495_134, 606_420, 558_971]),
];

const DUMMY: [Published; 4] = [
    (600, [2_106_794, 2_381_527, 2_195_295]),
    (1_200, [2_071_617, 2_361_960, 2_203_052]),
    (4_000, [1_869_230, 2_344_146, 2_170_069]),
    (8_000, [1_299_916, 2_396_600, 2_224_219]),
];

/// The tables, a line each; none if they were not measured.
pub fn lines(report: &Report) -> Vec<String> {
    let measured = |m: &&Median| m.bench == BENCH && m.protocol == Protocol::Udp;
    let measured: Vec<&Median> = report.medians.iter().filter(measured).collect();
    let mut lines = Vec::new();
    for bytes in SIZES {
        let find = |method: &str| {
            let is = |m: &&&Median| m.payload_bytes == bytes && m.method == method;
            measured.iter().find(is).map(|median| median.payloads_per_s as u64)
        };
        let [plain, zc, flush_1, flush_8, flush_train] = METHODS.map(find);
        let here = [plain, None, zc, flush_1, flush_8, flush_train];
        if here.iter().all(Option::is_none) {
            continue;
        }
        let mut name = size(bytes);
        let published = [("2022, network card", CARD), ("2022, dummy device", DUMMY)];
        for (whose, table) in published {
            if let Some((_, row)) = table.iter().find(|(size, _)| *size == bytes) {
                let row = [Some(row[0]), Some(row[1]), Some(row[2]), None, None, None];
                lines.push(line(&std::mem::take(&mut name), whose, row));
            }
        }
        lines.push(line(&name, "here", here));
    }
    if lines.is_empty() {
        return lines;
    }
    let mut all = vec![
        String::new(),
        "UDP, datagrams a second; beside what was published in 2022 with the kernel's patches"
            .into(),
        format!("{:>8}  {:<18}{:>11}{:>11}{:>11}   ringwire, flushed after", "", "", "", "", ""),
        format!(
            "{:>8}  {:<18}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}",
            "datagram", "", "non-zc", "zc", "zc+flush", "1", "8", "a train"
        ),
    ];
    all.extend(lines);
    all.push(
        "Every request has a notification since then: there is no zc without flush here.".into(),
    );
    all
}

fn line(name: &str, whose: &str, cells: [Option<u64>; 6]) -> String {
    let mut line = format!("{name:>8}  {whose:<18}");
    for cell in cells {
        let cell = cell.map_or("–".into(), grouped);
        line.push_str(&format!("{cell:>11}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::row::Row;
    use crate::report::tests as example;

    fn row(method: &str, payload_bytes: u64, payloads_per_s: f64) -> Row {
        Row {
            bench: BENCH.into(),
            protocol: Protocol::Udp,
            method: method.into(),
            payload_bytes,
            payloads_per_s,
            bytes_per_s: payloads_per_s * payload_bytes as f64,
            ..example::row()
        }
    }

    #[test]
    fn what_was_published_stands_beside_what_was_measured() {
        let rows = vec![
            row("ring-send", 4_000, 400_000.0),
            row("send-zc-registered", 4_000, 650_000.0),
            row("ringwire-flush-train", 4_000, 9_876_543.0),
            row("ring-send", 1_500, 410_000.0),
        ];
        let report = Report::new(example::host(), rows);
        let squeezed = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = lines(&report).iter().map(squeezed).collect();
        assert_eq!(
            lines[3..],
            [
                "datagram non-zc zc zc+flush 1 8 a train",
                "1,500 B 2022, network card 551,808 577,116 565,803 – – –",
                "here 410,000 – – – – –",
                "4,000 B 2022, network card 495,134 606,420 558,971 – – –",
                "2022, dummy device 1,869,230 2,344,146 2,170,069 – – –",
                "here 400,000 – 650,000 – – 9,876,543",
                "Every request has a notification since then: there is no zc without flush here.",
            ]
        );
    }
}
