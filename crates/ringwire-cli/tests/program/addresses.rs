//! Names with several addresses, some of which do not answer; where a receiver listens; resolvers
//! that do not answer. In networks of the tests' own, with names of their own.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use ringwire_wire::{Family, Side, Veth, skip};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::Signal;

use crate::common::*;
use crate::confine::Shared;

/// Nobody has it, and nobody says so: what is sent there is lost on the way.
const BLACK_HOLE: &str = "2001:db8:77::99";
const FAR_V6: &str = "2001:db8:77::2";
const FAR_V4: &str = "10.77.0.2";

/// Two namespaces, in which names are what this says.
struct Net {
    veth: Veth,
    shared: Shared,
    files: tempfile::TempDir,
}

impl Net {
    /// `None`, and a skip, where one cannot be had.
    fn new(test: &str, hosts: &str) -> Option<Net> {
        let veth = match Veth::new() {
            Ok(veth) => veth,
            Err(why) => {
                skip(test, why.reason());
                return None;
            }
        };
        let net = Net { veth, shared: Shared::new(), files: tempfile::tempdir().unwrap() };
        net.write("hosts", &format!("127.0.0.1 localhost\n{hosts}"));
        net.write("nsswitch.conf", "hosts: files\n");
        net.write("resolv.conf", "");
        // An address that resolvers prefer to IPv4's (RFC 6724), unlike the cable's own.
        for (side, address) in [(Side::Near, "2001:db8:77::1"), (Side::Far, FAR_V6)] {
            let device = if side == Side::Near { "near" } else { "far" };
            net.ip(side, &format!("addr add {address}/64 dev {device} nodad"));
        }
        net.ip(Side::Near, &format!("neigh add {BLACK_HOLE} lladdr 02:00:00:00:00:99 dev near"));
        // However long it takes, the kernel does not give a connection up.
        net.veth.set_sysctl(Side::Near, "net/ipv4/tcp_syn_retries", "127").unwrap();
        let asked = net.run(net.command(Side::Near, "getent", &["ahosts", "localhost"]));
        if asked.status.code() != Some(0) {
            skip(test, &format!("names cannot be given here: {}", asked.stderr));
            return None;
        }
        Some(net)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        write(self.files.path().join(name), text.as_bytes())
    }

    fn ip(&self, side: Side, words: &str) {
        let mut command = self.veth.command(side, "ip");
        let ended = command.args(words.split(' ')).output().unwrap();
        assert!(ended.status.success(), "ip {words}: {ended:?}");
    }

    /// A command at a side's end, in a mount namespace with these names.
    fn command(&self, side: Side, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Command {
        let script = "for name in hosts nsswitch.conf resolv.conf; do \
                        mount --bind \"$1/$name\" \"/etc/$name\" || exit 77; \
                      done; shift; exec \"$@\"";
        let mut command = self.veth.command(side, "unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(self.files.path());
        command.arg(program).args(args).env("LC_ALL", "C");
        command
    }

    fn run(&self, command: Command) -> End {
        Program::start(command).end()
    }

    fn ringwire(&self, side: Side, args: &[&str]) -> Command {
        self.command(side, self.shared.path(), args)
    }

    /// A file from the near side.
    fn send(&self, args: &[&str]) -> End {
        self.run(self.sender(&SEND, args))
    }

    fn sender(&self, send: &[&str], args: &[&str]) -> Command {
        let file = self.write("f", "content");
        let file = file.to_str().unwrap().to_owned();
        self.ringwire(Side::Near, &[send, &[file.as_str()], args].concat())
    }

    fn receiver(&self, side: Side, listen: &str) -> Receiver {
        let dir = scratch();
        let mut command = self.ringwire(side, &[&RECV[..], &["--listen", listen]].concat());
        command.arg("--dir").arg(dir.path());
        Receiver::of(command, dir)
    }

    fn listener(&self, address: &str) -> TcpListener {
        let address: SocketAddr = address.parse().unwrap();
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = self.veth.socket(Side::Far, family, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 4).unwrap();
        socket.into()
    }
}

/// The port of an address.
fn port(address: &str) -> &str {
    address.rsplit_once(':').unwrap().1
}

#[test]
fn a_name_whose_ipv6_is_a_black_hole_is_reached_over_ipv4() {
    let test = "a_name_whose_ipv6_is_a_black_hole_is_reached_over_ipv4";
    let hosts = format!("{BLACK_HOLE} store\n{FAR_V4} store\n");
    let Some(net) = Net::new(test, &hosts) else { return };
    let receiver = net.receiver(Side::Far, &format!("{FAR_V4}:0"));
    let port = port(&receiver.address);
    let to = format!("store:{port}");

    // With all the patience there is: nobody gives the first address up.
    net.send(&["--to", &to]).expect(0);
    assert_same(&receiver.path("f"), b"content");
    std::fs::remove_file(receiver.path("f")).unwrap();

    let trace = net.files.path().join("trace");
    let strace = ["-f", "-e", "trace=connect", "-o", trace.to_str().unwrap()];
    if net.run(net.command(Side::Near, "strace", &[&strace[..], &["true"]].concat())).status.code()
        != Some(0)
    {
        return skip(test, "strace does not work here");
    }
    let (program, file) = (net.shared.path().to_str().unwrap(), net.write("f", "content"));
    let send = [&[program][..], &SEND, &[file.to_str().unwrap(), "--to", &to]].concat();
    net.run(net.command(Side::Near, "strace", &[&strace[..], &send].concat())).expect(0);
    let text = std::fs::read_to_string(&trace).unwrap();
    // A resolver that sorts connects, too, but to no port.
    let connects = text.lines().filter(|line| line.contains(&format!("htons({port})")));
    let tried: Vec<&str> =
        connects.map(|line| if line.contains("AF_INET6") { "IPv6" } else { "IPv4" }).collect();
    assert_eq!(tried, ["IPv6", "IPv4"], "{text}");
}

#[test]
fn when_no_address_works_each_is_named_with_what_it_said() {
    let test = "when_no_address_works_each_is_named_with_what_it_said";
    let hosts = format!("{BLACK_HOLE} store\n{FAR_V4} store\n{FAR_V6} six\n");
    let Some(net) = Net::new(test, &hosts) else { return };
    let send = ["send", "--patience", "2s"];
    // On a machine that is too busy it does not come to the second.
    let end = until("an attempt at both", || {
        let end = net.run(net.sender(&send, &["--to", "store:9"]));
        Some(end).filter(|end| !end.stderr.contains("not tried"))
    });
    let end = end.expect(2);
    let error: Vec<&str> = end.stderr.lines().filter(|line| !line.starts_with("note: ")).collect();
    assert_eq!(
        error.join("\n"),
        "error: cannot connect to store:9: [2001:db8:77::99]:9: no answer within 2 s; \
         10.77.0.2:9: Connection refused (os error 111); nothing was sent\n\nhint: check the \
         address, and that no firewall is on the way"
    );
    // With one that is missing at once the other is waited for no longer, and not named.
    let end = net.send(&["--to", "store:9", "--to", "six:9"]).expect(2);
    let error = "error: cannot connect to six:9: [2001:db8:77::2]:9: Connection refused (os error \
                 111); nothing was sent\n";
    assert!(end.stderr.contains(error), "{}", end.stderr);
    // Refused by all, which does not take any patience.
    let hosts = format!("{FAR_V6} store\n{FAR_V4} store\n");
    net.write("hosts", &hosts);
    let end = net.send(&["--to", "store:9"]).expect(2);
    assert_eq!(
        end.stderr,
        "error: cannot connect to store:9: [2001:db8:77::2]:9: Connection refused (os error 111); \
         10.77.0.2:9: Connection refused (os error 111); nothing was sent\n\nhint: start \
         \"ringwire recv\" there; without --listen it takes connections of its own host only\n"
    );
}

/// The first connection wins, as with curl and browsers; whose it is, is said.
#[test]
fn a_name_whose_first_address_is_something_else_is_told_with_its_others() {
    let test = "a_name_whose_first_address_is_something_else_is_told_with_its_others";
    let hosts = format!("{FAR_V6} store\n{FAR_V4} store\n");
    let Some(net) = Net::new(test, &hosts) else { return };
    let other = net.listener(&format!("[{FAR_V6}]:9"));
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").unwrap();
        let _ = std::io::Read::read_to_end(&mut stream, &mut Vec::new());
    });
    let end = net.send(&["--to", "store:9"]).expect(2);
    thread.join().unwrap();
    assert_eq!(
        end.stderr,
        "error: cannot send to store:9 ([2001:db8:77::2]:9): it does not speak ringwire's \
         protocol: it began with \"SSH-2.0-OpenSSH_\"; nothing was sent\n\nhint: is \"ringwire \
         recv\" what listens at that port?; the name has other addresses, too: 10.77.0.2:9\n"
    );
}

#[test]
fn a_name_that_is_not_is_told_from_a_resolver_that_does_not_answer() {
    let test = "a_name_that_is_not_is_told_from_a_resolver_that_does_not_answer";
    let Some(net) = Net::new(test, "") else { return };
    let none = "error: cannot resolve none.example:9: ";
    let all = |args: &[&str], side| {
        let send = net.send(&["--to", "none.example:9"]).expect(2).stderr;
        let doctor = net.run(net.ringwire(side, &["doctor", "--to", "none.example:9"])).expect(2);
        let recv = net.run(net.ringwire(side, args)).expect(2);
        [send.replace("; nothing was sent", ""), doctor.stderr, recv.stderr]
    };
    let dir = net.files.path().to_str().unwrap();
    let recv = ["recv", "--dir", dir, "--listen", "none.example:9"];
    // Everybody says the same.
    let missing = format!(
        "{none}there is no such name\n\nhint: check the name; an address in numbers needs no \
         resolving\n"
    );
    assert_eq!(all(&recv, Side::Near), [(); 3].map(|()| missing.clone()));

    // A server that is not there: the kernel says so at once.
    net.write("nsswitch.conf", "hosts: dns\n");
    net.write("resolv.conf", "nameserver 127.0.0.1\n");
    let again = "the name may be right: check that the DNS servers in /etc/resolv.conf can be \
                 reached, and try again; an address in numbers needs no resolving\n";
    let silent = format!("{none}the DNS servers gave no answer\n\nhint: {again}");
    assert_eq!(all(&recv, Side::Near), [(); 3].map(|()| silent.clone()));

    // One that is silent: nobody has to wait for it.
    net.ip(Side::Near, "neigh add 10.77.0.99 lladdr 02:00:00:00:00:99 dev near");
    let hour = "options timeout:30 attempts:5\nnameserver 10.77.0.99\n";
    net.write("resolv.conf", hour);
    let short = ["send", "--patience", "300ms"];
    let end = net.run(net.sender(&short, &["--to", "none.example:9"])).expect(2);
    let silent = format!("{none}no answer within 300 ms; nothing was sent\n\nhint: {again}");
    assert_eq!(end.stderr, silent);
    let sends = Program::start(net.sender(&SEND, &["--to", "none.example:9"]));
    let receives = Program::start(net.ringwire(Side::Near, &recv));
    for (program, signal) in [(&sends, Signal::INT), (&receives, Signal::TERM)] {
        let noted = "note: still looking for the address of none.example:9";
        program.stderr_line(noted, |line| (line == noted).then_some(()));
        program.signal(signal);
    }
    let told = |program: Program| program.end().expect(2).stderr.lines().last().map(str::to_owned);
    assert_eq!(told(sends).unwrap(), "error: told to exit by SIGINT; nothing was sent");
    assert_eq!(told(receives).unwrap(), "error: told to exit by SIGTERM before it listened");
}

const A: u16 = 1;
const AAAA: u16 = 28;

/// A DNS server on the near side's loopback that answers one type of question, with this address,
/// and drops the other, as some middleboxes do.
struct Dns {
    dropped: Arc<AtomicU32>,
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Dns {
    fn start(net: &Net, answers: u16, address: IpAddr) -> Dns {
        let socket = net.veth.socket(Side::Near, AddressFamily::INET, SocketType::DGRAM, None);
        let socket = socket.unwrap();
        rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 53))).unwrap();
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (dropped, ends) = (Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default());
        let (drops, is_ended) = (Arc::clone(&dropped), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            let mut asked = [0; 512];
            while !is_ended.load(Ordering::Relaxed) {
                let Ok((bytes, from)) = socket.recv_from(&mut asked) else { continue };
                let name = asked[12..bytes].iter().position(|&byte| byte == 0).unwrap();
                let (question, kind) = (&asked[12..12 + name + 5], 12 + name + 1);
                if u16::from_be_bytes([asked[kind], asked[kind + 1]]) != answers {
                    drops.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let address = match address {
                    IpAddr::V4(address) => address.octets().to_vec(),
                    IpAddr::V6(address) => address.octets().to_vec(),
                };
                // A response, one question, one answer: to the question's name, of IN, for 60 s.
                let mut answer = asked[..2].to_vec();
                answer.extend(b"\x81\x80\0\x01\0\x01\0\0\0\0");
                answer.extend(question);
                answer.extend([&b"\xc0\x0c"[..], &answers.to_be_bytes()].concat());
                answer.extend(b"\0\x01\0\0\0\x3c\0");
                answer.push(address.len() as u8);
                answer.extend(address);
                socket.send_to(&answer, from).unwrap();
            }
        });
        Dns { dropped, ends, thread: Some(thread) }
    }

    /// How many questions it has dropped.
    fn dropped(&self) -> u32 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// A resolver asks again every 30 s, five times in all, before it makes do with the other family.
#[test]
fn a_name_of_which_one_familys_answer_is_lost_is_reached_by_the_other() {
    let test = "a_name_of_which_one_familys_answer_is_lost_is_reached_by_the_other";
    let Some(net) = Net::new(test, "") else { return };
    net.write("nsswitch.conf", "hosts: dns\n");
    net.write("resolv.conf", "options timeout:30 attempts:5\nnameserver 127.0.0.1\n");
    for (answers, address) in [(A, FAR_V4), (AAAA, FAR_V6)] {
        let ip: IpAddr = address.parse().unwrap();
        let dns = Dns::start(&net, answers, ip);
        let receiver = net.receiver(Side::Far, &SocketAddr::from((ip, 0)).to_string());
        let to = format!("store.example:{}", port(&receiver.address));
        net.send(&["--to", &to]).expect(0);
        assert_same(&receiver.path("f"), b"content");
        // Of all addresses at once, and of this family alone; not again and again.
        assert!((1..5).contains(&dns.dropped()), "{} were dropped", dns.dropped());
        // On a machine that is too busy nobody answers doctor in time.
        let end = until("an address in time", || {
            let end = net.run(net.ringwire(Side::Near, &["doctor", "--to", &to]));
            Some(end).filter(|end| !end.stderr.contains("no answer within"))
        });
        assert!(end.stdout.contains(&format!("{to} is a ringwire recv")), "{}", end.shown());
    }
}

#[test]
fn a_receiver_listens_at_all_addresses_of_a_name_with_one_port() {
    let test = "a_receiver_listens_at_all_addresses_of_a_name_with_one_port";
    let Some(net) = Net::new(test, "::1 both\n127.0.0.1 both\n") else { return };
    let receiver = net.receiver(Side::Near, "both:0");
    let port = port(&receiver.address).to_owned();
    let all = [format!("[::1]:{port}"), format!("127.0.0.1:{port}")];
    for address in all.iter().chain([&format!("both:{port}")]) {
        let line = format!("listening on {address}");
        if !address.starts_with("both") {
            receiver.program.stdout_line(&line, |said| (said == line).then_some(()));
        }
        net.send(&["--to", address]).expect(0);
        assert_same(&receiver.path("f"), b"content");
        std::fs::remove_file(receiver.path("f")).unwrap();
    }
    // Two addresses of one receiver, which serves one sender at a time.
    let end = net.send(&["--to", &all[0], "--to", &all[1]]).expect(2);
    let same = format!("are the same receiver (at {} and {})", all[0], all[1]);
    assert!(end.stderr.contains(&same), "{}", end.shown());
    drop(receiver);

    // Where IPv6 is off, as in many containers.
    for name in ["all", "lo"] {
        let setting = format!("net/ipv6/conf/{name}/disable_ipv6");
        net.veth.set_sysctl(Side::Near, &setting, "1").unwrap();
    }
    let receiver = net.receiver(Side::Near, "both:0");
    receiver.program.stderr_line("a warning", |line| {
        line.strip_prefix("warning: not listening on [::1]:")?;
        line.ends_with(": Cannot assign requested address (os error 99)").then_some(())
    });
    let to = format!("both:{}", self::port(&receiver.address));
    net.send(&["--to", &to]).expect(0);
    assert_same(&receiver.path("f"), b"content");
}

#[test]
fn all_addresses_are_those_of_both_families_whatever_the_host_likes() {
    let test = "all_addresses_are_those_of_both_families_whatever_the_host_likes";
    let Some(net) = Net::new(test, "") else { return };
    net.veth.set_sysctl(Side::Far, "net/ipv6/bindv6only", "1").unwrap();
    let receiver = net.receiver(Side::Far, "[::]:0");
    let port = port(&receiver.address);
    for address in [FAR_V4, &format!("[{FAR_V6}]"), "[::ffff:10.77.0.2]"] {
        net.send(&["--to", &format!("{address}:{port}")]).expect(0);
        assert_same(&receiver.path("f"), b"content");
        std::fs::remove_file(receiver.path("f")).unwrap();
    }
    // A sender is shown as what it is.
    receiver.program.stdout_line("a sender by IPv4", |line| {
        (line.starts_with("stored f: ") && line.contains(" from 10.77.0.1:")).then_some(())
    });
}

#[test]
fn an_address_of_a_link_is_reached_by_its_interface() {
    let test = "an_address_of_a_link_is_reached_by_its_interface";
    let Some(net) = Net::new(test, "") else { return };
    net.ip(Side::Near, "addr add fe80::1/64 dev near nodad");
    net.ip(Side::Far, "addr add fe80::2/64 dev far nodad");
    let receiver = net.receiver(Side::Far, "[fe80::2%far]:0");
    let port = port(&receiver.address);
    let index = receiver.address.strip_prefix("[fe80::2%").unwrap();
    assert!(index.starts_with("102]:"), "{index}");
    for interface in ["near", "101"] {
        net.send(&["--to", &format!("[fe80::2%{interface}]:{port}")]).expect(0);
        assert_same(&receiver.path("f"), b"content");
        std::fs::remove_file(receiver.path("f")).unwrap();
    }
    let end = net.send(&["--to", "fe80::2%none"]).expect(2);
    let error = "error: cannot resolve fe80::2%none: this host has no interface none; nothing was";
    assert!(end.stderr.starts_with(error), "{}", end.shown());
    let v6 = net.veth.address(Side::Far, Family::V6);
    assert!(net.send(&["--to", &format!("[{v6}%near]:9")]).expect(2).stderr.contains("a link"));
}
