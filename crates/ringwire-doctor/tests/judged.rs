//! What `ringwire doctor` says of hosts that are not at hand.
//!
//! `facts/` holds what was seen. Most of it was written down by the example `facts` in the
//! situation that the file is named after; `server_6_1` and `container_6_12` were put together by
//! hand from what such hosts are known to have. `INSTA_UPDATE=always` writes the snapshots.

use ringwire_doctor::facts::Facts;
use ringwire_doctor::{Report, Status, judge};

const SITUATIONS: [(&str, &str, bool); 10] = [
    ("root", include_str!("facts/root.json"), true),
    ("user_8_mib", include_str!("facts/user_8_mib.json"), true),
    ("user_64_kib", include_str!("facts/user_64_kib.json"), false),
    ("user_0", include_str!("facts/user_0.json"), false),
    ("seccomp_eperm", include_str!("facts/seccomp_eperm.json"), true),
    ("seccomp_enosys", include_str!("facts/seccomp_enosys.json"), true),
    ("veth_no_sg", include_str!("facts/veth_no_sg.json"), false),
    ("veth_tcpdump", include_str!("facts/veth_tcpdump.json"), true),
    ("server_6_1", include_str!("facts/server_6_1.json"), true),
    ("container_6_12", include_str!("facts/container_6_12.json"), false),
];

fn report(facts: &str) -> Report {
    let facts: Facts = serde_json::from_str(facts).expect("facts are those that are written today");
    judge(&facts)
}

#[test]
fn each_situation_is_judged_as_was_reviewed() {
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (name, facts, usable) in SITUATIONS {
        let report = report(facts);
        let text = format!("{}\n", report.lines().join("\n"));
        settings.bind(|| insta::assert_snapshot!(name, text));
        assert_eq!(report.is_usable(), usable, "{name}");
    }
}

#[test]
fn a_hint_is_there_exactly_where_a_check_is_not_ok() {
    for (name, facts, _) in SITUATIONS {
        let report = report(facts);
        for check in &report.checks {
            assert_eq!(check.hint.is_some(), check.status != Status::Ok, "{name}: {check:?}");
        }
        let mut names: Vec<_> = report.checks.iter().map(|check| &check.name).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "{name}: a name is there twice");
    }
}

#[test]
fn the_json_is_what_is_promised() {
    let report = report(SITUATIONS[0].1);
    let json = serde_json::to_string(&report).unwrap();
    let first =
        "{\"schema\":1,\"checks\":[{\"name\":\"kernel\",\"status\":\"ok\",\"found\":\"Linux ";
    assert!(json.starts_with(first), "{json}");
    assert!(json.contains("\",\"needed\":\"") && json.contains("\",\"hint\":null},"), "{json}");
    assert!(json.contains("],\"recommendation\":\""), "{json}");
}

#[test]
fn the_order_of_checks_does_not_depend_on_how_they_come_out() {
    let names = |facts: &str| -> Vec<String> {
        let all = report(facts).checks.into_iter().map(|check| check.name);
        all.filter(|name| !name.starts_with("interface")).collect()
    };
    let (here, path) = (names(SITUATIONS[0].1), names(SITUATIONS[8].1));
    for (name, facts, _) in SITUATIONS {
        let found = names(facts);
        let expected = if found.len() == here.len() { &here } else { &path };
        assert_eq!(&found, expected, "{name}");
    }
}
