//! What is done in a guest: a table of programs, and scripts for the rest. Pure.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cargo::Built;

/// One thing to do in a guest.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// What `--only` calls it.
    pub(super) group: String,
    /// Told from others of its group: who does it, by which engine.
    pub(super) name: String,
    pub(super) kind: Kind,
    /// For the guest's shell.
    pub(super) script: String,
    /// The host's programs that it runs, beside `ringwire`, which is in every guest.
    pub(super) programs: Vec<PathBuf>,
    /// For how long it may run, on an emulated processor.
    pub(super) limit: Duration,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Tests | Kind::Command => write!(f, "{}", self.group),
            _ => write!(f, "{}, {}", self.group, self.name),
        }
    }
}

/// How the end of a step is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A test program's results.
    Tests,
    /// `ringwire doctor`: it has looked, whatever it saw.
    Doctor,
    /// A transfer, which passes as a whole; 77 says that its engine cannot be had here.
    Transfer,
    /// `ringwire bench` into the perfect wire, and nowhere else; 77 as of a transfer.
    Uncopied,
    /// A command of somebody's own, whose words are shown.
    Command,
}

/// The exit code of what needs an engine that cannot be had.
pub(super) const CANNOT: i32 = 77;

/// The test programs: what they are called here, the file that they begin in, and for how many
/// minutes they may run. What looks at the kernel is in it, what is the same on all of them is not.
const PROGRAMS: [(&str, &str, u64); 16] = [
    ("facts", "crates/ringwire/tests/kernel/main.rs", 20),
    ("selection", "crates/ringwire/tests/selection.rs", 10),
    ("arena", "crates/ringwire/tests/arena.rs", 15),
    ("filtered", "crates/ringwire/tests/filtered.rs", 10),
    ("paths", "crates/ringwire/tests/paths.rs", 15),
    ("unit", "crates/ringwire/src/lib.rs", 10),
    ("sys-unit", "crates/ringwire-sys/src/lib.rs", 20),
    ("wires", "crates/ringwire-wire/tests/wires.rs", 10),
    ("perfect", "crates/ringwire-wire/tests/perfect.rs", 20),
    ("wire-unit", "crates/ringwire-wire/src/lib.rs", 10),
    ("doctor-unit", "crates/ringwire-doctor/src/lib.rs", 10),
    ("program-unit", "crates/ringwire-cli/src/main.rs", 10),
    ("uring", "crates/ringwire/tests/uring.rs", 60),
    ("msg-zerocopy", "crates/ringwire/tests/msg_zerocopy.rs", 60),
    ("copy", "crates/ringwire/tests/copy.rs", 60),
    ("program", "crates/ringwire-cli/tests/program/main.rs", 60),
];

/// What of the workspace is built for a guest.
const PACKAGES: [&str; 5] =
    ["ringwire", "ringwire-sys", "ringwire-wire", "ringwire-cli", "ringwire-doctor"];

/// What cargo builds for these groups, or for all where there is none: the tests, and `ringwire`,
/// which one of them needs.
pub(super) fn build(only: &[String]) -> Vec<String> {
    let mut words: Vec<String> = ["test", "--no-run", "--profile", "guest"].map(Into::into).into();
    words.extend(PACKAGES.iter().flat_map(|package| ["-p".to_owned(), (*package).to_owned()]));
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    for (name, source, _) in PROGRAMS {
        let target = target(source);
        // `--lib` is that of all packages.
        let there = target == ["--lib"] && words.contains(&target[0]);
        if (wanted(name) || name == "program") && !there {
            words.extend(target);
        }
    }
    words
}

/// How cargo is asked for the test program that begins in this file.
fn target(source: &str) -> Vec<String> {
    let stem = source.trim_end_matches("/main.rs").trim_end_matches(".rs");
    match stem.rsplit_once('/') {
        Some((_, "lib")) => vec!["--lib".to_owned()],
        Some((_, "src")) => vec!["--bin".to_owned(), "ringwire".to_owned()],
        Some((_, name)) => vec!["--test".to_owned(), name.to_owned()],
        None => Vec::new(),
    }
}

/// Who does what does not need to be root: what he may lock, in KiB. `None` is root.
const USERS: [(&str, Option<u32>); 4] = [
    ("root", None),
    ("a user with 64 KiB", Some(64)),
    ("a user with 8 MiB", Some(8 << 10)),
    ("a user with 48 MiB", Some(48 << 10)),
];

/// The first user. Each step has users of its own: locked memory is counted by user, and for a
/// while after its owner's end.
const FIRST_USER: usize = 20_000;

/// How `ringwire send` may be told to send.
const ENGINES: [&str; 4] = ["auto", "uring", "msg-zerocopy", "copy"];

/// For the shell: whether there may be no io_uring. Kernels before 6.0 cannot send by it, and some
/// newer ones count the rings of a user, for whom 64 KiB are not enough.
fn may_lack_uring(memlock: Option<u32>) -> &'static str {
    match memlock {
        Some(64) => "true",
        _ => "case $(uname -r) in 5.*) true;; *) false;; esac",
    }
}

/// The groups that are no test programs.
const OTHERS: [&str; 3] = ["doctor", "transfers", "uncopied"];

/// What `--only` may name.
pub(super) fn groups() -> Vec<&'static str> {
    OTHERS.into_iter().chain(PROGRAMS.iter().map(|(name, ..)| *name)).collect()
}

/// All steps that there are, by their groups and names.
pub(super) fn names() -> Vec<(&'static str, String)> {
    let users = || USERS.iter().map(|(user, _)| (*user).to_owned());
    let doctor = users().map(|name| ("doctor", name));
    let uncopied = users().map(|name| ("uncopied", name));
    let programs = PROGRAMS.iter().map(|(group, source, _)| (*group, (*source).to_owned()));
    let transfers =
        users().flat_map(|user| ENGINES.map(|engine| ("transfers", format!("{user}, {engine}"))));
    doctor.chain(transfers).chain(uncopied).chain(programs).collect()
}

/// The test programs that are to run, of those that cargo built.
pub(super) fn programs<'a>(built: &'a [Built], workspace: &Path) -> Vec<(usize, &'a Built)> {
    let mut all: Vec<_> = built
        .iter()
        .filter(|built| built.test)
        .filter_map(|built| {
            let source = built.source.strip_prefix(workspace).ok()?.to_str()?.to_owned();
            let at = PROGRAMS.iter().position(|(_, listed, _)| *listed == source)?;
            Some((at, built))
        })
        .collect();
    all.sort_by_key(|(at, _)| *at);
    all
}

/// Everything that is done by itself: what shows how things are first, then the tests.
pub(super) fn all(ringwire: &Path, programs: &[(usize, &Built)]) -> Vec<Step> {
    let ringwire = quoted(ringwire);
    let mut steps = Vec::new();
    let mut user = FIRST_USER;
    let mut step =
        |group: &str, name: String, kind, minutes: u64, script: &dyn Fn(&str) -> String| {
            user += 1;
            let who = format!("/usr/bin/setpriv --reuid {user} --regid {user} --clear-groups");
            let (group, script, programs) = (group.to_owned(), script(&who), Vec::new());
            let limit = Duration::from_secs(60 * minutes);
            steps.push(Step { group, name, kind, script, programs, limit });
        };
    for (name, memlock) in USERS {
        step("doctor", name.to_owned(), Kind::Doctor, 3, &|who| {
            format!("{}exec {} {ringwire} doctor\n", limit(memlock), if_user(memlock, who))
        });
    }
    for (name, memlock) in USERS {
        for engine in ENGINES {
            step("transfers", format!("{name}, {engine}"), Kind::Transfer, 10, &|who| {
                transfer(&ringwire, memlock, if_user(memlock, who), engine)
            });
        }
        step("uncopied", name.to_owned(), Kind::Uncopied, 10, &|who| {
            let bench = "bench tcp --method ringwire --size 256KiB --working-set 32MiB --runs 1 \
                         --seconds 2s --order sequential --json rows.json";
            // Without io_uring there is nothing to measure, and a note of why.
            format!(
                "{}rm -rf /tmp/bench\nmkdir -m 777 /tmp/bench\ncd /tmp/bench\n\
                 {} {ringwire} {bench} 2>said\nstatus=$?\n\
                 why=$(sed -n 's/^note: ringwire: \\(.* is not available.*\\)/error: \\1/p' said)\n\
                 if [ $status != 0 ] && [ -n \"$why\" ] && {}; then\n\
                 echo \"$why\"; exit {CANNOT}\nfi\n\
                 cat said\n[ $status = 0 ] || exit 1\ncat rows.json\n",
                limit(memlock),
                if_user(memlock, who),
                may_lack_uring(memlock)
            )
        });
    }
    steps.extend(programs.iter().map(|(at, built)| tests(*at, built)));
    // By group, though users are numbered as they come.
    let rank = |step: &Step| groups().iter().position(|group| *group == step.group);
    steps.sort_by_key(rank);
    steps
}

/// A test program, as root.
fn tests(at: usize, built: &Built) -> Step {
    let (group, source, minutes) = PROGRAMS[at];
    let (package, program) = (quoted(&built.package), quoted(&built.executable));
    Step {
        group: group.to_owned(),
        name: source.to_owned(),
        kind: Kind::Tests,
        // What newer kernels have by themselves, and tests fill buffers of.
        script: format!(
            "echo 4194304 >/proc/sys/net/core/wmem_max\n\
             echo 4194304 >/proc/sys/net/core/rmem_max\n\
             echo 131072 >/proc/sys/net/core/optmem_max\n\
             mkdir -p {package}\ncd {package}\n\
             export CARGO_MANIFEST_DIR={package}\nexec {program}\n"
        ),
        programs: vec![built.executable.clone()],
        limit: Duration::from_secs(60 * minutes),
    }
}

/// A command that somebody gave, who may want any program.
pub(super) fn command(command: &str, ringwire: &Path, programs: &[(usize, &Built)]) -> Step {
    Step {
        group: "command".to_owned(),
        name: command.to_owned(),
        kind: Kind::Command,
        script: format!("export RINGWIRE={}\n{command}\n", quoted(ringwire)),
        programs: programs.iter().map(|(_, built)| built.executable.clone()).collect(),
        limit: Duration::from_secs(60 * 60),
    }
}

fn limit(memlock: Option<u32>) -> String {
    memlock.map_or(String::new(), |kib| format!("ulimit -l {kib}\n"))
}

fn if_user(memlock: Option<u32>, who: &str) -> &str {
    if memlock.is_some() { who } else { "" }
}

/// 64 MiB over loopback, by one engine. Both ends have to say by their exit codes that all went
/// well, and the files have to be equal.
fn transfer(ringwire: &str, memlock: Option<u32>, who: &str, engine: &str) -> String {
    let limit = limit(memlock);
    // An engine that is asked for by name and cannot be had is an error that says so first.
    let lacks = match engine {
        "uring" => {
            let may_lack = may_lack_uring(memlock);
            let said = "grep -q '^error: .* is not available' said";
            format!("if {may_lack} && {said}; then exit {CANNOT}; fi\n")
        }
        _ => String::new(),
    };
    format!(
        "{limit}\
         rm -rf /tmp/transfer\n\
         mkdir -m 777 /tmp/transfer\n\
         cd /tmp/transfer\n\
         mkdir -m 777 received\n\
         dd if=/dev/urandom of=sent bs=1M count=64 2>/dev/null\n\
         chmod 644 sent\n\
         mkfifo -m 666 listening\n\
         {who} {ringwire} recv --listen 127.0.0.1:0 --dir received --count 1 >listening &\n\
         receiver=$!\n\
         exec 4<listening\n\
         read first <&4\n\
         address=${{first##* }}\n\
         # A pipe has the exit code of its last program.\n\
         {{ {who} {ringwire} send sent --to $address --engine {engine}; echo $? >code; }} 2>&1 \
         | tee said\n\
         {lacks}\
         read code <code\n\
         if [ $code != 0 ]; then echo send ended with exit code $code; exit 1; fi\n\
         cat <&4\n\
         wait $receiver || {{ echo recv ended with exit code $?; exit 1; }}\n\
         cmp sent received/sent || exit 1\n\
         echo the hashes: $(sha256sum <sent) $(sha256sum <received/sent)\n\
         cd /\nrm -rf /tmp/transfer\n"
    )
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_in_the_order_of_their_groups_and_no_two_have_one_name() {
        let built = |source: &str, test| Built {
            target: "t".into(),
            source: source.into(),
            executable: "/t/it's t".into(),
            package: "/w/it's".into(),
            test,
        };
        let built = [
            built("/w/crates/ringwire/tests/arena.rs", true),
            built("/w/crates/ringwire/tests/kernel/main.rs", true),
            built("/w/crates/ringwire/tests/compile_fail.rs", true),
            built("/w/crates/ringwire/src/lib.rs", false),
        ];
        let steps = all(Path::new("/t/ringwire"), &programs(&built, Path::new("/w")));
        let names: Vec<_> = steps.iter().map(|step| (&*step.group, &*step.name)).collect();
        assert_eq!(names.len(), 4 + 16 + 4 + 2);
        assert_eq!(names[0], ("doctor", "root"));
        assert_eq!(names[4], ("transfers", "root, auto"));
        assert_eq!(names[24], ("facts", "crates/ringwire/tests/kernel/main.rs"));
        assert_eq!(names[25], ("arena", "crates/ringwire/tests/arena.rs"));
        let mut once = names.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), names.len());
        assert!(steps[25].script.contains(r"cd '/w/it'\''s'"), "{}", steps[25].script);
        assert_eq!(steps[25].programs, [Path::new("/t/it's t")]);
        assert!(!steps[0].script.contains("setpriv"));
        assert!(
            steps[2].script.starts_with("ulimit -l 8192\nexec /usr/bin/setpriv --reuid 20003 ")
        );
    }

    #[test]
    fn all_steps_are_named() {
        let built = PROGRAMS.map(|(target, source, _)| Built {
            target: target.into(),
            source: Path::new("/w").join(source),
            executable: "/t".into(),
            package: "/w".into(),
            test: true,
        });
        let steps = all(Path::new("/t/ringwire"), &programs(&built, Path::new("/w")));
        let steps: Vec<_> = steps.iter().map(|step| (&*step.group, step.name.clone())).collect();
        assert_eq!(steps, names());
    }

    #[test]
    fn only_what_runs_is_built_and_the_program() {
        let words = build(&["facts".to_owned(), "unit".to_owned()]).join(" ");
        assert_eq!(
            words,
            "test --no-run --profile guest -p ringwire -p ringwire-sys -p ringwire-wire \
             -p ringwire-cli -p ringwire-doctor --test kernel --lib --test program"
        );
        let all = build(&[]).join(" ");
        assert!(all.contains(" --bin ringwire --test uring "));
        assert_eq!(all.matches(" --lib").count(), 1, "cargo takes it once");
    }

    #[test]
    fn a_command_finds_the_program_whatever_its_path_is() {
        let built = Built {
            target: "t".into(),
            source: "t.rs".into(),
            executable: "/t/it's t".into(),
            package: "/w".into(),
            test: true,
        };
        let step = command("\"$RINGWIRE\" doctor", Path::new("/it's/ringwire"), &[(0, &built)]);
        let script = "export RINGWIRE='/it'\\''s/ringwire'\n\"$RINGWIRE\" doctor\n";
        assert_eq!(step.script, script);
        assert_eq!(step.programs, [Path::new("/t/it's t")]);
    }

    /// How a transfer ends, and what it says, where `ringwire` is this script.
    fn ended(ringwire: &str, engine: &str, memlock: Option<u32>) -> (Option<i32>, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("ringwire");
        std::fs::write(&program, ringwire).expect("written");
        // What a test wrote a moment ago may not be executed if another one forks meanwhile.
        let run = format!("sh {}", quoted(&program));
        let script = transfer(&run, memlock, "", engine);
        let script = format!("uname() {{ echo 6.1.0; }}\n{script}");
        // In a directory of its own, and with little to send.
        let here = quoted(dir.path()).trim_matches('\'').to_owned();
        let script = script.replace("/tmp/transfer", &format!("{here}/transfer"));
        let script = script.replace("count=64", "count=1");
        let ended = std::process::Command::new("sh").args(["-c", &script]).output().expect("sh");
        (ended.status.code(), String::from_utf8_lossy(&ended.stdout).into_owned())
    }

    #[test]
    fn a_transfer_fails_with_either_end_and_shows_what_both_said() {
        const NAMED: &str = "uring";
        // `send` leaves the file beside `received`, as `recv` would.
        let ringwire = |send: &str, recv: &str| {
            format!(
                "case $1 in\n\
                 recv) echo listening on 1.2.3.4:5; {recv};;\n\
                 send) echo engine: uring; cp sent received/sent; {send};;\n\
                 esac\n"
            )
        };
        let (code, said) = ended(&ringwire("exit 0", "echo stored"), NAMED, None);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("engine: uring\nstored\nthe hashes: "), "{said}");
        let (code, said) = ended(&ringwire("exit 2", "exit 0"), NAMED, None);
        assert_eq!(
            (code, said.as_str()),
            (Some(1), "engine: uring\nsend ended with exit code 2\n")
        );
        let (code, said) = ended(&ringwire("exit 0", "exit 1"), NAMED, None);
        assert_eq!(
            (code, said.as_str()),
            (Some(1), "engine: uring\nrecv ended with exit code 1\n")
        );
        let (code, said) = ended(&ringwire("echo x >received/sent", "true"), NAMED, None);
        assert_eq!(code, Some(1), "{said}");
        let lacking = ringwire("echo error: io_uring is not available: x >&2; exit 2", "true");
        assert_eq!(ended(&lacking, NAMED, Some(64)).0, Some(77));
        assert_eq!(ended(&lacking, NAMED, None).0, Some(1), "it must be there");
        assert_eq!(ended(&lacking, "auto", Some(64)).0, Some(1), "it takes what there is");
        let (code, said) = ended("exit 2\n", NAMED, None);
        assert_eq!((code, said.as_str()), (Some(1), "send ended with exit code 2\n"));
    }
}
