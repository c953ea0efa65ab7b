//! Help, and what flags alone can get wrong.

use crate::common::*;

#[test]
fn help_says_what_the_program_is_for() {
    assert_shown("help", run(["--help"]).expect(0).shown());
    assert_shown("help_send", run(["send", "--help"]).expect(0).shown());
    assert_shown("help_recv", run(["recv", "--help"]).expect(0).shown());
    assert_shown("help_bench", run(["bench", "--help"]).expect(0).shown());
    assert_shown("help_doctor", run(["doctor", "--help"]).expect(0).shown());
}

#[test]
fn short_help_fits_a_screen_and_says_that_nothing_is_encrypted() {
    for command in ["send", "recv"] {
        let help = run([command, "-h"]).expect(0).stdout;
        assert!(help.lines().count() <= 40, "{command} -h has {} lines", help.lines().count());
        assert!(help.contains("not encrypted"), "{help}");
    }
}

#[test]
fn wrong_flags_are_errors_that_name_the_way_out() {
    let cases: [&[&str]; 24] = [
        &[],
        &["frob"],
        &["send"],
        &["send", "a.bin"],
        &["send", "--to", "127.0.0.1:9"],
        &["send", "a.bin", "--to", "host:http"],
        &["send", "a.bin", "--to", "::1:80"],
        &["send", "a.bin", "--to", "h:1", "--patience", "0"],
        &["send", "a.bin", "--to", "h:1", "--block", "1MB"],
        &["send", "a.bin", "--to", "h:1", "--arena", "lots"],
        &["send", "a.bin", "--to", "h:1", "--engine", "copy", "--require-registered"],
        &["recv", "--listen", "10.0.0.256"],
        &["recv", "--count", "0"],
        &["recv", "--connections", "0"],
        &["bench", "everything"],
        &["bench", "--size", "0"],
        &["bench", "--working-set", "2GiB"],
        &["bench", "--seconds", "0"],
        &["bench", "--runs", "0"],
        &["bench", "tcp", "--wire", "veth", "--wire", "loopback"],
        &["doctor", "--to", "http://h:80"],
        &["doctor", "--to", "::1:80"],
        &["doctor", "--probe-bytes", "4MiB"],
        &["doctor", "--to", "h:1", "--probe-bytes", "4"],
    ];
    let shown: Vec<String> = cases
        .iter()
        .map(|args| format!("$ ringwire {}\n{}", args.join(" "), run(*args).expect(2).shown()))
        .collect();
    assert_shown("wrong_flags", shown.join("\n"));
}

#[test]
fn a_receiver_needs_a_directory_and_a_free_address() {
    let dir = scratch();
    let file = write(dir.path().join("file"), b"");
    let none = dir.path().join("none");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let dir_text = dir.path().to_str().unwrap();
    let cases: [&[&str]; 4] = [
        &["recv", "--dir", none.to_str().unwrap()],
        &["recv", "--dir", file.to_str().unwrap()],
        &["recv", "--dir", dir_text, "--listen", &port],
        &["recv", "--dir", dir_text, "--listen", "203.0.113.1:0"],
    ];
    let shown: Vec<String> = cases
        .iter()
        .map(|args| {
            run(*args).expect(2).shown().replace(dir_text, "DIR").replace(&port, "127.0.0.1:PORT")
        })
        .collect();
    assert_shown("cannot_receive", shown.join("\n"));
}
