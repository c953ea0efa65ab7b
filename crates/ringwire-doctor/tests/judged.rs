//! What `ringwire doctor` says of hosts that are not at hand.
//!
//! `facts/` holds what was seen. Most of it was written down by the example `facts` in the
//! situation that the file is named after; `server_6_1` and `container_6_12` were put together by
//! hand from what such hosts are known to have. `INSTA_UPDATE=always` writes the snapshots.

use ringwire_doctor::facts::{Connection, Facts, PacketSocket, Sample};
use ringwire_doctor::{Report, Status, judge};

const SITUATIONS: [(&str, &str, bool); 15] = [
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
    ("root_5_10", include_str!("facts/root_5_10.json"), true),
    ("namespace_5_10", include_str!("facts/namespace_5_10.json"), true),
    ("user_8_mib_6_1", include_str!("facts/user_8_mib_6_1.json"), true),
    ("user_8_mib_6_12", include_str!("facts/user_8_mib_6_12.json"), true),
    ("tap_elsewhere_6_12", include_str!("facts/tap_elsewhere_6_12.json"), false),
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
        let text = format!("{}\n", report.lines(None).join("\n"));
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
            let texts = [&check.found, &check.needed].into_iter().chain(&check.hint);
            for text in texts {
                assert!(!text.contains('\n') && !text.is_empty(), "{name}: {check:?}");
            }
        }
        let mut names: Vec<_> = report.checks.iter().map(|check| &check.name).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "{name}: a name is there twice");
    }
}

/// What is said of what takes too long.
const TOO_LONG: &str =
    "it did not come to an end in time\n\nhint: try again when this machine is less busy";

#[test]
fn a_machine_that_is_too_busy_is_not_taken_for_a_broken_one() {
    let mut facts: Facts = serde_json::from_str(SITUATIONS[0].1).unwrap();
    facts.engine = Err(TOO_LONG.into());
    facts.memory.arena = Err(TOO_LONG.into());
    facts.live.ringwire = Err(TOO_LONG.into());
    facts.live.wire = Err(TOO_LONG.into());
    let report = judge(&facts);
    let hint = "whoever starts the program: try again when this machine is less busy";
    let failed: Vec<_> =
        report.checks.iter().filter(|check| check.status == Status::Fail).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((failed[0].name.as_str(), failed[0].hint.as_deref()), ("engine", Some(hint)));
    assert!(
        report.recommendation.ends_with(&format!("First: {hint}.")),
        "{}",
        report.recommendation
    );
    assert!(report.checks.iter().all(|check| !check.found.contains('\n')));
}

#[test]
fn a_question_that_is_not_answered_in_time_is_said_to_be_that() {
    let (_, facts, _) = SITUATIONS.iter().find(|(name, ..)| *name == "server_6_1").unwrap();
    let mut facts: Facts = serde_json::from_str(facts).unwrap();
    facts.zerocopy.send = Err(rustix::io::Errno::TIMEDOUT.raw_os_error());
    facts.interfaces = Err(TOO_LONG.into());
    facts.ipsec_policies = Err(TOO_LONG.into());
    facts.path.as_mut().unwrap().route = Err(TOO_LONG.into());
    let report = judge(&facts);
    for name in ["msg-zerocopy", "interfaces", "ipsec", "route"] {
        let check = report.checks.iter().find(|check| check.name == name).unwrap();
        assert!(check.found.ends_with("did not come to an end in time"), "{check:?}");
        assert_eq!(check.hint.as_deref(), Some("try again when this machine is less busy"));
    }
}

#[test]
fn use_is_recommended_exactly_where_no_check_failed() {
    for (name, facts, usable) in SITUATIONS {
        let report = report(facts);
        let failed = report.checks.iter().any(|check| check.status == Status::Fail);
        assert_eq!(failed, !usable, "{name}");
        let text = &report.recommendation;
        assert_eq!(text.starts_with("Use ringwire"), usable, "{name}: {text}");
    }
}

#[test]
fn a_hint_that_points_to_another_check_points_to_one_that_has_a_hint() {
    for (name, facts, _) in SITUATIONS {
        let checks = report(facts).checks;
        for check in &checks {
            let hint = check.hint.as_deref().unwrap_or_default();
            let Some(other) = hint.strip_prefix("see the hint of ") else { continue };
            let other = checks.iter().find(|check| check.name == other);
            assert!(other.is_some_and(|other| other.hint.is_some()), "{name}: {check:?}");
        }
    }
}

/// Every key, in its order, with its type, and nothing else.
#[test]
fn the_json_is_what_is_promised() {
    for (name, facts, _) in SITUATIONS {
        let report = report(facts);
        let text = |text: &str| serde_json::to_string(text).unwrap();
        let checks: Vec<String> = report
            .checks
            .iter()
            .map(|check| {
                let status = match check.status {
                    Status::Ok => "ok",
                    Status::Warn => "warn",
                    Status::Fail => "FAIL",
                };
                let hint = check.hint.as_deref().map_or("null".to_owned(), text);
                format!(
                    r#"{{"name":{},"status":"{status}","found":{},"needed":{},"hint":{hint}}}"#,
                    text(&check.name),
                    text(&check.found),
                    text(&check.needed),
                )
            })
            .collect();
        let promised = format!(
            r#"{{"schema":1,"checks":[{}],"recommendation":{}}}"#,
            checks.join(","),
            text(&report.recommendation)
        );
        assert_eq!(serde_json::to_string(&report).unwrap(), promised, "{name}");
    }
}

/// What is said of a path when something about it is changed.
fn path_when(facts: &str, change: impl FnOnce(&mut Facts)) -> (Status, String) {
    let mut facts: Facts = serde_json::from_str(facts).unwrap();
    change(&mut facts);
    let path = judge(&facts).checks.into_iter().find(|check| check.name == "path").unwrap();
    (path.status, path.found)
}

fn sample(copied_bytes: u64) -> Sample {
    let bytes = 16 << 20;
    Sample {
        asked_bytes: bytes,
        bytes,
        uncopied_bytes: bytes - copied_bytes,
        copied_bytes,
        memlock_short_bytes: 0,
    }
}

fn probed(facts: &mut Facts, sample: Sample) {
    let connection = Connection { receiver: false, busy: false, probe: Some(Ok(sample)) };
    facts.path.as_mut().unwrap().connection = Ok(connection);
}

#[test]
fn whoever_looks_on_below_is_seen_and_measuring_settles_what_is_not_certain() {
    // By bond0.20, which is on bond0, which is of ens1f0 and ens1f1.
    let server = include_str!("facts/server_6_1.json");
    assert_eq!(path_when(server, |_| {}).0, Status::Ok);
    let looks_on = |facts: &mut Facts, name: &str| {
        let all = facts.interfaces.as_ref().unwrap();
        let interface = all.iter().find(|one| one.name == name).unwrap().index;
        let socket = PacketSocket { protocol: 3, interface, running: true };
        facts.packet_sockets.as_mut().unwrap().push(socket);
    };
    for name in ["bond0.20", "bond0", "ens1f1"] {
        let (status, found) = path_when(server, |facts| looks_on(facts, name));
        assert_eq!(status, Status::Warn, "{name}: {found}");
        assert!(found.contains(&format!("sees what leaves by {name}:")), "{found}");
        let settled = |copied_bytes| {
            path_when(server, |facts| {
                looks_on(facts, name);
                probed(facts, sample(copied_bytes));
            })
        };
        assert_eq!(settled(0).0, Status::Ok);
        assert_eq!(settled(16 << 20).0, Status::Fail);
    }
    // What cannot be seen from here.
    let (status, found) = path_when(server, |facts| probed(facts, sample(16 << 20)));
    assert_eq!(status, Status::Fail);
    assert!(found.ends_with("; but what was sent was copied"), "{found}");
    assert_eq!(path_when(server, |facts| probed(facts, sample(1 << 20))).0, Status::Ok);
}

#[test]
fn what_is_encrypted_is_copied_whatever_the_kernel_reports() {
    let server = include_str!("facts/server_6_1.json");
    let encrypted = |facts: &mut Facts| {
        facts.ipsec_policies = Ok(2);
        facts.path.as_mut().unwrap().encrypted = Ok(true);
    };
    let (status, found) = path_when(server, |facts| {
        encrypted(facts);
        probed(facts, sample(0));
    });
    assert_eq!(status, Status::Fail, "{found}");
    assert!(found.starts_with("an IPsec policy covers the destination"), "{found}");
    // Policies for others are none of its business.
    assert_eq!(path_when(server, |facts| facts.ipsec_policies = Ok(2)).0, Status::Ok);
    // A card that encrypts may need no copy.
    let (status, _) = path_when(server, |facts| {
        encrypted(facts);
        for one in facts.interfaces.as_mut().unwrap() {
            one.features.as_mut().unwrap().push("esp-hw-offload".into());
        }
    });
    assert_eq!(status, Status::Warn);
}

#[test]
fn kinds_of_interfaces_decide_where_they_are_known_to() {
    let veth = include_str!("facts/veth_no_sg.json");
    let table = [
        ("tun", Status::Fail, "a program reads it"),
        ("wireguard", Status::Fail, "encrypts what leaves"),
        ("bridge", Status::Fail, "scatter-gather off"),
        ("macsec", Status::Fail, "scatter-gather off"),
    ];
    for (kind, expected, word) in table {
        let (status, found) = path_when(veth, |facts| {
            let all = facts.interfaces.as_mut().unwrap();
            all.iter_mut().find(|one| one.name == "near").unwrap().kind = Some(kind.into());
        });
        assert_eq!(status, expected, "{kind}: {found}");
        assert!(found.contains(word), "{kind}: {found}");
    }
}

#[test]
fn the_hint_about_memlock_is_for_who_can_raise_it() {
    let user = include_str!("facts/user_8_mib.json");
    let hint = |hard: Option<u64>| {
        let mut facts: Facts = serde_json::from_str(user).unwrap();
        facts.memory.memlock_hard = hard;
        let all = judge(&facts).checks;
        all.into_iter().find(|check| check.name == "memlock").unwrap().hint.unwrap()
    };
    for hard in [None, Some(48 << 20)] {
        let may = hint(hard);
        assert!(may.starts_with("whoever starts the program: \"ulimit -l 49152\""), "{may}");
    }
    assert!(hint(Some(8 << 20)).starts_with("root: \"USER - memlock 49152\""));
}

#[test]
fn the_least_optmem_and_the_least_memlock_are_told_apart() {
    let mut facts: Facts = serde_json::from_str(include_str!("facts/seccomp_eperm.json")).unwrap();
    facts.zerocopy.send = Err(105);
    let failed = |facts: &Facts| -> Vec<String> {
        let all = judge(facts).checks.into_iter();
        all.filter(|check| check.status == Status::Fail).map(|check| check.name).collect()
    };
    assert_eq!(failed(&facts), ["io_uring", "engine", "memlock"]);
    facts.memory.optmem_max = Some(0);
    assert_eq!(failed(&facts), ["io_uring", "engine", "optmem"]);
    let text = judge(&facts).recommendation;
    assert!(text.starts_with("Zero copy cannot be used here: net.core.optmem_max is"), "{text}");
}

#[test]
fn a_host_that_probes_for_a_larger_mtu_is_told_to_stop() {
    let mut facts: Facts = serde_json::from_str(SITUATIONS[0].1).unwrap();
    let failed = |facts: &Facts| -> Vec<(String, Option<String>)> {
        let all = judge(facts).checks.into_iter();
        all.filter(|one| one.status == Status::Fail).map(|one| (one.name, one.hint)).collect()
    };
    assert_eq!(failed(&facts), []);
    for probing in [Some(1), Some(2), None] {
        facts.buffers.tcp_mtu_probing = probing;
        let [(first, Some(hint)), (then, Some(see))] = &failed(&facts)[..] else { panic!("two") };
        assert_eq!((first.as_str(), then.as_str()), ("mtu-probing", "live-probe"));
        assert_eq!(see, "see the hint of mtu-probing");
        let said = judge(&facts).recommendation;
        let expected = "Zero copy does not work here as it should: see mtu-probing. First: ";
        assert_eq!(said, format!("{expected}{hint}."));
    }
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
