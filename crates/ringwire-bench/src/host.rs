//! Finds out what a measurement is made on; the header that it goes into is `report/host.rs`.

use std::fs;

use crate::net::Net;
use crate::plan::Plan;
use crate::report::host::Host;

/// The header for measurements of `plan` over `net`.
pub fn over(plan: &Plan, net: &Net) -> Host {
    let mut host = without_wire(plan);
    on(&mut host, net);
    host
}

/// The header for measurements of `plan`, as long as there is no wire.
pub fn without_wire(plan: &Plan) -> Host {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Host {
        kernel: read("/proc/sys/kernel/osrelease"),
        cpu: processor(&cpuinfo),
        cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count() as u32,
        device: "none".into(),
        mtu: 0,
        memory: "best of 4 KiB pages and huge pages; what is registered, on 4 KiB pages".into(),
        send_buffer: "best of the kernel's own and 64 MiB".into(),
        ack_us: plan.wire.ack_us,
        working_set_bytes: plan.working_set_bytes,
        commit: option_env!("RINGWIRE_COMMIT").unwrap_or("unknown").into(),
        disturbed_share: 0.0,
        notes: Vec::new(),
    }
}

/// Takes down the wire; the first one names the device.
pub fn on(host: &mut Host, net: &Net) {
    if host.mtu == 0 {
        (host.device, host.mtu) = net.device();
        host.send_buffer =
            format!("best of the kernel's own ({}) and 64 MiB", net.own_send_buffers());
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".into(), |text| text.trim().into())
}

/// The first processor's name in the text of /proc/cpuinfo.
fn processor(cpuinfo: &str) -> String {
    let name = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_string())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.into())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_processor_has_a_name() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t: a\n\nmodel name\t: other\n";
        assert_eq!(super::processor(text), "AMD EPYC");
        assert_eq!(super::processor(""), std::env::consts::ARCH);
    }
}
