//! `ringwire bench`, really run, with runs too short to mean anything.

use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::common::*;

/// Fields of a row, in the order that is promised.
const ROW: [&str; 19] = [
    "bench",
    "wire",
    "protocol",
    "method",
    "payload_bytes",
    "working_set_bytes",
    "order",
    "backing",
    "sndbuf_bytes",
    "run",
    "payloads_per_s",
    "bytes_per_s",
    "cpu_s_per_gb",
    "copied_share",
    "requests_per_payload",
    "notifications_per_payload",
    "release_delay_us_p50",
    "release_delay_us_p99",
    "errors",
];

/// What a median has beside them, instead of `run`.
const MEDIAN: [&str; 6] = [
    "ratio_to_write",
    "runs",
    "bytes_per_s_min",
    "bytes_per_s_max",
    "cpu_s_per_gb_min",
    "cpu_s_per_gb_max",
];

/// Runs that take no time.
const SHORT: [&str; 6] = ["--seconds", "5ms", "--runs", "2", "--working-set", "4MiB"];

/// The objects of a list in pretty-printed JSON, each as its keys in the order of the text: a
/// parsed document has lost that.
fn keys_of(json: &str, list: &str) -> Vec<Vec<String>> {
    let start = json.find(&format!("\n  \"{list}\": [")).expect("there is such a list");
    let lines = json[start + 1..].lines().skip(1).take_while(|line| !line.starts_with("  ]"));
    let mut objects = Vec::new();
    for line in lines {
        match line.strip_prefix("      \"") {
            None if line.trim() == "{" => objects.push(Vec::new()),
            None => {}
            Some(rest) => {
                let key = rest.split('"').next().unwrap().to_owned();
                objects.last_mut().unwrap().push(key);
            }
        }
    }
    objects
}

fn bench(args: &[&str]) -> End {
    run([&["bench"], args, &SHORT].concat())
}

#[test]
fn stdout_carries_the_promised_json_and_nothing_else() {
    let args = ["tcp", "--wire", "loopback", "--order", "sequential", "--size", "64KiB"];
    let methods = ["--method", "write", "--method", "writev64", "--json", "-"];
    let end = bench(&[&args[..], &methods].concat()).expect(0);
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!(report["schema"], 1);
    let host = report["host"].as_object().unwrap();
    for key in [
        "kernel",
        "cpu",
        "cpus",
        "device",
        "mtu",
        "memory",
        "send_buffer",
        "ack_us",
        "working_set_bytes",
        "commit",
        "disturbed_share",
        "notes",
    ] {
        assert!(host.contains_key(key), "{key}");
    }
    assert_eq!((&host["device"], &host["working_set_bytes"]), (&"lo".into(), &4_194_304.into()));

    // Two kinds of pages and two send buffers tried twice, then two runs, of each of two methods. A
    // large send buffer takes a right over the network's namespace, or a limit that the host has
    // raised.
    let notes = report["host"]["notes"].to_string();
    let tried: &[u64] = if notes.contains("CAP_NET_ADMIN") { &[0; 4] } else { &[0; 8] };
    let rows = report["rows"].as_array().unwrap();
    let runs = |method: &str| -> Vec<u64> {
        let its = rows.iter().filter(|row| row["method"] == method);
        its.map(|row| row["run"].as_u64().unwrap()).collect()
    };
    for method in ["write", "writev64"] {
        assert_eq!(runs(method), [tried, &[1, 2]].concat(), "{method}: {notes}");
    }
    let named: Vec<_> =
        rows.iter().filter(|row| row["run"] != 0).map(|row| row["method"].clone()).collect();
    assert_eq!(named, ["write", "writev64", "write", "writev64"], "they take turns");
    for row in rows {
        assert_eq!(row["bench"], "tcp");
        assert_eq!(row["wire"], "loopback");
        assert_eq!(row["protocol"], "tcp");
        assert_eq!(row["payload_bytes"], 65_536);
        assert_eq!(row["working_set_bytes"], 4_194_304);
        assert_eq!(row["order"], "sequential");
        assert!(["4KiB", "huge"].contains(&row["backing"].as_str().unwrap()), "{row}");
        assert!([Value::Null, 67_108_864.into()].contains(&row["sndbuf_bytes"]), "{row}");
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(number("bytes_per_s") > 0.0 && number("cpu_s_per_gb") > 0.0, "{row}");
        let payloads = number("bytes_per_s") / number("payloads_per_s");
        assert!((payloads - 65_536.0).abs() < 0.01, "{row}");
        assert_eq!(row["copied_share"], 1.0);
        assert_eq!(row["release_delay_us_p50"], Value::Null);
        assert_eq!(row["errors"], 0);
    }

    let medians = report["medians"].as_array().unwrap();
    assert_eq!(medians.len(), 2);
    assert_eq!(
        (&medians[0]["method"], &medians[0]["ratio_to_write"]),
        (&"write".into(), &1.0.into())
    );
    let rate = |median: usize| medians[median]["bytes_per_s"].as_f64().unwrap();
    let ratio = medians[1]["ratio_to_write"].as_f64().unwrap();
    assert!((ratio - rate(1) / rate(0)).abs() < 1e-9, "{ratio}");

    for keys in keys_of(&end.stdout, "rows") {
        assert_eq!(keys, ROW);
    }
    let of_median: Vec<&str> = ROW.into_iter().filter(|key| *key != "run").chain(MEDIAN).collect();
    for keys in keys_of(&end.stdout, "medians") {
        assert_eq!(keys, of_median);
    }
}

#[test]
fn files_hold_the_json_and_the_page_and_stdout_the_words() {
    let dir = scratch();
    let (json, html) = (dir.path().join("a.json"), dir.path().join("a.html"));
    let args = ["tcp", "--wire", "loopback", "--order", "shuffled", "--size", "4KiB"];
    let files =
        ["--method", "write", "--json", json.to_str().unwrap(), "--html", html.to_str().unwrap()];
    let end = bench(&[&args[..], &files].concat()).expect(0);
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["medians"][0]["method"], "write");
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>"), "{}", &page[..100]);
    assert!(end.stdout.contains("TCP over loopback, which copies"), "{}", end.stdout);
    assert!(!end.stdout.contains('{'), "{}", end.stdout);
}

#[test]
fn into_the_perfect_wire_ringwire_copies_nothing() {
    let args = ["tcp", "--order", "shuffled", "--size", "64KiB", "--json", "-"];
    let methods = ["--method", "write", "--method", "ringwire"];
    let end = bench(&[&args[..], &methods].concat()).expect(0);
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    let medians = report["medians"].as_array().unwrap();
    let ringwire = medians.iter().find(|median| median["method"] == "ringwire");
    match (&report["rows"][0]["wire"], ringwire) {
        (wire, Some(ringwire)) if wire == "perfect" => {
            assert_eq!(ringwire["copied_share"], 0.0, "{ringwire}");
            assert_eq!(ringwire["errors"], 0);
            assert!(ringwire["release_delay_us_p50"].as_f64().unwrap() > 0.0);
        }
        _ => {
            // What it could not measure it said.
            let notes = report["host"]["notes"].to_string();
            ringwire_wire::skip("into_the_perfect_wire_ringwire_copies_nothing", &notes);
        }
    }
}

/// Fields of a row of bench scale, in the order that is promised: of CPU time, and of memory.
const SCALE_ROW: [&str; 15] = [
    "bench",
    "wire",
    "protocol",
    "method",
    "payload_bytes",
    "over",
    "sockets",
    "in_flight_payloads",
    "rings",
    "run",
    "payloads",
    "seconds",
    "cpu_ns_per_payload",
    "requests_per_payload",
    "errors",
];
const MEMORY_ROW: [&str; 11] = [
    "bench",
    "wire",
    "protocol",
    "method",
    "payload_bytes",
    "each",
    "count",
    "run",
    "memory_bytes_each",
    "slab_bytes_each",
    "tcp_memory_bytes_each",
];

#[test]
fn scale_measures_up_to_as_many_sockets_as_there_may_be() {
    let dir = scratch();
    let html = dir.path().join("a.html");
    // With descriptors for 25 sockets, for whoever runs this.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 250; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_ringwire")]);
    command.args(["bench", "scale", "--json", "-", "--html"]).arg(&html).args(SHORT);
    let end = Program::start(command).end();
    if end.status.code() != Some(0) {
        // What it could not measure it said.
        return ringwire_wire::skip(
            "scale_measures_up_to_as_many_sockets_as_there_may_be",
            &end.stderr,
        );
    }
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    for keys in keys_of(&end.stdout, "rows") {
        assert!(keys == SCALE_ROW || keys == MEMORY_ROW, "{keys:?}");
    }
    let amounts = |over: &str, field: &str| -> Vec<u64> {
        let its = report["medians"].as_array().unwrap().iter().filter(|m| m["over"] == over);
        let bare = its.filter(|median| median["method"] == "minimal");
        bare.map(|median| median[field].as_u64().unwrap()).collect()
    };
    assert_eq!(amounts("sockets", "sockets"), [1, 10, 25]);
    assert_eq!(amounts("in_flight", "in_flight_payloads"), [16, 256, 4096, 65_536]);
    assert_eq!(amounts("rings", "rings"), [1, 2, 3, 4]);
    let notes = report["host"]["notes"].to_string();
    assert!(notes.contains("up to 25 sockets instead of 10000: RLIMIT_NOFILE is 250"), "{notes}");
    for row in rows.iter().filter(|row| row["over"].is_string()) {
        assert!(row["cpu_ns_per_payload"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!((&row["bench"], &row["errors"]), (&"scale".into(), &0.into()), "{row}");
    }
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("How cost grows"), "{}", &page[..100]);
}

#[test]
fn told_to_exit_it_says_what_was_measured_so_far() {
    let args = ["bench", "tcp", "--wire", "loopback", "--size", "64KiB", "--method", "write"];
    let endless =
        ["--seconds", "20ms", "--runs", "1000000", "--working-set", "4MiB", "--json", "-"];
    let program = Program::start(ringwire([&args[..], &endless].concat()));
    let tasks = format!("/proc/{}/task", program.pid());
    until("a connection to be measured on", || {
        let tasks = std::fs::read_dir(&tasks).ok()?.flatten();
        let mut names = tasks.filter_map(|t| std::fs::read_to_string(t.path().join("comm")).ok());
        names.any(|name| name.trim() == "sink").then_some(())
    });
    program.signal(Signal::INT);
    let end = program.end().expect(2);
    // All of it would have taken more than five hours.
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert!(report["rows"].as_array().unwrap().iter().all(|row| row["method"] == "write"));
    assert_eq!(end.warnings(), ["SIGINT: this is what was measured until then"]);
}

#[test]
fn a_method_that_does_not_exist_is_an_error_that_names_those_that_do() {
    let args = ["tcp", "--wire", "loopback", "--method", "carrier-pigeon"];
    let end = bench(&args).expect(2);
    let said = "error: no method of tcp is named carrier-pigeon; there are write, writev64, ";
    assert!(end.stderr.starts_with(said), "{}", end.stderr);
    assert_eq!(end.stdout, "");
    // One that does exist beside it does not hide it.
    let end = bench(&[&args[..], &["--method", "write"]].concat()).expect(2);
    assert!(end.stderr.starts_with(said), "{}", end.stderr);
    let end = bench(&["udp", "--wire", "loopback", "--size", "64KiB"]).expect(2);
    assert_eq!(end.stderr, "error: a datagram has 65507 bytes at most\n");
}

#[test]
fn who_asks_for_a_peer_that_is_not_built_is_told_how_to_build_it() {
    // Alone in a directory. Copied by another program: this one may start a third, which would
    // inherit the copy open for writing, and keep it from being run.
    let dir = scratch();
    let alone = dir.path().join("ringwire");
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_ringwire")).arg(&alone).status();
    assert!(copied.unwrap().success());
    let bench = |args: &[&str]| {
        let mut command = Command::new(&alone);
        command.arg("bench").args(args).args(SHORT);
        command.args(["--wire", "loopback", "--method", "compio-vectored"]);
        Program::start(command).end()
    };
    let said = format!(
        "compio-vectored cannot be measured: that takes a program of its own, and there is no \
         {}-peers; `cargo build --release -p ringwire-peers` builds it, ",
        alone.display()
    );
    for part in [&[][..], &["tcp"]] {
        let end = bench(part).expect(2);
        assert!(end.stderr.contains(&format!("error: {said}")), "{}", end.stderr);
        assert_eq!(end.stdout, "");
    }
    // The others are measured.
    let end = bench(&["tcp", "--size", "64KiB", "--method", "write", "--json", "-"]).expect(0);
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert!(report["host"]["notes"].to_string().contains(&said), "{}", report["host"]);
    assert_eq!(report["medians"][0]["method"], "write");
}
