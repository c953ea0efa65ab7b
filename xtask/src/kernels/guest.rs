//! What a guest is made of: its file system, and its first process.

use std::collections::BTreeSet;
use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use super::console;
use super::image::Image;
use super::modules::Module;
use super::steps::Step;
use crate::error::{Error, Result};
use crate::workspace::workspace;

/// Programs of the host's that tests run, or scripts; what is missing here, tests say.
const PROGRAMS: [&str; 11] = [
    "strace", "ip", "tc", "nsenter", "unshare", "setpriv", "prlimit", "ldd", "env", "nohup",
    "getent",
];
/// Where they may be.
const PATH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The first process of a guest. It alone writes to the second serial line; see `frames.rs`. `MARK`
/// is that of `console.rs`.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root USER=root TERM=dumb LANG=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
exec 3<>/dev/ttyS1
stty raw -echo <&3
echo hello $(uname -r) >&3
for module in /modules/*.ko; do
    why=$(insmod $module 2>&1) || echo lacks ${module##*/}: $why >&3
done
ip link set lo up
export INSTA_UPDATE=no RINGWIRE_SKIPS=/out/skips
now() { read up rest </proc/uptime; echo ${up%.*}${up#*.}; }
for step in $(ls /steps | sort -n); do
    echo "<3>MARK$step" >/dev/kmsg
    echo start $step >&3
    rm -rf /out
    mkdir -m 777 /out
    : >/out/skips
    chmod 666 /out/skips
    read limit </limits/$step
    began=$(now)
    cd /
    # Its own session, so that it cannot reach this process by a signal to its group.
    timeout -s KILL $limit setsid sh /steps/$step </dev/null >/out/all 2>&1 3>&-
    status=$?
    took=$(($(now) - began))
    # What it left behind.
    kill -9 -1
    tail -c 8388608 /out/all >/out/log
    log=$(stat -c %s /out/log)
    skips=$(stat -c %s /out/skips)
    echo end $step $status $took $log $skips >&3
    # So many bytes, whatever still writes.
    { head -c $log /out/log; head -c $skips /out/skips; } >&3
done
echo bye >&3
poweroff -f
"#;

/// The parts of a guest's file system that are the same on every kernel.
pub(super) fn image(busybox: &Path, ringwire: &Path, steps: &[Step]) -> Result<Image> {
    let mut image = Image::default();
    for dir in ["/proc", "/sys", "/dev", "/root", "/run", "/sbin", "/var/lib"] {
        image.dir(dir, 0o755);
    }
    for dir in ["/tmp", "/var/tmp"] {
        image.dir(dir, 0o1777);
    }
    image.text("/etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n");
    // Tests lay their own over these.
    image.text("/etc/nsswitch.conf", 0o644, "hosts: files dns\n");
    image.text("/etc/resolv.conf", 0o644, "");
    image.text("/etc/host.conf", 0o644, "multi on\n");
    image.text("/etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n");
    image.text("/etc/group", 0o644, "root:x:0:\n");
    image.file("/bin/busybox", busybox)?;
    image.link("/bin/sh", "busybox");
    image.text("/init", 0o755, INIT.replace("MARK", console::MARK));
    for program in PROGRAMS {
        if let Some(path) = on_path(program) {
            image.program(&path)?;
        }
    }
    image.program(ringwire)?;
    let programs: BTreeSet<&PathBuf> = steps.iter().flat_map(|step| &step.programs).collect();
    for program in programs {
        image.program(program)?;
    }
    // What tests compare with, beside their sources; and where they make files.
    for package in ["ringwire-cli/tests/program/snapshots", "ringwire-doctor/tests"] {
        image.tree(&workspace().join("crates").join(package))?;
    }
    image.file(workspace().join("Cargo.toml"), &workspace().join("Cargo.toml"))?;
    if let Some(target) = ringwire.ancestors().nth(2) {
        image.dir(target.join("tmp"), 0o1777);
    }
    for (number, step) in steps.iter().enumerate() {
        image.text(format!("/steps/{number}"), 0o644, step.script.as_str());
        image.text(format!("/limits/{number}"), 0o644, format!("{}\n", step.limit.as_secs()));
    }
    Ok(image)
}

/// Writes the archives that a kernel unpacks: what all have, and its own modules behind it.
pub(super) fn write(image: &Image, modules: &[Module], to: &Path) -> Result<()> {
    let mut own = Image::default();
    for (number, module) in modules.iter().enumerate() {
        let path = format!("/modules/{number:02}-{}.ko", module.name);
        own.text(path, 0o644, module.bytes.as_slice());
    }
    let doing = || format!("write {}", to.display());
    let mut file = BufWriter::new(fs::File::create(to).map_err(Error::from(doing()))?);
    image.write(&mut file).map_err(Error::from(doing()))?;
    own.write(&mut file).map_err(Error::from(doing()))
}

/// Where a program of the host's is.
fn on_path(program: &str) -> Option<PathBuf> {
    PATH.iter().map(|dir| Path::new(dir).join(program)).find(|path| path.is_file())
}
