//! What the kernel offers of what the driver uses, asked before the first shard starts.
//!
//! Linux 6.1 is the oldest kernel that has all that is required. What came later is replaced where it is missing.

use std::fmt;
use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::buffers::BufferRing;
use super::ring;
use crate::runtime::StartError;

/// One thing that the driver asks of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name in the kernel's headers.
    pub name: &'static str,
    /// Whether the kernel has it.
    pub present: bool,
    /// What is done without it; `None` if the driver does not start then.
    pub replacement: Option<&'static str>,
}

/// What the kernel offers. Displayed as one line for the log.
#[derive(Debug, Clone)]
pub struct Features {
    /// Release of the running kernel, as `uname -r`.
    pub kernel_release: String,
    /// Each thing the driver asks for.
    pub features: Vec<Feature>,
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {}, io_uring", self.kernel_release)?;
        for Feature { name, replacement, .. } in self.features.iter().filter(|feature| !feature.present) {
            write!(f, ", without {name} ({})", replacement.unwrap_or("required"))?;
        }
        Ok(())
    }
}

/// What a shard needs to know of the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    pub(super) ftruncate: bool,
    pub(super) zero_copy: bool,
}

impl Features {
    pub(crate) fn kernel(&self) -> Kernel {
        Kernel { ftruncate: self.has(FTRUNCATE), zero_copy: self.has(SENDMSG_ZC) }
    }

    fn has(&self, name: &str) -> bool {
        self.features.iter().any(|feature| feature.present && feature.name == name)
    }
}

const FTRUNCATE: &str = "IORING_OP_FTRUNCATE";
// IORING_OP_SEND_ZC is older.
const SENDMSG_ZC: &str = "IORING_OP_SENDMSG_ZC";

const OPERATIONS: [(&str, u8); 18] = [
    ("IORING_OP_READ", opcode::Read::CODE),
    ("IORING_OP_WRITE", opcode::Write::CODE),
    ("IORING_OP_WRITEV", opcode::Writev::CODE),
    ("IORING_OP_FSYNC", opcode::Fsync::CODE),
    ("IORING_OP_FALLOCATE", opcode::Fallocate::CODE),
    ("IORING_OP_OPENAT", opcode::OpenAt::CODE),
    ("IORING_OP_STATX", opcode::Statx::CODE),
    ("IORING_OP_RENAMEAT", opcode::RenameAt::CODE),
    ("IORING_OP_UNLINKAT", opcode::UnlinkAt::CODE),
    ("IORING_OP_MKDIRAT", opcode::MkDirAt::CODE),
    ("IORING_OP_ACCEPT", opcode::AcceptMulti::CODE),
    ("IORING_OP_CONNECT", opcode::Connect::CODE),
    ("IORING_OP_RECV", opcode::RecvMulti::CODE),
    ("IORING_OP_SEND", opcode::Send::CODE),
    ("IORING_OP_SENDMSG", opcode::SendMsg::CODE),
    ("IORING_OP_SPLICE", opcode::Splice::CODE),
    ("IORING_OP_POLL_ADD", opcode::PollAdd::CODE),
    ("IORING_OP_ASYNC_CANCEL", opcode::AsyncCancel::CODE),
];

/// Asks the kernel what it offers.
///
/// # Errors
/// [`StartError::UringUnavailable`] if something is missing that cannot be replaced.
pub fn probe() -> Result<Features, StartError> {
    let kernel_release = kernel_release();
    let refused = |what, error| refused(&kernel_release, what, &error);
    // One ring for everything: the memory of a closed one is still counted for a while.
    let buffers = BufferRing::new(1, 1);
    let uring = ring::create(1).map_err(|error| refused("io_uring_setup", error))?;
    let mut operations = Probe::new();
    let probed = uring.submitter().register_probe(&mut operations);
    probed.map_err(|error| refused("IORING_REGISTER_PROBE", error))?;
    // SAFETY: `uring` is dropped before `buffers`, being the later local, and nothing is submitted to it.
    let registered = unsafe { buffers.register(&uring.submitter()) };
    registered.map_err(|error| refused("IORING_REGISTER_PBUF_RING", error))?;
    let features = list(&uring, &operations);
    match features.iter().find(|feature| !feature.present && feature.replacement.is_none()) {
        Some(missing) => {
            let reason = format!("Linux {kernel_release} has no {}", missing.name);
            Err(StartError::UringUnavailable { reason })
        }
        None => Ok(Features { kernel_release, features }),
    }
}

fn list(uring: &IoUring, operations: &Probe) -> Vec<Feature> {
    let required = |name, present| Feature { name, present, replacement: None };
    let replaced = |name, present, by| Feature { name, present, replacement: Some(by) };
    let parameters = uring.params();
    // A ring that was made has these flags, and multishot accept and receive are older than the newest of them.
    let mut features = vec![
        required("IORING_SETUP_SINGLE_ISSUER", true),
        required("IORING_SETUP_DEFER_TASKRUN", true),
        required("IORING_REGISTER_PBUF_RING", true),
        required("IORING_FEAT_NODROP", parameters.is_feature_nodrop()),
        required("IORING_FEAT_EXT_ARG", parameters.is_feature_ext_arg()),
    ];
    features.extend(OPERATIONS.map(|(name, code)| required(name, operations.is_supported(code))));
    let ftruncate = operations.is_supported(opcode::Ftruncate::CODE);
    features.push(replaced(FTRUNCATE, ftruncate, "ftruncate(2)"));
    let zero_copy = operations.is_supported(opcode::SendMsgZc::CODE);
    features.push(replaced(SENDMSG_ZC, zero_copy, "sends copy"));
    let no_iowait = parameters.is_feature_no_iowait();
    features.push(replaced("IORING_FEAT_NO_IOWAIT", no_iowait, "idle shards count as waiting for I/O"));
    features
}

/// Tells what a refusal means: the message of [`StartError::UringUnavailable`] goes on to say what to do.
fn refused(kernel_release: &str, what: &str, error: &io::Error) -> StartError {
    let reason = match error.raw_os_error() {
        Some(libc::ENOSYS) => format!("{what}: Linux {kernel_release} or a sandbox has no io_uring"),
        Some(libc::EPERM | libc::EACCES) => format!("{what}: a setting or a sandbox forbids it, {error}"),
        Some(libc::EINVAL) => format!("{what}: Linux {kernel_release} does not know what is asked, {error}"),
        Some(_) => return StartError::System(io::Error::new(error.kind(), format!("{what}: {error}"))),
        None => return StartError::System(io::Error::new(error.kind(), error.to_string())),
    };
    StartError::UringUnavailable { reason }
}

fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "of an unknown release".to_owned(), |release| release.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_by_a_sandbox_says_what_to_do() {
        for errno in [libc::EPERM, libc::ENOSYS, libc::EINVAL] {
            let error = refused("5.10.0", "io_uring_setup", &io::Error::from_raw_os_error(errno)).to_string();
            assert!(error.contains("io_uring_setup") && error.contains("Linux 6.1"), "{error}");
            assert!(error.contains("kernel.io_uring_disabled=0"), "{error}");
        }
    }

    #[test]
    fn refusal_for_want_of_a_resource_is_not_blamed_on_the_kernel() {
        let error = refused("6.1.0", "io_uring_setup", &io::Error::from_raw_os_error(libc::EMFILE));
        assert!(matches!(error, StartError::System(_)), "{error}");
    }

    #[test]
    fn probe_of_this_kernel_names_what_it_lacks() {
        let features = probe().expect("the tests need io_uring");
        assert!(features.has("IORING_SETUP_DEFER_TASKRUN"));
        let line = features.to_string();
        for feature in &features.features {
            assert_eq!(line.contains(feature.name), !feature.present, "{line}");
        }
    }
}
