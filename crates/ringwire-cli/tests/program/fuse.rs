//! A file system of the tests' own, which lacks what it is told to: one directory in memory behind
//! FUSE (linux/fuse.h), mounted in user and mount namespaces that end with the program.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use crate::common::*;

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENAMETOOLONG: i32 = 36;
const ENOSYS: i32 = 38;

/// What it lacks.
#[derive(Clone, Copy)]
pub(crate) struct Lacks {
    /// Second links.
    pub(crate) links: bool,
    /// A count of links: every file has none.
    pub(crate) counts: bool,
    /// Characters of names.
    pub(crate) characters: &'static str,
    pub(crate) name_bytes_max: usize,
    pub(crate) free_bytes: u64,
    /// The error of every new file.
    pub(crate) create: Option<i32>,
    /// The error of a write.
    pub(crate) write: Option<i32>,
}

/// Why it cannot be mounted.
pub(crate) fn why_not() -> &'static str {
    match Path::new("/dev/fuse").exists() {
        false => "the kernel has no FUSE",
        true if !rustix::process::geteuid().is_root() => "needs root: /dev/fuse is not for others",
        true => "FUSE cannot be mounted in a user namespace",
    }
}

/// Starts `recv` in a directory of this file system. `None` where it cannot be mounted.
pub(crate) fn start(dir: &Path, lacks: Lacks, args: &[&str]) -> Option<Program> {
    // The device is opened where it is mounted, as the kernel wants it, and fetched from there.
    let script = "exec 7<>/dev/fuse && mount -i -t fuse -o \
                  fd=7,rootmode=40755,user_id=0,group_id=0 none \"$1/m\" || exit 99; \
                  echo mounted; read go <\"$1/go\"; exec 7>&-; cd \"$1/m\"; shift; exec \"$@\"";
    std::fs::create_dir(dir.join("m")).unwrap();
    let go = dir.join("go");
    rustix::fs::mkfifoat(rustix::fs::CWD, &go, 0o600.into()).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", script, "sh"]).arg(dir);
    command.arg(env!("CARGO_BIN_EXE_ringwire")).args(RECV);
    command.args(["--listen", "127.0.0.1:0"]).args(args).env("LC_ALL", "C");
    let mut program = Program::start(command);
    let mounted = until("the mount, or none", || {
        let said = program.said();
        (said.contains("mounted") || program.has_ended()).then(|| said.contains("mounted"))
    });
    if !mounted {
        return None;
    }
    let pid = Pid::from_raw(program.pid() as i32).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let device = rustix::process::pidfd_getfd(pidfd, 7, PidfdGetfdFlags::empty()).unwrap();
    std::thread::spawn(move || {
        Server { lacks, files: BTreeMap::new(), made: 1 }.serve(device.into())
    });
    std::fs::write(go, "go\n").unwrap();
    Some(program)
}

struct Server {
    lacks: Lacks,
    /// By name: number and length.
    files: BTreeMap<String, (u64, u64)>,
    /// The newest number; the directory's is 1.
    made: u64,
}

impl Server {
    /// Answers until it is unmounted.
    fn serve(mut self, mut device: File) {
        let mut request = vec![0; 2 << 20];
        while let Ok(bytes) = device.read(&mut request) {
            let (head, body) = request[..bytes].split_at(40);
            let (operation, unique) = (u32_at(head, 4), u64_at(head, 8));
            // FORGET, INTERRUPT and BATCH_FORGET want no answer.
            if matches!(operation, 2 | 36 | 42) {
                continue;
            }
            let answer = self.answer(operation, u64_at(head, 16), body);
            let (error, body) = match answer {
                Ok(body) => (0, body),
                Err(errno) => (-errno, Vec::new()),
            };
            let length = 16 + body.len() as u32;
            let head = [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &unique.to_ne_bytes()];
            // One that has been given up meanwhile is answered to nobody.
            let _ = device.write(&[&head.concat()[..], &body].concat());
        }
    }

    fn answer(&mut self, operation: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        match operation {
            // LOOKUP
            1 => self.entry(&name(body)),
            // GETATTR, SETATTR
            3 | 4 => Ok([&[0; 16][..], &self.attributes(node)].concat()),
            // UNLINK
            10 => self.files.remove(&name(body)).map(|_| Vec::new()).ok_or(ENOENT),
            // RENAME, which replaces.
            12 => {
                let mut names = body[8..].split(|&byte| byte == 0);
                let mut next = || String::from_utf8(names.next().unwrap().to_vec()).unwrap();
                let (from, to) = (next(), next());
                self.may_be_named(&to)?;
                let file = self.files.remove(&from).ok_or(ENOENT)?;
                self.files.insert(to, file);
                Ok(Vec::new())
            }
            // LINK
            13 => {
                let to = name(&body[8..]);
                let file = self.files.values().find(|file| file.0 == u64_at(body, 0)).copied();
                match (self.lacks.links, self.files.contains_key(&to)) {
                    (true, _) => return Err(EPERM),
                    (_, true) => return Err(EEXIST),
                    _ => {}
                }
                self.may_be_named(&to)?;
                self.files.insert(to.clone(), file.ok_or(ENOENT)?);
                self.entry(&to)
            }
            // OPEN, OPENDIR
            14 | 27 => Ok(vec![0; 16]),
            // WRITE
            16 => {
                let end = u64_at(body, 8) + u64::from(u32_at(body, 16));
                if let Some(errno) = self.lacks.write {
                    return Err(errno);
                }
                for file in self.files.values_mut().filter(|file| file.0 == node) {
                    file.1 = file.1.max(end);
                }
                Ok([body[16..20].to_vec(), vec![0; 4]].concat())
            }
            // STATFS
            17 => {
                let blocks = self.lacks.free_bytes / 4096;
                let numbers = [blocks, blocks, blocks, 1000, 1000].map(u64::to_ne_bytes);
                let sizes = [4096, 255, 4096, 0].map(u32::to_ne_bytes);
                Ok([numbers.concat(), sizes.concat(), vec![0; 24]].concat())
            }
            // RELEASE, FSYNC, FLUSH, RELEASEDIR
            18 | 20 | 25 | 29 => Ok(Vec::new()),
            // INIT: protocol 7.31, and the largest write.
            26 => {
                let mut answer =
                    [[7, 31, 0, 0].map(u32::to_ne_bytes).concat(), vec![0; 48]].concat();
                answer[20..24].copy_from_slice(&(1_u32 << 20).to_ne_bytes());
                Ok(answer)
            }
            // READDIR
            28 => Ok(self.list(u64_at(body, 8))),
            // CREATE
            35 => {
                let name = name(&body[16..]);
                self.may_be_named(&name)?;
                if let Some(errno) = self.lacks.create {
                    return Err(errno);
                }
                self.made += 1;
                self.files.insert(name.clone(), (self.made, 0));
                Ok([self.entry(&name)?, vec![0; 16]].concat())
            }
            _ => Err(ENOSYS),
        }
    }

    fn may_be_named(&self, name: &str) -> Result<(), i32> {
        match name.contains(|c| self.lacks.characters.contains(c)) {
            true => Err(EINVAL),
            false if name.len() > self.lacks.name_bytes_max => Err(ENAMETOOLONG),
            false => Ok(()),
        }
    }

    fn entry(&self, name: &str) -> Result<Vec<u8>, i32> {
        let (number, _) = *self.files.get(name).ok_or(ENOENT)?;
        Ok([&number.to_ne_bytes()[..], &[0; 32], &self.attributes(number)].concat())
    }

    fn attributes(&self, number: u64) -> Vec<u8> {
        let links = self.files.values().filter(|file| file.0 == number && !self.lacks.counts);
        let links = links.count() as u32;
        let length = self.files.values().find(|file| file.0 == number).map_or(0, |file| file.1);
        let mode = if number == 1 { 0o040_755 } else { 0o100_644 };
        let long = [number, length, length.div_ceil(512), 0, 0, 0].map(u64::to_ne_bytes);
        let short = [0, 0, 0, mode, links, 0, 0, 0, 4096, 0].map(u32::to_ne_bytes);
        [long.concat(), short.concat()].concat()
    }

    /// From entry number `from` on, all that there is: few, with short names.
    fn list(&self, from: u64) -> Vec<u8> {
        let mut list = Vec::new();
        for (at, (name, (number, _))) in self.files.iter().enumerate().skip(from as usize) {
            list.extend(number.to_ne_bytes());
            list.extend((at as u64 + 1).to_ne_bytes());
            list.extend((name.len() as u32).to_ne_bytes());
            list.extend(8_u32.to_ne_bytes());
            list.extend(name.as_bytes());
            list.resize(list.len().next_multiple_of(8), 0);
        }
        list
    }
}

fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap();
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}
