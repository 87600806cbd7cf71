//! How much memory this process has had resident at most, as the kernel counts it. Mapped pages of log segments count
//! too.

/// Sets the peak back to what is resident now. Where the kernel does not allow that, the peak stays that of the whole run.
pub fn reset_peak() {
    // 5: "reset the peak resident set size" (proc(5), /proc/pid/clear_refs).
    let _not_allowed = std::fs::write("/proc/self/clear_refs", "5");
}

/// The peak in bytes, `VmHWM` of `/proc/self/status`; `None` where there is no such file.
pub fn peak_bytes() -> Option<u64> {
    parse(
        &std::fs::read_to_string("/proc/self/status").ok()?,
        "VmHWM:",
    )
}

/// What is resident now, in bytes: all of it, and the part that is not pages of files.
pub fn resident_bytes() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some((parse(&status, "VmRSS:")?, parse(&status, "RssAnon:")?))
}

fn parse(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_read_from_its_line() {
        let status = "Name:\tfigures\nVmPeak:\t    2048 kB\nVmHWM:\t    1024 kB\nThreads:\t1\n";
        assert_eq!(parse(status, "VmHWM:"), Some(1 << 20));
        assert_eq!(parse("VmPeak:\t 2048 kB\n", "VmHWM:"), None);
    }
}
