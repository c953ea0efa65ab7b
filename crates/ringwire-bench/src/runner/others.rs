//! The parts that do not measure methods side by side: wires that copy, fan-out, latency, scale.

use crate::error::Error;
use crate::host;
use crate::job::{WireKind, WireSpec};
use crate::latency;
use crate::net::Net;
use crate::plan::Plan;
use crate::report::Report;
use crate::report::host::Host;
use crate::report::latency::Latencies;
use crate::watch::Watch;
use crate::wires::{Case, Kind};
use crate::{fanout, scale, wires};

/// What is measured over which wire. One wire alone is meant only if it copies: the perfect one is
/// what a plan has that names none. Among several it stands for what is measured over it, the path
/// that changes.
fn wanted(plan: &Plan) -> Vec<(WireSpec, Vec<Case>)> {
    let kinds = match (plan.kinds.as_slice(), plan.sizes.is_empty()) {
        ([], true) => &Kind::ALL[..],
        ([], false) => &[Kind::Equal],
        (kinds, _) => kinds,
    };
    let cases = |changing: bool| -> Vec<Case> {
        let of_wire = kinds.iter().filter(|kind| (**kind == Kind::Changing) == changing);
        of_wire.flat_map(|kind| Case::of(*kind, &plan.sizes)).collect()
    };
    let wires = match (plan.several_wires.as_slice(), plan.wire.kind) {
        ([], WireKind::Perfect) => vec![WireKind::Loopback, WireKind::Veth, WireKind::Perfect],
        ([], kind) => vec![kind],
        (several, _) => several.to_vec(),
    };
    let wires = wires.into_iter().map(|kind| (kind, cases(kind == WireKind::Perfect)));
    let named = wires.filter(|(_, cases)| !cases.is_empty());
    named.map(|(kind, cases)| (WireSpec { kind, ..plan.wire }, cases)).collect()
}

/// Tells the watch, and keeps the note for readers of the report.
fn note(report: &mut Report, watch: &mut dyn Watch, note: String) {
    watch.note(&note);
    report.host.notes.push(note);
}

/// `bench wires`.
pub(super) fn wires(plan: &Plan, watch: &mut dyn Watch) -> Result<Report, Error> {
    let wanted = wanted(plan);
    if wanted.is_empty() {
        return Err(Error::Misuse(
            "a path that changes is measured over the perfect wire, and all else over loopback and \
             veth: nothing is left to measure"
                .into(),
        ));
    }
    let steps = wanted.iter().map(|(_, cases)| cases.len() as u64).sum();
    let mut report: Option<Report> = None;
    let (mut step, mut notes) = (0, Vec::new());
    for (spec, cases) in wanted {
        let net = match Net::new(spec) {
            Ok(net) => net,
            Err(why) => {
                step += cases.len() as u64;
                notes.push(format!("{:?}: {why}", spec.kind));
                continue;
            }
        };
        let host = || host::over(&Plan { wire: spec, ..plan.clone() }, &net);
        let report = match &mut report {
            Some(report) => {
                report.host.device += &format!(", {}", net.device().0);
                report
            }
            none => none.insert(Report::new(wires_host(host(), &net), Vec::new())),
        };
        for case in cases {
            if watch.stops() {
                break;
            }
            watch.step(step, steps, &format!("{} {}", net.device().0, case.name()));
            step += 1;
            let place = format!("{}, {}", net.device().0, case.name());
            let naive = plan.wants("send-zc");
            let mut rows = wires::measure(&net, case, naive, || watch.stops());
            if let (Err(why), true) = (&rows, naive) {
                note(report, watch, format!("{place}, send-zc beside it: {why}"));
                rows = wires::measure(&net, case, false, || watch.stops());
            }
            match rows {
                Ok(rows) => report.wires.extend(rows),
                Err(why) => note(report, watch, format!("{place}: {why}")),
            }
        }
    }
    let Some(mut report) = report else { return Err(Error::Unavailable(notes.join("; "))) };
    for text in notes {
        note(&mut report, watch, text);
    }
    Ok(report)
}

/// The header of a report on wires that copy: of their own memory and send buffers.
fn wires_host(host: Host, net: &Net) -> Host {
    Host {
        memory: "blocks of an arena for every method, registered 4 KiB pages".into(),
        send_buffer: format!("the kernel's own ({})", net.own_send_buffers()),
        working_set_bytes: wires::WORKING_SET_BYTES,
        ..host
    }
}

/// `bench fanout`.
pub(super) fn fanout(plan: &Plan, watch: &mut dyn Watch) -> Result<Report, Error> {
    let plan = Plan { wire: WireSpec { kind: WireKind::Perfect, ..plan.wire }, ..plan.clone() };
    let net = Net::new(plan.wire)?;
    let mut report = Report::new(host::over(&plan, &net), Vec::new());
    report.host.working_set_bytes = fanout::BLOCK_BYTES as u64;
    let mut noting = Noting { watch, notes: Vec::new() };
    report.fanout = fanout::measure(&plan, &net, &mut noting)?;
    report.host.notes.append(&mut noting.notes);
    Ok(report)
}

/// Passes everything on, and keeps the notes.
struct Noting<'w> {
    watch: &'w mut dyn Watch,
    notes: Vec<String>,
}

impl Watch for Noting<'_> {
    fn step(&mut self, part: u64, whole: u64, what: &str) {
        self.watch.step(part, whole, what);
    }

    fn note(&mut self, text: &str) {
        self.watch.note(text);
        self.notes.push(text.into());
    }

    fn stops(&self) -> bool {
        self.watch.stops()
    }
}

/// `bench latency`.
pub(super) fn latency(plan: &Plan, watch: &mut dyn Watch) -> Result<Report, Error> {
    let kind = if plan.wire.kind.copies() { plan.wire.kind } else { WireKind::Loopback };
    let spec = WireSpec { kind, ..plan.wire };
    let net = Net::new(spec)?;
    let host = host::over(&Plan { wire: spec, ..plan.clone() }, &net);
    let mut report = Report::new(wires_host(host, &net), Vec::new());
    let sizes = if plan.sizes.is_empty() { latency::SIZES.to_vec() } else { plan.sizes.clone() };
    let mut rows = Vec::new();
    for (step, size) in sizes.iter().enumerate() {
        watch.step(step as u64, sizes.len() as u64, &format!("latency {size} B"));
        match latency::measure(&net, *size, plan.runs, || watch.stops()) {
            Ok(more) => rows.extend(more),
            Err(why) => note(&mut report, watch, format!("latency, {size} B: {why}")),
        }
    }
    report.host.working_set_bytes = sizes.iter().copied().max().unwrap_or(0);
    report.latencies = Latencies::new(rows);
    Ok(report)
}

/// `bench scale`.
pub(super) fn scale(plan: &Plan, watch: &mut dyn Watch) -> Result<Report, Error> {
    let plan = Plan { wire: WireSpec { kind: WireKind::Perfect, ..plan.wire }, ..plan.clone() };
    let net = Net::new(plan.wire)?;
    let host = Host {
        memory: "a few blocks that all payloads share, registered 4 KiB pages".into(),
        send_buffer: "64 MiB".into(),
        ..host::over(&plan, &net)
    };
    let mut report = Report::new(host, Vec::new());
    let mut noting = Noting { watch, notes: Vec::new() };
    let measured = scale::measure(&plan, &net, &mut noting)?;
    report.scale = measured.scale;
    let (disturbed, runs) = (measured.disturbed_runs, report.scale.rows.len());
    if disturbed > 0 {
        report.host.disturbed_share = disturbed as f64 / runs.max(1) as f64;
        noting.note(&format!(
            "scale: other programs had the processors in {disturbed} of {runs} runs, which count \
             all the same"
        ));
    }
    report.host.working_set_bytes =
        report.scale.rows.first().map_or(0, |row| scale::working_set_bytes(row.payload_bytes));
    report.host.notes.append(&mut noting.notes);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Bench;
    use WireKind::{Loopback, Perfect, Veth};

    /// The wires of a plan, each with how many of its rows are of a path that changes, and of all.
    fn wires(
        kind: WireKind,
        several: &[WireKind],
        kinds: &[Kind],
    ) -> Vec<(WireKind, usize, usize)> {
        let wire = WireSpec { kind, ack_us: 30, mtu: None };
        let plan = Plan {
            several_wires: several.into(),
            kinds: kinds.into(),
            ..Plan::least(Bench::Wires, wire)
        };
        let changing = |cases: &[Case]| {
            cases.iter().filter(|case| case.path == crate::report::wires::Path::Changing).count()
        };
        let counted =
            |(spec, cases): (WireSpec, Vec<Case>)| (spec.kind, changing(&cases), cases.len());
        wanted(&plan).into_iter().map(counted).collect()
    }

    #[test]
    fn one_wire_means_what_it_always_did() {
        let all = [(Loopback, 0, 13), (Veth, 0, 13), (Perfect, 2, 2)];
        assert_eq!(wires(Perfect, &[], &[]), all);
        assert_eq!(wires(Veth, &[], &[]), [(Veth, 0, 13)]);
        assert_eq!(wires(Perfect, &[], &[Kind::Changing]), [(Perfect, 2, 2)]);
    }

    #[test]
    fn several_wires_are_measured_in_the_order_they_were_named() {
        assert_eq!(wires(Veth, &[Veth, Loopback], &[]), [(Veth, 0, 13), (Loopback, 0, 13)]);
        assert_eq!(wires(Perfect, &[Perfect, Veth], &[]), [(Perfect, 2, 2), (Veth, 0, 13)]);
        assert_eq!(wires(Veth, &[Veth, Perfect], &[Kind::Mixed]), [(Veth, 0, 1)]);
        assert_eq!(wires(Veth, &[], &[Kind::Changing]), []);
    }
}
