//! The machine under the processes: a network namespace for each, and a small file system for one.
//!
//! Everything that is made here is taken down when it is dropped.

use std::path::{Path, PathBuf};
use std::process::Command;

/// How large the file system is that is filled up.
const DISK_MIB: u64 = 192;

/// Three namespaces, joined by a bridge in a fourth.
pub(crate) struct Network {
    prefix: String,
    hosts: u64,
}

impl Network {
    /// `Err`: why there are no namespaces to be had.
    pub(crate) fn make(hosts: u64) -> Result<Self, String> {
        let network = Self {
            prefix: format!("qs{}", std::process::id()),
            hosts,
        };
        let hub = network.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        for host in 1..=hosts {
            let (name, port) = (network.host(host), format!("port{host}"));
            ip(&["netns", "add", &name])?;
            ip(&[
                "-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
                &name,
            ])?;
            ip(&["-n", &hub, "link", "set", &port, "master", "bridge"])?;
            ip(&["-n", &hub, "link", "set", &port, "up"])?;
            let address = format!("{}/24", address(host));
            ip(&["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
        }
        Ok(network)
    }

    /// The namespace of a node.
    pub(crate) fn host(&self, node: u64) -> String {
        format!("{}n{node}", self.prefix)
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    /// Takes a node off the network, or puts it back.
    pub(crate) fn connect(&self, node: u64, is_connected: bool) -> Result<(), String> {
        let (hub, port) = (self.hub(), format!("port{node}"));
        let state = if is_connected { "up" } else { "down" };
        ip(&["-n", &hub, "link", "set", &port, state])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 1..=self.hosts {
            let _absent = ip(&["netns", "del", &self.host(host)]);
        }
        let _absent = ip(&["netns", "del", &self.hub()]);
    }
}

/// The address of a node in its namespace.
pub(crate) fn address(node: u64) -> String {
    format!("10.77.0.{node}")
}

/// A small file system in a file.
pub(crate) struct SmallDisk {
    pub(crate) mounted_at: PathBuf,
}

impl SmallDisk {
    /// `Err`: why there is none to be had.
    pub(crate) fn make(dir: &Path) -> Result<Self, String> {
        let (image, mounted_at) = (dir.join("disk.img"), dir.join("small"));
        let failed = |error: std::io::Error| error.to_string();
        let file = std::fs::File::create(&image).map_err(failed)?;
        file.set_len(DISK_MIB << 20).map_err(failed)?;
        std::fs::create_dir_all(&mounted_at).map_err(failed)?;
        run("mkfs.ext4", &["-q", "-m", "0", &text(&image)])?;
        run("mount", &["-o", "loop", &text(&image), &text(&mounted_at)])?;
        Ok(Self { mounted_at })
    }

    /// Takes all free space, or gives it back.
    pub(crate) fn fill(&self, is_full: bool) -> Result<(), String> {
        let ballast = self.mounted_at.join("ballast");
        if !is_full {
            return std::fs::remove_file(ballast).map_err(|error| error.to_string());
        }
        let mut file = std::fs::File::create(ballast).map_err(|error| error.to_string())?;
        // Smaller and smaller pieces, until not one block is left.
        for piece_bytes in [1 << 20, 64 << 10, 4 << 10] {
            let piece = vec![1; piece_bytes];
            while std::io::Write::write_all(&mut file, &piece).is_ok() {}
        }
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _not_mounted = run("umount", &["-l", &text(&self.mounted_at)]);
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    run("ip", arguments)
}

/// Runs a tool of the system to its end.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(tool)
        .args(arguments)
        .output()
        .map_err(|error| format!("{tool}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{tool} {}: {words}", arguments.join(" ")))
}
